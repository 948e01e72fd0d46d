"""This file tests what is estimated from a graph, against memory counted by hand and by brute force."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from dwindle.bench.live_tensors import memory_of_graph
from dwindle.errors import MeasurementError

FLOAT = TensorProto.FLOAT


def model(
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, np.ndarray] | None = None,
    *,
    inputs: dict[str, Sequence[int | str | None]] | None = None,
    outputs: Sequence[str] = ("y",),
) -> onnx.ModelProto:
    """Return a model; the input is x of 1 x 100 floats unless said otherwise."""
    given = inputs or {"x": ["batch", 100]}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in given.items()],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.example", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def floats(*shape: int) -> np.ndarray:
    return np.ones(shape, dtype=np.float32)


def peak(built: onnx.ModelProto) -> int | None:
    return memory_of_graph(built).activation_bytes


def node(op: str, inputs: str, outputs: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def test_a_linear_layer_holds_its_input_and_its_output() -> None:
    found = memory_of_graph(model([node("MatMul", "x w", "y")], {"w": floats(100, 30)}))
    assert found.activation_bytes == 4 * (100 + 30)
    assert found.weight_bytes == 4 * 3_000
    assert not found.unknown


def test_a_tensor_is_gone_after_its_last_reader() -> None:
    weights = {"w": floats(100, 10), "v": floats(10, 200), "u": floats(200, 5)}
    chain = [node("MatMul", "x w", "a"), node("MatMul", "a v", "b"), node("MatMul", "b u", "y")]
    assert peak(model(chain, weights)) == 4 * (10 + 200)
    held = [*chain[:2], node("MatMul", "b u", "c"), node("Concat", "c x", "y", axis=1)]
    assert peak(model(held, weights)) == 4 * (100 + 10 + 200)


def test_activation_functions_take_no_memory_of_their_own_unless_their_input_is_read_again() -> None:
    weights = {"w": floats(100, 50)}
    alone = [node("MatMul", "x w", "a"), node("Relu", "a", "y")]
    assert peak(model(alone, weights)) == 4 * 150
    again = [node("MatMul", "x w", "a"), node("Relu", "a", "b"), node("Add", "a b", "y")]
    assert peak(model(again, weights)) == 4 * 150
    later = [*again[:2], node("Add", "a b", "c"), node("Add", "c a", "y")]
    assert peak(model(later, weights)) == 4 * 150
    assert peak(model([node("Relu", "x", "y")])) == 4 * 200  # the input belongs to the caller


def test_a_view_does_not_let_what_it_shows_be_overwritten() -> None:
    shape = {"s": np.array([1, 10, 10], dtype=np.int64), "t": np.array([1, 100], dtype=np.int64), "w": floats(100, 100)}
    nodes = [
        node("MatMul", "x w", "a"),
        node("Reshape", "a s", "b"),
        node("Relu", "b", "c"),
        node("Reshape", "c t", "d"),
        node("Add", "a d", "y"),
    ]
    assert peak(model(nodes, shape)) == 4 * 300  # a (with its view b), c (with d), y


def test_shapes_that_are_computed_from_the_batch_are_known() -> None:
    weights = {"axes": np.array([0], dtype=np.int64), "rest": np.array([100], dtype=np.int64), "w": floats(100, 3)}
    nodes = [
        node("Shape", "x", "s", start=0, end=1),
        node("Squeeze", "s axes", "n"),
        node("Unsqueeze", "n axes", "m"),
        node("Concat", "m rest", "shape", axis=0),
        node("Reshape", "x shape", "flat"),
        node("MatMul", "flat w", "y"),
    ]
    found = memory_of_graph(model(nodes, weights, inputs={"x": ["batch", 4, 25]}))
    assert found.activation_bytes == 4 * 103


def test_every_input_gets_one_example_and_a_fixed_batch_stays() -> None:
    both = {"a": ["n", 5], "b": ["n", 7]}
    assert peak(model([node("Concat", "a b", "y", axis=1)], inputs=both)) == 4 * 24
    assert peak(model([node("Exp", "x", "y")], inputs={"x": [8, 10]})) == 4 * 160
    assert peak(model([node("Exp", "x", "y")], inputs={"x": [None, 10]})) == 4 * 20


def quantized(name: str, source: str) -> list[onnx.NodeProto]:
    return [
        node("QuantizeLinear", f"{source} s z", f"{name}/q"),
        node("DequantizeLinear", f"{name}/q s z", name),
    ]


QUANTIZER = {"s": np.float32(0.1), "z": np.int8(0)}


def test_between_quantizers_tensors_count_as_integers() -> None:
    weights = {
        **QUANTIZER,
        "w/q": np.ones((100, 50), dtype=np.int8),
        "v/q": np.ones((50, 40), dtype=np.int8),
    }
    nodes = [
        *quantized("xq", "x"),
        node("DequantizeLinear", "w/q s z", "w"),
        node("MatMul", "xq w", "a"),
        node("Relu", "a", "b"),
        *quantized("bq", "b"),
        node("DequantizeLinear", "v/q s z", "v"),
        node("MatMul", "bq v", "c"),
        *quantized("y", "c"),
    ]
    found = memory_of_graph(model(nodes, weights))
    assert found.activation_bytes == 400 + 100  # while the float input becomes codes: the rest is smaller
    assert found.weight_bytes == 5_000 + 2_000 + 4 + 1
    floating = [node("MatMul", "x w", "a"), node("Relu", "a", "b"), node("MatMul", "b v", "y")]
    assert peak(model(floating, {"w": floats(100, 50), "v": floats(50, 40)})) == 4 * 150


def test_a_float_operation_between_quantizers_that_reads_floats_counts_as_floats() -> None:
    weights = {**QUANTIZER, "w": floats(100, 50)}
    nodes = [node("MatMul", "x w", "a"), *quantized("y", "a")]
    assert peak(model(nodes, weights)) == 4 * 150  # x is float, so the MatMul is
    nodes = [*quantized("xq", "x"), node("MatMul", "xq w", "y")]
    assert peak(model(nodes, weights)) == 400 + 200  # y is float, so the MatMul is, and the codes are gone by then


def test_a_view_of_codes_is_no_float() -> None:
    weights = {**QUANTIZER, "shape": np.array([1, 100], dtype=np.int64), "w": floats(100, 50), "v": floats(100, 900)}
    views = [*quantized("xq", "x"), node("Reshape", "xq shape", "a"), node("Flatten", "a", "b")]
    integer = [*views, node("MatMul", "b w", "c"), *quantized("y", "c")]
    assert peak(model(integer, weights)) == 400 + 100
    both = [
        *integer[:-1],
        node("DequantizeLinear", "y/q s z", "d"),
        node("MatMul", "b v", "e"),
        node("Concat", "d e", "y", axis=1),
    ]
    assert peak(model(both, weights)) == 4 * (50 + 900 + 950)
    floating = [*views, node("MatMul", "b v", "y")]
    assert peak(model(floating, weights)) == 4 * (100 + 900)


def test_a_recurrent_layer_holds_its_outputs() -> None:
    weights = {"w": floats(1, 32, 6), "r": floats(1, 32, 8)}
    nodes = [node("LSTM", "x w r", "all y c", hidden_size=8)]
    found = memory_of_graph(model(nodes, weights, inputs={"x": [50, "batch", 6]}))
    assert found.activation_bytes is None  # the batch is not the first axis, and no size is made up
    assert found.weight_bytes == 4 * 32 * 14
    fixed = memory_of_graph(model(nodes, weights, inputs={"x": [50, 1, 6]}))
    assert fixed.activation_bytes == 4 * (50 * 6 + 50 * 8 + 8 + 8)


def test_constants_count_as_the_first_node_that_needs_an_example_reads_them() -> None:
    weights = {
        "table": floats(16),
        "indices": np.zeros((100, 30), dtype=np.uint8),
        "unread": floats(1_000_000),
    }
    nodes = [
        node("Cast", "indices", "wide", to=TensorProto.INT32),
        node("Gather", "table wide", "w"),
        node("MatMul", "x w", "y"),
    ]
    assert memory_of_graph(model(nodes, weights)).weight_bytes == 4 * 3_000


def test_four_bit_codes_take_half_a_byte() -> None:
    built = model([node("DequantizeLinear", "q s", "w"), node("MatMul", "x w", "y")], {"s": np.float32(1)})
    packed = TensorProto(name="q", data_type=TensorProto.INT4, dims=[100, 31], raw_data=bytes(1_550))
    built.graph.initializer.append(packed)
    assert memory_of_graph(built).weight_bytes == 1_550 + 4


def test_weights_in_other_files_are_counted_without_being_read() -> None:
    built = model([node("MatMul", "x w", "y")])
    outside = TensorProto(name="w", data_type=FLOAT, dims=[100, 500], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="../../nowhere")
    built.graph.initializer.append(outside)
    found = memory_of_graph(built)
    assert (found.weight_bytes, found.activation_bytes) == (200_000, 4 * 600)


def test_a_graph_that_only_hands_its_input_on() -> None:
    assert peak(model([], outputs=("x",))) == 400
    assert peak(model([node("Identity", "x", "y")])) == 400
    found = memory_of_graph(model([node("Identity", "w", "y")], {"w": floats(7)}))
    assert (found.weight_bytes, found.activation_bytes) == (28, 400)


@pytest.mark.parametrize(
    ("built", "message"),
    [
        (model([node("Exp", "x", "y")], inputs={"x": ["n", "length"]}), "the shape of 'x' does not follow"),
        (model([node("Mystery", "x", "y", domain="com.example")]), "the shape of 'y' does not follow"),
        (model([node("Exp", "z", "y")]), "'Exp' reads 'z', which nothing before it makes"),
        (model([node("Exp", "b", "y"), node("Exp", "x", "b")]), "'Exp' reads 'b', which nothing before it makes"),
        (model([node("NonZero", "x", "i"), node("Cast", "i", "y", to=FLOAT)]), "the shape of 'i' does not follow"),
        (model([node("Exp", "x", "y")], inputs={"x": [1 << 62, 1 << 62]}), "the shape of 'x' does not follow"),
    ],
)
def test_what_does_not_follow_is_unknown_and_says_why(built: onnx.ModelProto, message: str) -> None:
    found = memory_of_graph(built)
    assert found.activation_bytes is None
    assert message in found.unknown


def test_control_flow_and_functions_are_unknown() -> None:
    branch = helper.make_graph([node("Constant", "", "c", value_float=1.0)], "b", [], [])
    conditional = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    assert "'If' holds a graph of its own" in memory_of_graph(model([conditional])).unknown
    built = model([node("Twice", "x", "y", domain="local")])
    built.functions.append(
        helper.make_function("local", "Twice", ["a"], ["b"], [node("Add", "a a", "b")], [helper.make_opsetid("", 21)])
    )
    built.opset_import.append(helper.make_opsetid("local", 1))
    found = memory_of_graph(built)
    assert "'Twice' is a function of the model" in found.unknown
    assert found.weight_bytes is None


def test_an_unknown_shape_leaves_the_weights_known() -> None:
    nodes = [node("MatMul", "x w", "a"), node("Mystery", "a", "y", domain="com.example")]
    found = memory_of_graph(model(nodes, {"w": floats(100, 3)}))
    assert (found.weight_bytes, found.activation_bytes) == (1_200, None)


def test_a_model_without_outputs_is_an_error() -> None:
    with pytest.raises(MeasurementError, match="has no outputs"):
        memory_of_graph(onnx.ModelProto())


def test_a_shape_of_2_to_the_60_returns_at_once() -> None:
    """With data propagation onnx would go through its elements one by one."""
    shape = {"s": np.array([1 << 60], dtype=np.int64), "one": np.array([1], dtype=np.int64)}
    nodes = [
        node("Shape", "x", "n", start=0, end=1),
        node("Reshape", "n s", "m"),
        node("Concat", "m one", "shape", axis=0),
        node("Reshape", "x shape", "y"),
    ]
    assert memory_of_graph(model(nodes, shape)).activation_bytes is None
    assert memory_of_graph(model([node("Expand", "x m", "y")], {"m": np.array([1 << 40, 1 << 40, 1])})).unknown


@st.composite
def programs(draw: st.DrawFn) -> tuple[list[tuple[int, int]], list[int]]:
    """Draw binary operations on earlier values (0 is the input), and which values are outputs beside the last."""
    n_nodes = draw(st.integers(1, 8))
    steps = [(draw(st.integers(0, i)), draw(st.integers(0, i))) for i in range(n_nodes)]
    kept = draw(st.lists(st.integers(1, n_nodes), max_size=2))
    return steps, kept


@given(programs())
def test_the_peak_is_that_of_an_engine_which_frees_what_nobody_reads_again(
    program: tuple[list[tuple[int, int]], list[int]],
) -> None:
    steps, kept = program
    outputs = sorted({len(steps), *kept})
    widths = [1]
    nodes = []
    for i, (a, b) in enumerate(steps, start=1):
        nodes.append(node("Concat", f"v{a} v{b}", f"v{i}", axis=1))
        widths.append(widths[a] + widths[b])
    most, held = 0, {0}
    for i, (a, b) in enumerate(steps, start=1):
        held.add(i)
        most = max(most, sum(widths[value] for value in held))
        later = {value for step in steps[i:] for value in step}
        held = {value for value in held if value in later or value in outputs}
        del a, b
    built = model(nodes, inputs={"v0": ["batch", 1]}, outputs=[f"v{value}" for value in outputs])
    assert peak(built) == 4 * most


@given(st.data())
def test_broken_bytes_are_a_figure_or_an_error_of_ours(data: st.DataObject) -> None:
    weights = {**QUANTIZER, "w": floats(100, 5), "b": floats(5)}
    nodes = [*quantized("xq", "x"), node("Gemm", "xq w b", "a"), node("Relu", "a", "y")]
    raw = bytearray(model(nodes, weights).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        built = onnx.ModelProto.FromString(bytes(raw))
    except DecodeError:  # not a message at all: `file_needs` says so
        return
    try:
        found = memory_of_graph(built)
    except MeasurementError:
        return
    assert found.unknown or found.activation_bytes is not None
