"""This file tests plans: workspaces by hand, graphs as engines plan them, and what engines say of their own."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dwindle.artifact import Artifact
from dwindle.bench.budget import Budget, Verdict
from dwindle.bench.live_tensors import graph_of, memory_of_graph
from dwindle.bench.measurement import ARENA, Subject
from dwindle.bench.planner import EXECUTORCH_CORTEX_M, LITERT, LITERT_REFERENCE, MICROCONTROLLER, Planner
from dwindle.bench.probes.planned_memory import Planned, litert_span, measure_planned_memory, plan_of, planned_bytes
from dwindle.bench.probes.size import file_at
from dwindle.bench.verdicts import judge_files
from dwindle.bench.workspace import Kernel, cmsis_nn, im2col, none
from dwindle.errors import MeasurementError

PLANNERS = [MICROCONTROLLER, LITERT, LITERT_REFERENCE, EXECUTORCH_CORTEX_M]
SUBJECT = Subject(artifact="0" * 64, runtime="engine", machine="any")


def conv(channels: int, window: int, *, stride: int = 1, groups: int = 1, places: int = 81) -> Kernel:
    return Kernel(
        op="Conv", channels=channels, places=places, window=(window,) * 2, steps=(stride, stride, 1, 1), groups=groups
    )


@pytest.mark.parametrize(
    ("kernel", "rows", "all_rows"),
    [  # the first column as CMSIS-NN's own functions answer for a core with the DSP extension
        (conv(3, 7, stride=2, places=289), 592, 289 * 147),
        (conv(64, 3), 2304, 81 * 576),
        (conv(64, 1), 0, 0),
        (conv(64, 1, stride=2), 0, 81 * 64),
        (conv(5, 3), 192, 81 * 45),
        (conv(32, 3, groups=32), 0, 0),
        (conv(32, 5, groups=32), 1600, 0),
        (Kernel(op="GlobalAveragePool", channels=100, places=1), 400, 0),
        (Kernel(op="Gemm", channels=256, places=1), 0, 0),
    ],
)
def test_workspaces_are_those_of_the_engines(kernel: Kernel, rows: int, all_rows: int) -> None:
    assert (cmsis_nn(kernel), im2col(kernel), none(kernel)) == (rows, all_rows, 0)


def test_kernels_for_floats_take_floats() -> None:
    floats = Kernel(op="Conv", channels=4, places=9, window=(3, 3), element_bytes=4.0)
    assert im2col(floats) == 4 * 9 * 36
    assert cmsis_nn(floats) == 0


@pytest.mark.parametrize("op", ["ConvInteger", "QLinearConv"])
def test_the_window_of_a_convolution_of_codes_is_that_of_its_weight(op: str) -> None:
    weights = {
        "w": np.ones((8, 4, 3, 3), np.int8), "s": np.float32(0.1), "z": np.int8(0), "u": np.uint8(0)
    }  # fmt: skip
    inputs = ["c", "w"] if op == "ConvInteger" else ["c", "s", "u", "w", "s", "z", "s", "u"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "u"], ["c"]),
        helper.make_node(op, inputs, ["r"]),
        helper.make_node("Cast", ["r"], ["y"], to=TensorProto.FLOAT),
    ]
    kernel = graph_of(float_model(nodes, weights, [1, 4, 10, 10])).nodes[1].kernel
    assert kernel is not None
    assert (kernel.row, cmsis_nn(kernel), im2col(kernel)) == (36, 144, 64 * 36)


def float_model(
    nodes: Sequence[onnx.NodeProto], weights: dict[str, np.ndarray], shape: Sequence[int]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def quantized_net() -> onnx.ModelProto:
    """Return x -> conv (stride 2, zeros on both sides) -> conv -> + residual, all with quantizers around."""
    weights = {
        "w": np.ones((8, 3, 3, 3), np.int8), "v": np.ones((8, 8, 3, 3), np.int8), "s": np.float32(0.1), "z": np.int8(0)
    }  # fmt: skip
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"]),
        helper.make_node("DequantizeLinear", ["v", "s", "z"], ["vd"]),
    ]

    def rounded(source: str, result: str) -> None:
        nodes.append(helper.make_node("QuantizeLinear", [source, "s", "z"], [f"{result}/q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{result}/q", "s", "z"], [result]))

    rounded("x", "xd")
    nodes.append(helper.make_node("Conv", ["xd", "wd"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]))
    rounded("a", "ad")
    nodes.append(helper.make_node("Conv", ["ad", "vd"], ["b"], pads=[1, 1, 1, 1]))
    rounded("b", "bd")
    nodes.append(helper.make_node("Add", ["bd", "ad"], ["c"]))
    rounded("c", "y")
    return float_model(nodes, weights, [1, 3, 16, 16])


def test_a_plan_holds_workspaces_padded_inputs_and_what_the_engine_keeps() -> None:
    def blocks(planner: Planner | None) -> dict[str, tuple[int, int, int]]:
        return {b.name: (b.n_bytes, b.birth, b.death) for b in graph_of(quantized_net()).blocks(planner)}

    plain, litert = blocks(None), blocks(LITERT)
    assert plain["x"][0] == 4 * 768  # floats, gone once they are quantized
    assert litert["x"][0] == 768  # codes, kept to the end
    assert litert["x"][2] > plain["x"][2]
    # 16 x 16 with stride 2 needs one row of zeros behind, the file has one on both sides: LiteRT writes 18 x 18.
    assert litert["input of Conv 2"][0] == 3 * 18 * 18
    assert litert["Conv 2"][0] == 64 * 27
    assert litert["Conv 5"][0] == 64 * 72
    assert "input of Conv 5" not in litert
    mcu = blocks(MICROCONTROLLER)
    assert mcu["Conv 5"][0] == 4 * 72
    assert not any(name.startswith("input of") for name in mcu)


def test_a_sum_takes_the_place_of_what_it_adds_where_the_engine_does_so() -> None:
    in_place = Planner(sums_in_place=True)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["a", "v"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("MatMul", ["c", "v"], ["y"]),
    ]
    weights = {"w": np.ones((2, 100), np.float32), "v": np.ones((100, 100), np.float32)}
    apart, together = (memory_of_graph(float_model(nodes, weights, [1, 2]), planner=p) for p in (Planner(), in_place))
    assert (apart.arena_bytes, together.arena_bytes) == (1200, 800)


def test_what_only_moves_values_moves_codes() -> None:
    weights = {
        "s": np.float32(0.1), "z": np.int8(0), "pads": np.array([0, 0, 0, 100]), "axes": np.array([1]),
        "from": np.array([0]), "to": np.array([100]),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Pad", ["d", "pads"], ["p"]),
        helper.make_node("Add", ["p", "p"], ["a"]),
        helper.make_node("QuantizeLinear", ["a", "s", "z"], ["aq"]),
        helper.make_node("DequantizeLinear", ["aq", "s", "z"], ["y"]),
    ]
    blocks = {b.name: b.n_bytes for b in graph_of(float_model(nodes, weights, [1, 100])).blocks()}
    assert blocks["p"] == 200
    assert blocks["a"] == 200


@pytest.mark.parametrize("planner", PLANNERS)
def test_no_plan_is_smaller_than_what_lives_at_once_in_it(planner: Planner) -> None:
    from dwindle.bench.arena import living_bytes

    graph = graph_of(quantized_net())
    blocks = graph.blocks(planner)
    assert living_bytes(blocks) <= graph.arena_bytes(planner) <= sum(b.n_bytes + planner.alignment for b in blocks)


CONV = {"w": np.ones((8, 3, 3, 3), np.float32)}


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize(
    ("node", "shape"),
    [
        (helper.make_node("Conv", ["x", "w"], ["y"], pads=[-1] * 4), [1, 3, 9, 9]),
        (helper.make_node("Conv", ["x", "w"], ["y"], pads=[1 << 40] * 4), [1, 3, 9, 9]),
        (helper.make_node("Conv", ["x", "w"], ["y"], pads="text"), [1, 3, 9, 9]),
        (helper.make_node("Conv", ["x", "w"], ["y"], strides=[0, 0]), [1, 3, 9, 9]),
        (helper.make_node("Conv", ["x", "w"], ["y"], group=0), [1, 3, 9, 9]),
        (helper.make_node("Conv", ["x", "w"], ["y"], group="text"), [1, 3, 9, 9]),
        (helper.make_node("Conv", ["x", "w"], ["y"]), [0, 3, 9, 9]),
        (helper.make_node("Conv", ["x", "w"], ["y"]), [9]),
        (helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3], pads=[1] * 4), [1, 3, 9, 9]),
        (helper.make_node("Relu", ["x"], ["y"]), [1 << 31, 1 << 20]),
        (helper.make_node("MatMul", ["x", "x"], ["y"]), []),
        (helper.make_node("LSTM", ["x", "w", "w"], ["y"], hidden_size=8), [4]),
    ],
)
def test_graphs_that_cannot_be_have_a_plan_or_a_reason(
    node: onnx.NodeProto, shape: list[int], planner: Planner
) -> None:
    found = memory_of_graph(float_model([node], CONV, shape), planner=planner)
    if found.arena_bytes is None or found.activation_bytes is None:
        assert found.unknown
    else:
        assert found.arena_bytes >= found.activation_bytes


def test_formats_without_a_plan_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"anything")
    with pytest.raises(MeasurementError, match=r"only engines of \.tflite and \.pte plan an arena"):
        planned_bytes(file_at(path))


@pytest.mark.skipif(importlib.util.find_spec("executorch") is None, reason="executorch is not installed")
def test_a_program_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pte"
    path.write_bytes(b"anything at all, but not a program of ExecuTorch")
    with pytest.raises(MeasurementError, match="is no ExecuTorch program"):
        planned_bytes(file_at(path))


class Interpreter:
    """Tensors at made-up places of one buffer: an input, two results, a workspace, a constant, and one not there."""

    def __init__(self) -> None:
        self.buffer = np.zeros(1 << 16, np.uint8)
        self.places = {0: (0, 100), 1: (128, 1000), 2: (1152, 50), 3: (1280, 700), 4: (40_000, 64)}

    def _get_ops_details(self) -> list[dict[str, list[int]]]:
        return [{"outputs": [1]}, {"outputs": [2]}, {"outputs": [5]}]

    def get_input_details(self) -> list[dict[str, int]]:
        return [{"index": 0}]

    def get_tensor_details(self) -> list[dict[str, object]]:
        names = {0: "in", 1: "a", 2: "b", 3: "", 4: "constant", 5: "fused"}
        return [{"index": index, "name": name} for index, name in names.items()]

    def tensor(self, index: int) -> object:
        if index not in self.places:
            raise ValueError("not allocated")
        start, size = self.places[index]
        return lambda: self.buffer[start : start + size]


def test_the_span_of_an_arena_holds_workspaces_and_no_constants() -> None:
    assert litert_span(Interpreter()) == 1280 + 700
    apart = Interpreter()
    apart.places[3] = (30_000, 700)  # a buffer that a kernel keeps for itself
    assert litert_span(apart) == 1152 + 50


def test_a_plan_becomes_an_exact_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = Planned(n_bytes=1234, runtime="engine (its own kernels)", kernels="its own")
    monkeypatch.setattr("dwindle.bench.probes.planned_memory.READERS", {"tflite": lambda _: planned})
    artifact = Artifact(path=tmp_path / "m.tflite", format="tflite", sha256="0" * 64, size_bytes=1)
    found = measure_planned_memory(SUBJECT, artifact)
    assert (found.metric, found.value, found.low, found.high) == (ARENA, 1234.0, 1234.0, 1234.0)
    assert found.protocol == "engine's plan"
    assert found.runtime == "engine (its own kernels)"  # and not what ran the file
    assert found.conditions == {"kernels": "its own"}


def test_a_plan_that_leaves_out_a_delegate_breaks_a_bound_but_keeps_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = Planned(n_bytes=1234, runtime="engine", kernels="of the program", is_least=True)
    monkeypatch.setattr("dwindle.bench.probes.planned_memory.READERS", {"pte": lambda _: planned})
    found = measure_planned_memory(
        SUBJECT, Artifact(path=tmp_path / "m.pte", format="pte", sha256="0" * 64, size_bytes=1)
    )
    assert Budget({"arena": 2000.0}).judge([found]) is Verdict.UNDECIDED
    assert Budget({"arena": 1000.0}).judge([found]) is Verdict.VIOLATED
    (judged,) = judge_files(Budget({"arena": 2000.0}), [found])
    assert judged.rulings[0].words() == "undecided: at least 1,234 bytes"


@pytest.mark.skipif(importlib.util.find_spec("executorch") is None, reason="executorch is not installed")
@pytest.mark.parametrize("delegates", [[], ["XnnpackBackend", "XnnpackBackend"]])
def test_a_program_says_whether_a_delegate_takes_more(
    delegates: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = SimpleNamespace(non_const_buffer_sizes=[0, 700], delegates=[SimpleNamespace(id=name) for name in delegates])
    program = SimpleNamespace(program=SimpleNamespace(execution_plan=[plan]))
    monkeypatch.setattr("executorch.exir._serialize._program.deserialize_pte_binary", lambda _: program)
    path = tmp_path / "m.pte"
    path.write_bytes(b"anything")
    found = plan_of(file_at(path))
    assert (found.n_bytes, found.is_least) == (700, bool(delegates))
    assert ("XnnpackBackend" in found.kernels) is bool(delegates)
