"""This file tests layers whose inputs are quantized at run time: the ONNX graph, the engine's kernels, the answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import Tensor, nn

from dwindle.container.session import session_options
from dwindle.core.affine import dynamic_qparams, fake_quantize
from dwindle.errors import ExportError
from dwindle.exporters.graph import build_graph
from dwindle.exporters.graph_cache import GraphCache
from dwindle.exporters.native import NativeExporter
from dwindle.exporters.onnx import OnnxExporter
from dwindle.network.activations import CallSite, DynamicQuantizer
from dwindle.network.compressed import CompressedModel
from dwindle.network.simulate import simulate
from dwindle.runtimes.onnxruntime import OnnxRuntime
from dwindle.technique import Context
from dwindle.techniques.cluster import Cluster
from dwindle.techniques.densify import Densify
from dwindle.techniques.prune_weights import PruneWeights
from dwindle.techniques.quantize_dynamic import QuantizeDynamic
from dwindle.techniques.quantize_weights import QuantizeWeights

BOUND = 1e-5
GRAPHS = GraphCache()
"""Models of one structure share a translation, which takes most of the time of a test here."""


class Perceptron(nn.Module):
    """Linear layers over a sequence, one of them without a bias, one that is read by two others, one called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.plain = nn.Linear(16, 24), nn.Linear(24, 24, bias=False)
        self.left, self.right, self.twice = nn.Linear(24, 8), nn.Linear(24, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = self.plain(x) + x
        y = self.left(x) * torch.sigmoid(self.right(x))
        return self.twice(self.twice(y)).mean(1)


class Recurrent(nn.Module):
    """An LSTM of two layers, a GRU and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru = nn.LSTM(16, 12, 2, batch_first=True), nn.GRU(12, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.gru(self.lstm(x)[0])
        return self.head(x[:, -1])


def _model(network: nn.Module, *steps: object) -> CompressedModel:
    torch.manual_seed(0)
    model = CompressedModel.dense(network.eval())
    for step in steps:
        model = step.apply(model, Context(example=torch.randn(2, 10, 16)))
    return model


def _kernels(path: Path, folder: Path) -> Counter[str]:
    options = session_options(1)
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def _parity(model: CompressedModel, path: Path, *, n_steps: int = 10) -> float:
    example = torch.zeros(2, n_steps, 16)
    graph = build_graph(model, example, cache=GRAPHS)
    exporter = OnnxExporter() if path.suffix == ".onnx" else NativeExporter()
    x = torch.randn(6, n_steps, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = simulate(model, example)(x).numpy()
    with OnnxRuntime().load(exporter.export(model, example, path, graph=graph)) as session:
        (output,) = session.run(x.numpy())
    return float(np.abs(output - expected).max() / np.abs(expected).max())


STEPS = {
    "four bits": (QuantizeDynamic(weights=4),),
    "pruned and clustered": (PruneWeights(sparsity=0.5), Cluster(codebook_size=8), QuantizeDynamic()),
    "zero points": (QuantizeWeights(symmetric=False), QuantizeDynamic(weights=None)),
    "powers of two": (QuantizeDynamic(scale="power_of_two"),),
    "float weights": (QuantizeDynamic(), Densify()),
}


@pytest.mark.parametrize(
    ("steps", "suffix"),
    [
        ("four bits", ".onnx"),
        ("pruned and clustered", ".dwn"),
        ("zero points", ".dwn"),
        ("powers of two", ".onnx"),
        ("float weights", ".onnx"),
    ],
)
def test_files_answer_like_the_simulation(steps: str, suffix: str, tmp_path: Path) -> None:
    model = _model(Perceptron(), *STEPS[steps])
    assert _parity(model, tmp_path / f"model{suffix}") <= BOUND


def test_the_engine_multiplies_integers(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    _parity(_model(Perceptron(), PruneWeights(sparsity=0.5), Cluster(codebook_size=8), QuantizeDynamic()), path)
    graph = onnx.load(path).graph
    assert Counter(node.op_type for node in graph.node)["MatMulInteger"] == 4
    assert not {t.name for t in graph.initializer} & {"first.weight", "plain.weight", "left.weight", "right.weight"}
    found = _kernels(path, tmp_path)
    assert found["DynamicQuantizeMatMul"] == 2  # first and plain; left and right share their codes:
    assert found["MatMulIntegerToFloat"] == 2
    assert (
        found["MatMul"] + found["Gemm"] + found["FusedMatMul"] == 2
    )  # of one weight with two readers it has no kernel


def test_recurrent_weights_are_stored_as_integers(tmp_path: Path) -> None:
    model = _model(Recurrent(), QuantizeDynamic())
    assert set(model.activations) == {CallSite("head", 0), CallSite("lstm", 2)}
    assert _parity(model, tmp_path / "model.onnx", n_steps=4) <= BOUND
    tensors = {t.name: t for t in onnx.load(tmp_path / "model.onnx").graph.initializer}
    for name in ("lstm.weight_ih_l0", "lstm.weight_hh_l1", "gru.weight_hh_l0"):
        assert tensors[f"{name}/codes"].data_type == TensorProto.INT8
        assert name not in tensors


def test_products_that_would_overflow_sixteen_bits_are_exact(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(1), nn.Linear(160, 4, bias=False)).eval()
    nn.init.ones_(network[1].weight)
    model = QuantizeDynamic().apply(CompressedModel.dense(network), Context(example=torch.zeros(2, 10, 16)))
    artifact = OnnxExporter().export(model, torch.zeros(2, 10, 16), tmp_path / "model.onnx")
    with OnnxRuntime().load(artifact) as session:
        (output,) = session.run(np.ones((2, 10, 16), dtype=np.float32))  # 160 products of 255 * 127
    np.testing.assert_allclose(output, np.full((2, 4), 160.0), rtol=1e-5)


def test_a_site_without_a_product_is_refused(tmp_path: Path) -> None:
    model = replace(
        _model(nn.Sequential(nn.Linear(16, 4), nn.ReLU())), activations={CallSite("1", 0): DynamicQuantizer()}
    )
    with pytest.raises(ExportError, match="1:0:0 has no matrix product"):
        OnnxExporter().export(model, torch.zeros(2, 10, 16), tmp_path / "model.onnx")


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([1e-30, 1e-6, 0.01, 1.0, 300.0, 1e20]),
    shift=st.sampled_from([-3.0, -0.5, 0.0, 0.5, 3.0]),
)
def test_ranges_are_bit_for_bit_those_of_the_engine(seed: int, scale: float, shift: float) -> None:
    x = (torch.randn(37, generator=torch.Generator().manual_seed(seed)) + shift) * scale
    _require_engine_equal(x)


@pytest.mark.parametrize("values", [[0.0, 0.0], [5.0], [-5.0, -1.0], [1.0, -1.0, 0.5]])
def test_ranges_of_special_inputs_are_those_of_the_engine(values: list[float]) -> None:
    _require_engine_equal(torch.tensor(values))


def _require_engine_equal(x: Tensor) -> None:
    codes, scale, zero_point = _ENGINE.run(None, {"x": x.numpy()})
    ours_scale, ours_zero_point = dynamic_qparams(x)
    assert float(ours_scale) == float(scale)
    assert float(ours_zero_point) == float(zero_point)
    decoded = (codes.astype(np.float32) - np.float32(zero_point)) * scale
    np.testing.assert_array_equal(
        fake_quantize(x, ours_scale, ours_zero_point, n_bits=8, signed=False).numpy(), decoded
    )


def _engine() -> onnxruntime.InferenceSession:
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["codes", "scale", "zero_point"])
    outputs = [
        helper.make_tensor_value_info("codes", TensorProto.UINT8, ["n"]),
        helper.make_tensor_value_info("scale", TensorProto.FLOAT, []),
        helper.make_tensor_value_info("zero_point", TensorProto.UINT8, []),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    graph = helper.make_graph([node], "one", [x], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), session_options(1), providers=["CPUExecutionProvider"]
    )


_ENGINE = _engine()
