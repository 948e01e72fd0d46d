"""This file tests the torch runtime: a file's weights in a network of the user's own code."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dwindle.artifact import Artifact
from dwindle.bench.deployment import QUANTIZED_BOUND, model_outputs
from dwindle.container import Contents, write
from dwindle.errors import ContainerError, MeasurementError, NetworkError, SettingError
from dwindle.exporters.graph import build_graph
from dwindle.exporters.graph_cache import GraphCache
from dwindle.exporters.native import NativeExporter, to_contents
from dwindle.exporters.options import ExportOptions
from dwindle.exporters.preprocessing import Preprocessing
from dwindle.network.activations import INPUT, ActivationQuantizer, CallSite
from dwindle.network.batchnorm import fold_batchnorms
from dwindle.network.compressed import CompressedModel
from dwindle.runtimes.onnxruntime import OnnxRuntime
from dwindle.runtimes.torch import TorchRuntime
from dwindle.technique import Context
from dwindle.techniques.cluster import Cluster
from dwindle.techniques.prune_weights import PruneWeights
from dwindle.techniques.quantize_dynamic import QuantizeDynamic
from dwindle.techniques.quantize_static import QuantizeStatic

GRAPHS = GraphCache()
EXAMPLE = torch.linspace(-1, 1, 2 * 36).reshape(2, 1, 6, 6)


def build() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))


@pytest.fixture
def model() -> CompressedModel:
    network = build()
    network(torch.randn(16, 1, 6, 6))  # gives the batch norm statistics of its own
    return CompressedModel.dense(network.eval())


def export(model: CompressedModel, folder: Path) -> Artifact:
    path = folder / "model.dwn"
    write(path, to_contents(model, graph=b"", metadata={}))  # torch needs no graph, and capturing one is slow
    return Artifact.of(path)


def pruned_and_shared(model: CompressedModel) -> CompressedModel:
    model = PruneWeights(sparsity=0.5).apply(model, Context())
    return Cluster(codebook_size=4).apply(model, Context())


def folded(model: CompressedModel) -> CompressedModel:
    return fold_batchnorms(model, EXAMPLE)[0]


@pytest.mark.parametrize("compress", [copy.copy, pruned_and_shared, lambda m: folded(pruned_and_shared(m))])
def test_it_answers_with_the_bits_of_the_model(
    model: CompressedModel, tmp_path: Path, compress: Callable[[CompressedModel], CompressedModel]
) -> None:
    compressed = compress(model)
    with TorchRuntime(network=build).load(export(compressed, tmp_path)) as session:
        (answer,) = session.run(EXAMPLE.numpy())
    with torch.no_grad():
        np.testing.assert_array_equal(answer, compressed.network(EXAMPLE).numpy())


def test_a_network_given_stays_as_it_is(model: CompressedModel, tmp_path: Path) -> None:
    network = build()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with TorchRuntime(network=network).load(export(folded(model), tmp_path)) as session:
        assert session.input_names == ("input",)
        (answer,) = session.run(EXAMPLE.numpy())
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(answer), model.network(EXAMPLE))
    assert network.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_threads_are_pinned_inside_and_restored_after(model: CompressedModel, tmp_path: Path) -> None:
    artifact = export(model, tmp_path)
    torch.set_num_threads(1)
    runtime = TorchRuntime(network=build)
    with runtime.load(artifact, n_threads=2):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 1
    with pytest.raises(KeyError, match="stop"), runtime.load(artifact, n_threads=2):
        raise KeyError("stop")
    assert torch.get_num_threads() == 1


def test_another_architecture_is_an_error(model: CompressedModel, tmp_path: Path) -> None:
    artifact = export(model, tmp_path)
    with (
        pytest.raises(
            NetworkError, match=r"does not fit Sequential: Missing key.*build the network that was compressed"
        ),
        TorchRuntime(network=lambda: nn.Sequential(build(), nn.ReLU())).load(artifact),
    ):
        pass


def test_quantized_activations_need_a_graph(model: CompressedModel, tmp_path: Path) -> None:
    runtime = TorchRuntime(network=build)
    quantizer = ActivationQuantizer(scale=0.1, zero_point=0)
    quantized = CompressedModel(
        network=model.network,
        encodings=model.encodings,
        n_dense_weights=model.n_dense_weights,
        activations={CallSite(INPUT, 0): quantizer},
    )
    with pytest.raises(MeasurementError, match="quantized activations"), runtime.load(export(quantized, tmp_path)):
        pass


def quantized(folder: Path, network: nn.Module, example: torch.Tensor, step: Any) -> tuple[CompressedModel, Artifact]:
    model = step.apply(CompressedModel.dense(network.eval()), Context(example=example, calibration=[example]))
    graph = build_graph(model, example, cache=GRAPHS)
    return model, NativeExporter().export(model, example, folder / "model.dwn", graph=graph)


@pytest.mark.parametrize("step", [QuantizeStatic(), QuantizeStatic(activations=16), QuantizeDynamic()])
def test_rounded_activations_answer_as_onnxruntime(tmp_path: Path, step: Any) -> None:
    network, inputs = build(), torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    model, artifact = quantized(tmp_path, network, inputs, step)
    with OnnxRuntime().load(artifact) as session:
        (theirs,) = session.run(inputs.numpy())
    with TorchRuntime(network=build).load(artifact) as session:
        (ours,) = session.run(inputs.numpy())
        assert (session.inputs[0].dtype, session.inputs[0].shape[1:]) == (np.float32, (1, 6, 6))
    assert np.abs(ours - theirs).max() <= QUANTIZED_BOUND * np.abs(theirs).max()
    np.testing.assert_array_equal(ours, model_outputs(model, inputs)[0])
    with torch.no_grad():
        assert not np.array_equal(ours, model.network(inputs).numpy())


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0][:, -1]


def test_an_lstm_on_integers_is_refused(tmp_path: Path) -> None:
    _, artifact = quantized(tmp_path, Recurrent(), torch.randn(4, 5, 3), QuantizeDynamic())
    with (
        pytest.raises(MeasurementError, match=r"an LSTM that computes with integers inside.*run it with OnnxRuntime"),
        TorchRuntime(network=Recurrent).load(artifact),
    ):
        pass


def test_a_file_that_preprocesses_is_refused(tmp_path: Path) -> None:
    options = ExportOptions(preprocessing=Preprocessing(scale=1 / 255, is_uint8=True))
    model = CompressedModel.dense(build().eval())
    artifact = NativeExporter(options=options).export(model, EXAMPLE, tmp_path / "model.dwn")
    with (
        pytest.raises(MeasurementError, match=r"preprocesses its input, which torch .* does not; run it with OnnxRunt"),
        TorchRuntime(network=build).load(artifact),
    ):
        pass


@pytest.mark.parametrize(
    ("activations", "message"),
    [
        ({"<input>:0:0": {"type": "LogQuantizer"}}, "knows no activation quantizer 'LogQuantizer'.*a later version"),
        ({"<input>:0": {"type": "DynamicQuantizer", "n_bits": 8}}, "'<input>:0' names no value of a network"),
        ({"a:0:x": {"type": "DynamicQuantizer", "n_bits": 8}}, "'a:0:x' names no value of a network"),
    ],
)
def test_notes_that_it_does_not_know_are_one_error(
    model: CompressedModel, tmp_path: Path, activations: dict[str, object], message: str
) -> None:
    artifact = noted(model, tmp_path, activations=activations)
    with pytest.raises(NetworkError, match=message), TorchRuntime(network=build).load(artifact):
        pass


def noted(model: CompressedModel, folder: Path, *, graph: bytes = b"", **notes: object) -> Artifact:
    """Return a file of `model` whose notes somebody else wrote."""
    contents = to_contents(model, graph=graph, metadata={})
    write(folder / "m.dwn", replace(contents, metadata={**contents.metadata, **notes}))
    return Artifact.of(folder / "m.dwn")


@pytest.mark.parametrize(
    ("notes", "message"),
    [
        ({"activations": [1]}, r"activations must be a table, not \[1\]"),
        ({"activations": {"a:0:0": 5}}, r"activations must be tables, not \[5\]"),
        ({"edits": 5}, "edits must be tables, not 5"),
        ({"edits": ["x"]}, r"edits must be tables, not \['x'\]"),
        ({"edits": [{"type": []}]}, r"knows no structural edit '\[\]'"),
    ],
)
def test_malformed_notes_are_one_error(
    model: CompressedModel, tmp_path: Path, notes: dict[str, object], message: str
) -> None:
    artifact = noted(model, tmp_path, **notes)
    with pytest.raises((SettingError, NetworkError), match=message), TorchRuntime(network=build).load(artifact):
        pass


def test_a_graph_that_is_none_is_one_error(model: CompressedModel, tmp_path: Path) -> None:
    artifact = noted(model, tmp_path, graph=b"no graph at all")
    with pytest.raises(ContainerError, match="is not an ONNX model"), TorchRuntime(network=build).load(artifact):
        pass


def test_wrong_inputs_are_one_error(tmp_path: Path) -> None:
    network = nn.Linear(3, 2).eval()
    artifact = NativeExporter().export(CompressedModel.dense(network), torch.ones(2, 3), tmp_path / "m.dwn")
    with TorchRuntime(network=network).load(artifact) as session:
        for given, message in (
            ((), "takes 1 inputs .*got 0"),
            (
                (np.zeros((2, 4), np.float32),),
                r"must be float32 of shape \('batch', 3\).*got float32 of shape \(2, 4\)",
            ),
            ((np.zeros((2, 3)),), "got float64"),
        ):
            with pytest.raises(NetworkError, match=message):
                session.run(*given)


def test_a_network_that_fails_is_one_error(model: CompressedModel, tmp_path: Path) -> None:
    artifact = export(model, tmp_path)  # no graph tells what it takes
    message = r"torch failed on inputs of shape \[\(1, 7\)\]: "
    with TorchRuntime(network=build).load(artifact) as session, pytest.raises(MeasurementError, match=message):
        session.run(np.zeros((1, 7), np.float32))


def test_what_builds_no_network_is_told(model: CompressedModel, tmp_path: Path) -> None:
    artifact = export(model, tmp_path)
    with (
        pytest.raises(NetworkError, match=r"returns dict; return a torch\.nn.Module"),
        TorchRuntime(network=dict).load(artifact),
    ):
        pass


class Mapped(nn.Module):
    def forward(self, x: torch.Tensor) -> object:
        return {"y": x}


class Twice(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x + 1


def test_outputs_are_tensors_or_a_tuple_of_them(tmp_path: Path) -> None:
    write(tmp_path / "empty.dwn", Contents({}))
    artifact = Artifact.of(tmp_path / "empty.dwn")
    with TorchRuntime(network=Twice).load(artifact) as session:
        assert [a.tolist() for a in session.run(np.zeros(2))] == [[0, 0], [1, 1]]
    with (
        TorchRuntime(network=Mapped).load(artifact) as session,
        pytest.raises(NetworkError, match="the network returns dict"),
    ):
        session.run(np.zeros(2))


def test_it_is_there_wherever_dwindle_is() -> None:
    runtime = TorchRuntime(network=build)
    assert runtime.unavailable() is None
    assert runtime.name == f"torch {torch.__version__}"
