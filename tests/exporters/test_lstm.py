"""This file tests LSTM layers that multiply integers: the nodes in the file, the engine's kernel, the answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn

from dwindle.bench.deployment import deploy
from dwindle.bench.live_tensors import memory_of_graph
from dwindle.bench.measurement import PARITY
from dwindle.container.session import session_options
from dwindle.core.encoding import Dense, Scaled, affine_of, decode
from dwindle.core.granularity import PerChannel, PerTensor
from dwindle.errors import ExportError
from dwindle.exporters.from_file import export_file
from dwindle.exporters.options import ExportOptions
from dwindle.network.activations import CallSite, DynamicQuantizer
from dwindle.network.compressed import CompressedModel
from dwindle.network.select import Select
from dwindle.network.simulate import simulate
from dwindle.runtimes.onnxruntime import OnnxRuntime
from dwindle.technique import Context
from dwindle.techniques.cluster import Cluster
from dwindle.techniques.densify import Densify
from dwindle.techniques.prune_weights import PruneWeights
from dwindle.techniques.quantize_dynamic import QuantizeDynamic
from dwindle.techniques.quantize_weights import QuantizeWeights

BOUND = 1e-6
"""Largest difference, relative to the largest output, while inputs and states fall to the same codes on both sides."""
FLIP_BOUND = 0.01
"""The same over many steps: a state within float rounding of the middle between two codes may fall to either, and takes
the states after it along. Measured on batches of five sequences of 100 steps, two layers, two directions, one thread:
1e-7 in eleven of twelve, 2.4e-3 in one. With two threads, which draw grids of their own: 3e-3 to 7e-3."""
EXAMPLE = torch.zeros(5, 7, 6)


class Net(nn.Module):
    """An LSTM, and a linear layer on its outputs at the last step."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(6, 8, **settings)
        self.head = nn.Linear(8 * (2 if self.lstm.bidirectional else 1), 3)
        for parameter in self.lstm.parameters():  # gates far from their middles
            nn.init.uniform_(parameter, -1.0, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        outputs, _ = self.lstm(x if self.lstm.batch_first else x.transpose(0, 1))
        return self.head(outputs[:, -1] if self.lstm.batch_first else outputs[-1])


class States(nn.Module):
    """One step of an LSTM from given states, which are among its answers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(6, 8, 2, batch_first=True)
        for parameter in self.lstm.parameters():
            nn.init.uniform_(parameter, -1.0, 1.0)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        outputs, (h, c) = self.lstm(x, (h.transpose(0, 1), c.transpose(0, 1)))
        return outputs, h.transpose(0, 1), c.transpose(0, 1)


class Twice(nn.Module):
    """An LSTM that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm, self.head = nn.LSTM(6, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.lstm(x)[0])[0][:, -1])


def _model(network: nn.Module, *steps: object) -> CompressedModel:
    model = CompressedModel.dense(network.eval())
    for step in steps:
        model = step.apply(model, Context(example=EXAMPLE))
    return model


def _windows(n_steps: int = 7, seed: int = 1) -> Tensor:
    return torch.randn(5, n_steps, 6, generator=torch.Generator().manual_seed(seed))


def _differences(model: CompressedModel, folder: Path, x: Tensor, **options: Any) -> dict[str, float]:
    """Return for each format how far the engine's answers are from ours, relative to the largest answer."""
    result = deploy(model, EXAMPLE, folder, options=ExportOptions(**options))
    with torch.no_grad():
        expected = simulate(model, EXAMPLE)(x).numpy()
    found = {}
    for name, artifact in result.artifacts.items():
        with OnnxRuntime().load(artifact) as session:
            (output,) = session.run(x.numpy())
        found[name] = float(np.abs(output - expected).max() / np.abs(expected).max())
    return found


def _kernels(path: Path) -> tuple[Counter[str], onnx.GraphProto]:
    """Return how often each operation stands in the graph that the engine runs, and that graph."""
    options = session_options(1)
    options.optimized_model_filepath = str(path.with_suffix(".optimized.onnx"))
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(options.optimized_model_filepath).graph
    return Counter(node.op_type for node in graph.node), graph


CASES = {
    "plain": ({"batch_first": True}, (QuantizeDynamic(),), 1),
    "two layers, two directions": (
        {"num_layers": 2, "bidirectional": True, "batch_first": True},
        (QuantizeDynamic(granularity=PerTensor()),),
        2,
    ),
    "no bias, time first, pruned and clustered": (
        {"num_layers": 2, "bidirectional": True, "bias": False},
        (PruneWeights(sparsity=0.5), Cluster(codebook_size=8), QuantizeDynamic()),
        2,
    ),
    "zero points": (
        {"bidirectional": True, "batch_first": True},
        (QuantizeWeights(symmetric=False, granularity=PerTensor()), QuantizeDynamic(weights=None)),
        1,
    ),
    "four bits, a direction clustered": (
        {"bidirectional": True},
        (Cluster(codebook_size=8, select=Select(names=("lstm.*_reverse",))), QuantizeDynamic(weights=4)),
        1,
    ),
    "the second layer alone": (
        {"num_layers": 2, "batch_first": True},
        (QuantizeDynamic(select=Select(names=("lstm.weight_*_l1",))),),
        1,
    ),
}


FAST = {"no bias, time first, pruned and clustered"}


@pytest.mark.parametrize("case", [pytest.param(case, marks=() if case in FAST else pytest.mark.slow) for case in CASES])
def test_both_files_hold_integers_and_answer_like_the_simulation(case: str, tmp_path: Path) -> None:
    settings, steps, n_integer_layers = CASES[case]
    model = _model(Net(**settings), *steps)
    differences = _differences(model, tmp_path, _windows())
    assert max(differences.values()) <= BOUND
    graph = onnx.load(tmp_path / "model.onnx").graph
    found = Counter(node.op_type for node in graph.node)
    n_layers = settings.get("num_layers", 1)
    assert (found["DynamicQuantizeLSTM"], found["LSTM"]) == (n_integer_layers, n_layers - n_integer_layers)
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    kinds = {TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4}
    integer = [name for name, encoding in model.encodings.items() if affine_of(encoding) is not None]
    assert len([name for name in integer if "lstm" in name]) == 2 * n_integer_layers * (
        2 if settings.get("bidirectional") else 1
    )
    for name in integer:
        stored = [t for key, t in tensors.items() if key.startswith(f"{name}/") and t.data_type in kinds]
        assert max(int(np.prod(t.dims)) for t in stored) == decode(model.encodings[name]).numel()
        assert name not in tensors  # no second copy as floats
    memory = memory_of_graph(onnx.load(tmp_path / "model.onnx"))
    assert not memory.unknown
    assert memory.weight_bytes is not None
    assert memory.weight_bytes < 4 * sum(p.numel() for p in model.network.parameters())
    kernels, run = _kernels(tmp_path / "model.onnx")
    assert kernels["DynamicQuantizeLSTM"] == n_integer_layers
    constants = {tensor.name for tensor in run.initializer}
    for node in run.node:  # the engine packs what is constant, and only that
        if node.op_type == "DynamicQuantizeLSTM":
            assert {node.input[i] for i in (1, 2, 8, 9, 10, 11)} <= constants


def test_the_answer_is_not_that_of_float_arithmetic() -> None:
    model = _model(Net(batch_first=True), QuantizeDynamic())
    x = _windows()
    with torch.no_grad():
        ours, floats = simulate(model, EXAMPLE)(x), model.network(x)
    rounding = float((ours - floats).abs().max() / floats.abs().max())
    assert 1000 * BOUND < rounding < 0.05


def test_every_step_is_exact_from_states_of_our_own(tmp_path: Path) -> None:
    example = (torch.zeros(5, 1, 6), torch.zeros(5, 2, 8), torch.zeros(5, 2, 8))
    model = QuantizeDynamic().apply(CompressedModel.dense(States().eval()), Context(example=example))
    ours = simulate(model, example)
    artifact = deploy(model, example, tmp_path, formats=("onnx",)).artifacts["onnx"]
    x, h, c = _windows(60), example[1], example[2]
    with OnnxRuntime().load(artifact) as session, torch.no_grad():
        for step in range(60):
            given = (x[:, step : step + 1], h, c)
            answers, expected = session.run(*(tensor.numpy() for tensor in given)), ours(*given)
            for theirs, wanted in zip(answers, expected, strict=True):
                np.testing.assert_allclose(theirs, wanted.numpy(), atol=BOUND * float(wanted.abs().max()))
            _, h, c = expected


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_long_sequences_stay_near(seed: int, tmp_path: Path) -> None:
    example = torch.zeros(2, 100, 6)
    network = Net(num_layers=2, bidirectional=True, batch_first=True).eval()
    model = QuantizeDynamic().apply(CompressedModel.dense(network), Context(example=example))
    result = deploy(model, _windows(100, seed), tmp_path, formats=("onnx",))
    (parity,) = [m for m in result.parity if m.metric == PARITY]
    with torch.no_grad():
        largest = float(simulate(model, example)(_windows(100, seed)).abs().max())
    assert parity.value <= FLIP_BOUND * largest


@pytest.mark.slow
def test_older_opsets_and_a_fixed_batch_are_written_too(tmp_path: Path) -> None:
    model = _model(Net(batch_first=True), QuantizeDynamic())
    assert max(_differences(model, tmp_path, _windows(), opset=17, batch_size=5).values()) <= BOUND
    proto = onnx.load(tmp_path / "model.onnx")
    assert {entry.domain: entry.version for entry in proto.opset_import} == {"": 17, "com.microsoft": 1}
    (again,) = export_file(tmp_path / "model.dwn", "onnx", tmp_path / "again.onnx")
    assert again.path.read_bytes() == (tmp_path / "model.onnx").read_bytes()


class Siamese(Twice):
    """Directions that share their recurrent weights, in one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 6, batch_first=True, bidirectional=True)
        self.lstm.weight_hh_l0_reverse = self.lstm.weight_hh_l0
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


FLOATS = {
    "called twice": (Twice(), (QuantizeDynamic(),)),
    "zero points by output": (
        Net(batch_first=True),
        (QuantizeWeights(symmetric=False, granularity=PerChannel(0)), QuantizeDynamic(weights=None)),
    ),
    "one of two weights": (
        Net(batch_first=True),
        (QuantizeDynamic(select=Select(names=("lstm.weight_hh_l0", "head.weight"))),),
    ),
    "float weights": (Net(batch_first=True), (QuantizeDynamic(), Densify())),
}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case == "called twice" else pytest.mark.slow) for case in FLOATS]
)
def test_what_has_no_kernel_computes_in_floats(case: str, tmp_path: Path) -> None:
    network, steps = FLOATS[case]
    model = _model(network, *steps)
    assert max(_differences(model, tmp_path, _windows()).values()) <= 1e-5
    found = Counter(node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node)
    assert found["DynamicQuantizeLSTM"] == 0
    assert found["LSTM"] == (2 if case == "called twice" else 1)


@pytest.mark.slow
def test_directions_may_share_a_weight(tmp_path: Path) -> None:
    model = _model(Siamese(), QuantizeDynamic())
    assert max(_differences(model, tmp_path, _windows()).values()) <= BOUND
    assert _kernels(tmp_path / "model.onnx")[0]["DynamicQuantizeLSTM"] == 1


@pytest.mark.slow
def test_factors_that_turn_signs_are_kept(tmp_path: Path) -> None:
    model = _model(Net(batch_first=True), QuantizeDynamic(granularity=PerTensor()))
    name = "lstm.weight_ih_l0"
    factor = torch.linspace(-1.0, 1.5, 32)
    model = model.with_encodings({name: Scaled(model.encodings[name], factor, 0)})
    assert max(_differences(model, tmp_path, _windows()).values()) <= BOUND
    assert "DynamicQuantizeLSTM" in {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}


@pytest.mark.slow
def test_an_lstm_whose_states_are_the_answer(tmp_path: Path) -> None:
    class Ends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.lstm = nn.LSTM(6, 8, 2, batch_first=True)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            _, (h, c) = self.lstm(x)
            return h.transpose(0, 1), c.transpose(0, 1)

    model = QuantizeDynamic().apply(CompressedModel.dense(Ends().eval()), Context(example=EXAMPLE))
    result = deploy(model, _windows(), tmp_path)
    parity = [m for m in result.parity if m.metric == PARITY]
    assert [m.value <= 1e-5 for m in parity] == [True, True]
    graph = onnx.load(result.artifacts["onnx"].path).graph
    assert Counter(node.op_type for node in graph.node)["DynamicQuantizeLSTM"] == 2


def test_weights_that_are_not_what_the_model_says_are_refused() -> None:
    from dwindle.exporters.lstm import multiply_codes_in_lstms
    from dwindle.exporters.native import to_record

    node = onnx.helper.make_node("LSTM", ["x", "w", "r"], ["y"], name="lstm", hidden_size=2)
    graph = onnx.helper.make_graph([node], "main", [], [])
    proto = onnx.helper.make_model(graph)
    records = {name: to_record(Dense(torch.zeros(8, 2))) for name in ("w", "r")}
    with pytest.raises(ExportError, match="no codes of 8 bits"):
        multiply_codes_in_lstms(proto, records, {"w", "r"})
    with pytest.raises(ExportError, match=r"the weights \['other'\] are to be multiplied"):
        multiply_codes_in_lstms(proto, records, {"other"})


def test_a_network_without_an_lstm_refuses_a_site_of_one(tmp_path: Path) -> None:
    model = _model(Net(batch_first=True), QuantizeDynamic())
    wrong = replace(model, activations={CallSite("lstm", 99): DynamicQuantizer()})
    with pytest.raises(ExportError, match="lstm:99:0 has no matrix product"):
        deploy(wrong, EXAMPLE, tmp_path)
