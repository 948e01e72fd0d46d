"""This file tests rounded inputs in ONNX: the values that onnxruntime computes are those of the model, bit for bit."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from dwindle.core.few_bits import Levels, round_activation
from dwindle.errors import ExportError
from dwindle.exporters.few_bits import round_inputs
from dwindle.exporters.graph import build_graph
from dwindle.exporters.graph_cache import GraphCache
from dwindle.exporters.onnx import OnnxExporter
from dwindle.network.activations import CallSite, LevelQuantizer
from dwindle.network.compressed import CompressedModel
from dwindle.network.simulate import simulate
from dwindle.runtimes.onnxruntime import OnnxRuntime

GRAPHS = GraphCache()
EVERY = [Levels(n, kind) for n in (1, 2, 3, 4) for kind in ("full", "restricted") if (n, kind) != (1, "restricted")]


def product() -> onnx.GraphProto:
    """Return a graph of one product with the identity, whose result is what the product reads."""
    weight = onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    return helper.make_graph([node], "main", [value], [output], [weight])


@pytest.mark.parametrize("levels", EVERY, ids=str)
def test_the_arithmetic_is_that_of_the_model(levels: Levels):
    graph, site = product(), CallSite("layer", 0)
    round_inputs(graph, {site: "y"}, {site: LevelQuantizer(n_bits=levels.n_bits, kind=levels.kind)})
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    middles = torch.tensor([i / (2 * levels.highest) for i in range(-2 * levels.highest, 2 * levels.highest + 1)])
    near = torch.stack([middles, torch.nextafter(middles, torch.ones(())), torch.nextafter(middles, -torch.ones(()))])
    x = torch.cat([near.flatten(), torch.randn(1001) * 2, torch.tensor([0.0, -0.0, 1.0, -1.0, 9.0, -9.0])])
    x = x[: len(x) // 4 * 4].reshape(-1, 4)
    (found,) = session.run(None, {"x": x.numpy()})
    np.testing.assert_array_equal(found, round_activation(x, levels).numpy())


class Readers(nn.Module):
    """One value that three layers and a sum read: one layer in full, two rounded alike, one to another width."""

    def __init__(self) -> None:
        super().__init__()
        self.full, self.a, self.b, self.c = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.full(x) + self.a(x) + self.b(x) + self.c(x) + x


def rounded(network: nn.Module, **widths: int) -> CompressedModel:
    quantizers = {CallSite(name, 0): LevelQuantizer(n_bits=n_bits) for name, n_bits in widths.items()}
    dense = CompressedModel.dense(network.eval())
    return CompressedModel(network=dense.network, encodings=dense.encodings, n_dense_weights=0, activations=quantizers)


def parity(model: CompressedModel, x: Tensor, path: Path) -> float:
    with torch.no_grad():
        wanted = simulate(model, x[:2])(x).numpy()
    graph = build_graph(model, x[:2], cache=GRAPHS)
    with OnnxRuntime().load(OnnxExporter().export(model, x[:2], path, graph=graph)) as session:
        (found,) = session.run(x.numpy())
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def test_a_value_is_rounded_once_for_each_width_and_others_read_it_in_full(tmp_path: Path):
    model, x = rounded(Readers(), a=2, b=2, c=1), torch.randn(6, 8) * 2
    assert parity(model, x, tmp_path / "model.onnx") < 1e-6
    nodes = Counter(node.op_type for node in build_graph(model, x[:2], cache=GRAPHS).graph.node)
    assert (nodes["Clip"], nodes["Sign"]) == (1, 1)


class Layers(nn.Module):
    """Convolutions of one and two dimensions, linear layers over a sequence with and without bias, one called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.line = nn.Conv2d(1, 4, 3, bias=False), nn.Conv1d(4, 4, 3)
        self.up, self.plain, self.twice = nn.Linear(34, 6), nn.Linear(6, 6, bias=False), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.line(self.conv(x).flatten(2))
        return self.twice(torch.tanh(self.twice(self.plain(self.up(x)))))


@pytest.mark.parametrize("n_bits", [1, 2])
def test_every_kind_of_layer(n_bits: int, tmp_path: Path):
    model = rounded(Layers(), conv=n_bits, line=n_bits, up=n_bits, plain=n_bits, twice=n_bits)
    again = {**model.activations, CallSite("twice", 1): LevelQuantizer(n_bits=n_bits)}
    model = CompressedModel(network=model.network, encodings=model.encodings, n_dense_weights=0, activations=again)
    assert parity(model, torch.randn(5, 1, 8, 8), tmp_path / "model.onnx") < 1e-5


def test_a_site_without_a_layer_is_one_clear_error():
    model = rounded(nn.Sequential(nn.Linear(4, 4), nn.Sigmoid()), **{"1": 1})
    with pytest.raises(
        ExportError, match=r"call site 1:0:0 has no convolution or matrix product .* to be rounded; use"
    ):
        build_graph(model, torch.randn(2, 4))
