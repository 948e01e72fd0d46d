"""This file tests what is read off a file: zeros, types, quantizers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import dwindle as dw
from dwindle.artifact import Artifact
from dwindle.bench.layer_facts import facts_of
from dwindle.errors import MeasurementError
from dwindle.exporters.graph_cache import GraphCache

GRAPHS = GraphCache()
IMAGES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()


def facts(tmp_path, *steps, suffix="onnx", net=None, example=IMAGES):
    dense = dw.CompressedModel.dense(net or network())
    model = dw.Recipe(steps).run(dense, dw.Context(example=example[:1], calibration=[example])) if steps else dense
    return facts_of(dw.deploy(model, example[:1], tmp_path, formats=(suffix,), graphs=GRAPHS).artifacts[suffix])


@pytest.mark.parametrize("suffix", ["onnx", "dwn"])
def test_a_float_network(tmp_path, suffix):
    found = facts(tmp_path, suffix=suffix)
    assert [(layer.name, layer.kind) for layer in found.layers] == [("0.weight", "Conv"), ("4.weight", "Gemm")]
    assert found.n_weights == 3 * 8 * 9 + 8 * 36 * 5
    assert {(layer.weights, layer.inputs, layer.outputs) for layer in found.layers} == {("float32",) * 3}
    assert (found.sparsity, found.n_quantizers) == (0.0, 0)


@pytest.mark.parametrize("suffix", ["onnx", "dwn"])
@pytest.mark.parametrize("more", [(), (dw.Cluster(codebook_size=8),), (dw.QuantizeStatic(),)])
def test_zeros_are_counted_however_weights_are_stored(tmp_path, suffix, more):
    found = facts(tmp_path, dw.PruneWeights(sparsity=0.75), *more, suffix=suffix)
    assert found.sparsity == pytest.approx(0.75, abs=0.02)  # small weights become code 0 as well


def test_integers_and_where_they_stand(tmp_path):
    found = facts(tmp_path, dw.QuantizeStatic())
    assert [(layer.weights, layer.inputs, layer.outputs) for layer in found.layers] == [
        ("int8", "uint8", "uint8"),
        ("int8", "uint8", "float32"),
    ]
    assert all(layer.is_int8 for layer in found.layers)
    assert found.n_quantizers >= 2


def test_wide_activations(tmp_path):
    found = facts(tmp_path, dw.QuantizeStatic(activations=16))
    assert {layer.inputs for layer in found.layers} == {"int16"}
    assert not any(layer.is_int8 for layer in found.layers)


def test_ranges_taken_at_run_time(tmp_path):
    mlp = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    found = facts(tmp_path, dw.QuantizeDynamic(), net=mlp, example=torch.randn(8, 6))
    assert [(layer.kind, layer.weights, layer.inputs) for layer in found.layers] == [
        ("MatMulInteger", "int8", "uint8")
    ] * 2
    assert found.n_quantizers == 2


def test_a_recurrent_layer_has_both_of_its_weights(tmp_path):
    class Sensor(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.LSTM(3, 8, batch_first=True), nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.body(x)[0][:, -1])

    found = facts(tmp_path, net=Sensor().eval(), example=torch.randn(4, 5, 3))
    assert {layer.kind: layer.n_weights for layer in found.layers}["LSTM"] == 4 * 8 * 3 + 4 * 8 * 8
    ranged = facts(tmp_path, dw.QuantizeDynamic(), net=Sensor().eval(), example=torch.randn(4, 5, 3))
    (layer,) = (layer for layer in ranged.layers if layer.kind == "DynamicQuantizeLSTM")
    assert layer.n_weights == 4 * 8 * 3 + 4 * 8 * 8  # none of them is gone
    assert layer.is_int8
    assert ranged.n_weights == found.n_weights


@pytest.mark.parametrize(
    ("codes", "zero_point", "attributes", "n_zeros"),
    [
        pytest.param([[128, 128, 0], [128, 7, 255]], 128, {}, 3, id="one for all"),
        pytest.param([[5, 0, 5], [0, 5, 9]], [5, 5, 9], {}, 3, id="columns, where nothing names the axis"),
        pytest.param([[5, 0, 5], [0, 5, 0]], [5, 0], {"axis": 0}, 4, id="rows"),
        pytest.param([[5, 0], [0, 5]], [5, 0], {"axis": -2}, 2, id="rows of a square, counted from the end"),
        pytest.param(
            [[5, 0], [5, 9], [5, 9], [0, 0]], [[5, 9], [0, 9]], {"axis": 0, "block_size": 2}, 5, id="blocks of rows"
        ),
    ],
)
@pytest.mark.parametrize("is_turned", [False, True])
def test_zero_is_where_the_zero_point_is(tmp_path, codes, zero_point, attributes, n_zeros, is_turned):
    codes, zero_point = np.array(codes, np.uint8), np.array(zero_point, np.uint8)
    n_in, n_out = codes.shape[::-1] if is_turned else codes.shape
    turned = [helper.make_node("Transpose", ["w"], ["turned"], perm=[1, 0])] if is_turned else []
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["w/codes", "scale", "zero_point"], ["w"], **attributes),
            *turned,
            helper.make_node("MatMul", ["x", "turned" if is_turned else "w"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, n_in])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, n_out])],
        [
            numpy_helper.from_array(codes, "w/codes"),
            numpy_helper.from_array(np.full(zero_point.shape, 0.5, np.float32), "scale"),
            numpy_helper.from_array(zero_point, "zero_point"),
        ],
    )
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), str(path))
    found = facts_of(Artifact.of(path))
    assert found is not None
    (layer,) = found.layers
    assert (layer.n_weights, layer.n_zeros, layer.weights) == (codes.size, n_zeros, "uint8")
    assert is_turned or layer.name == "w"  # the engine turns the codes instead, and names them anew


@pytest.mark.parametrize(
    ("zero_point", "n_zeros"),
    [
        pytest.param(5, 3, id="one for all"),
        pytest.param([1, 1, 9], 1, id="columns"),
    ],
)
def test_zero_of_codes_that_an_operation_reads_itself(tmp_path, zero_point, n_zeros):
    codes, zero_point = np.array([[5, 0, 5], [0, 5, 9]], np.uint8), np.array(zero_point, np.uint8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w", "", "zero_point"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [1, 3])],
        [numpy_helper.from_array(codes, "w"), numpy_helper.from_array(zero_point, "zero_point")],
    )
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    found = facts_of(Artifact.of(path))
    assert found is not None
    assert [(layer.kind, layer.n_weights, layer.n_zeros) for layer in found.layers] == [("MatMulInteger", 6, n_zeros)]


def test_files_of_other_engines_have_no_facts_and_broken_ones_are_refused(tmp_path):
    other = tmp_path / "net.tflite"
    other.write_bytes(b"TFL3")
    assert facts_of(Artifact.of(other)) is None
    broken = tmp_path / "net.onnx"
    broken.write_bytes(b"nothing")
    with pytest.raises(MeasurementError, match="cannot load"):
        facts_of(Artifact.of(broken))
