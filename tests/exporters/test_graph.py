"""This file tests the graph that every file format starts from: names, references, and what stays float."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import onnx
import pytest
import torch
from torch import Tensor, nn

from dwindle.core.affine import quantize
from dwindle.core.granularity import PerChannel
from dwindle.errors import ExportError
from dwindle.exporters.graph import build_graph
from dwindle.exporters.references import is_reference
from dwindle.network.activations import INPUT, ActivationQuantizer, CallSite
from dwindle.network.compressed import CompressedModel

QUANTIZER = ActivationQuantizer(scale=0.02, zero_point=128)


class Tied(nn.Module):
    """Two layers on a sequence that share one weight; the mean is handed out beside the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop, self.again = nn.Linear(6, 6, bias=False), nn.Dropout(), nn.Linear(6, 6, bias=False)
        self.again.weight = self.first.weight

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        answer = self.again(self.drop(self.first(tokens)))
        return answer, answer.mean(1)


def integer(model: CompressedModel) -> CompressedModel:
    changed = {
        name: quantize(tensor.detach(), n_bits=8, granularity=PerChannel(0))
        for name, tensor in model.network.state_dict().items()
        if tensor.ndim > 1 and name in model.encodings
    }
    return model.with_encodings(changed)


def references(proto: onnx.ModelProto) -> list[str]:
    return [tensor.name for tensor in proto.graph.initializer if is_reference(tensor)]


def test_a_float_graph_refers_to_every_weight_and_tells_no_paths():
    network = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    model = CompressedModel.dense(network)
    proto = build_graph(model, torch.zeros(1, 2, 8, 8))
    norm = {f"1.{part}" for part in ("weight", "bias", "running_mean", "running_var")}
    assert set(references(proto)) == {"0.weight", "3.weight", "3.bias"} | norm
    assert not any(t.raw_data or t.float_data for t in proto.graph.initializer if is_reference(t))
    assert [v.name for v in proto.graph.output] == ["output"]
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert proto.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    data = proto.SerializeToString(deterministic=True)
    assert b".py" not in data
    assert data == build_graph(model, torch.zeros(1, 2, 8, 8)).SerializeToString(deterministic=True)


class Branch(nn.Module):
    """Which side is taken depends on the input, so that the graph holds two more."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))


def test_the_sides_of_a_branch_tell_no_paths_either():
    model = CompressedModel.dense(Branch())
    first, second = (build_graph(model, torch.ones(2, 3)).SerializeToString(deterministic=True) for _ in range(2))
    assert b".py" not in first
    assert first == second


def test_a_tied_weight_is_one_reference_in_the_layout_of_the_state_dict():
    model = CompressedModel.dense(Tied())
    sites = {CallSite(INPUT, 0): QUANTIZER, CallSite("drop", 0): QUANTIZER}
    proto = build_graph(replace(integer(model), activations=sites), torch.zeros(2, 5, 6))
    assert references(proto) == ["first.weight"]  # as floats: onnxruntime refuses integers that two layers share
    assert [v.name for v in proto.graph.input] == ["tokens"]
    assert [v.name for v in proto.graph.output] == ["output_0", "output_1"]
    nodes = Counter(node.op_type for node in proto.graph.node)
    assert (nodes["Transpose"], nodes["MatMul"], nodes["QuantizeLinear"]) == (2, 2, 2)


def test_integers_are_referred_to_only_where_the_input_is_quantized():
    network = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    model = replace(integer(CompressedModel.dense(network)), activations={CallSite(INPUT, 0): QUANTIZER})
    names = references(build_graph(model, torch.zeros(2, 6)))
    assert "0.weight/codes" in names
    assert "0.bias" in names
    assert "2.weight" in names
    assert "2.weight/codes" not in names


def test_a_layer_whose_bias_leaves_int32_stays_float():
    network = nn.Sequential(nn.Linear(6, 6))
    with torch.no_grad():
        network[0].weight[2] = 1e-12
        network[0].bias.fill_(0.5)
    model = replace(integer(CompressedModel.dense(network)), activations={CallSite(INPUT, 0): QUANTIZER})
    assert "0.weight" in references(build_graph(model, torch.zeros(2, 6)))


def test_a_quantizer_of_another_network_is_an_error():
    model = CompressedModel.dense(nn.Sequential(nn.Linear(6, 6)))
    with pytest.raises(ExportError, match="call site gone:0:0 has no value in the ONNX graph"):
        build_graph(replace(model, activations={CallSite("gone", 0): QUANTIZER}), torch.zeros(2, 6))


class Unknown(nn.Module):
    """An operation that torch has no ONNX form for."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


def test_an_operation_without_onnx_form_is_named():
    with pytest.raises(ExportError, match=r"cannot express this network: .*bessel_j0"):
        build_graph(CompressedModel.dense(Unknown()), torch.zeros(2, 6))
