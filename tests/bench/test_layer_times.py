"""This file tests that an engine's profile finds its way back to the layers of a file."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dwindle.artifact import Artifact
from dwindle.bench.probes.layer_times import measure_layer_times
from dwindle.errors import MeasurementError, SettingError


def weight(name, *shape):
    return numpy_helper.from_array(np.random.default_rng(0).standard_normal(shape).astype(np.float32), name)


def file_of(folder, nodes, weights, *, shape, n_out):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", *n_out])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    path = folder / "net.onnx"
    onnx.save(model, str(path))
    return Artifact.of(path)


@pytest.fixture
def residual(tmp_path):
    """Two convolutions, the second with an addition, and a matrix: onnxruntime merges and lays out anew."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "a.weight"], ["conv_a"], name="node_a", pads=[1, 1, 1, 1]),
        node("Relu", ["conv_a"], ["relu_a"], name="node_relu_a"),
        node("Conv", ["relu_a", "b.weight"], ["conv_b"], name="node_b", pads=[1, 1, 1, 1]),
        node("Add", ["conv_b", "relu_a"], ["sum"], name="node_sum"),
        node("Relu", ["sum"], ["relu_b"], name="node_relu_b"),
        node("GlobalAveragePool", ["relu_b"], ["pooled"], name="node_pool"),
        node("Flatten", ["pooled"], ["flat"], name="node_flat"),
        node("MatMul", ["flat", "c.weight"], ["product"], name="node_c"),
        node("Add", ["product", "c.bias"], ["y"], name="node_bias"),
    ]
    weights = [weight("a.weight", 16, 3, 3, 3), weight("b.weight", 16, 16, 3, 3), weight("c.weight", 16, 5)]
    return file_of(tmp_path, nodes, [*weights, weight("c.bias", 5)], shape=(3, 12, 12), n_out=(5,))


def test_every_layer_has_its_operations(residual):
    layers = ("a.weight", "b.weight", "c.weight")
    found = measure_layer_times(residual, (np.zeros((1, 3, 12, 12), np.float32),), layers, n_runs=3)
    merged = {layer: found.of(layer)[0].operations for layer in layers}
    assert merged["a.weight"] == ("Conv", "Relu")
    assert merged["b.weight"][0] == "Conv"
    assert merged["c.weight"][:2] == ("MatMul", "Add")
    assert all(operation.layers in {(), *((layer,) for layer in layers)} for operation in found.operations)
    assert "GlobalAveragePool" in found.others


def test_times_add_up(residual):
    found = measure_layer_times(residual, (np.zeros((2, 3, 12, 12), np.float32),), ("a.weight",), n_runs=3)
    of_layer = sum(operation.ms for operation in found.of("a.weight"))
    assert of_layer > 0
    assert found.total_ms == pytest.approx(of_layer + sum(found.others.values()))
    assert (found.n_runs, found.n_threads) == (3, 1)


def test_weights_that_share_an_operation_are_named_together(tmp_path):
    nodes = [
        helper.make_node("Transpose", ["x"], ["steps"], name="t", perm=[1, 0, 2]),
        helper.make_node("LSTM", ["steps", "w_ih", "w_hh"], ["all", "last", ""], name="lstm", hidden_size=4),
        helper.make_node("Squeeze", ["last", "axes"], ["y"], name="s"),
    ]
    axes = numpy_helper.from_array(np.array([0]), "axes")
    artifact = file_of(
        tmp_path, nodes, [weight("w_ih", 1, 16, 3), weight("w_hh", 1, 16, 4), axes], shape=(6, 3), n_out=(4,)
    )
    found = measure_layer_times(artifact, (np.zeros((1, 6, 3), np.float32),), ("w_ih", "w_hh"), n_runs=2)
    (operation,) = found.of("w_ih")
    assert set(operation.layers) == {"w_ih", "w_hh"}
    assert "LSTM" in operation.operations


def test_what_only_rearranges_weights_is_no_operation(tmp_path):
    nodes = [
        helper.make_node("Transpose", ["c.weight"], ["turned"], name="turn", perm=[1, 0]),
        helper.make_node("MatMul", ["x", "turned"], ["y"], name="product"),
    ]
    artifact = file_of(tmp_path, nodes, [weight("c.weight", 5, 3)], shape=(3,), n_out=(5,))
    found = measure_layer_times(artifact, (np.zeros((1, 3), np.float32),), ("c.weight",), n_runs=1)
    (operation,) = found.of("c.weight")
    assert operation.operations == ("MatMul",)


def test_refuses_what_is_no_onnx_and_what_an_engine_refuses(tmp_path, residual):
    with pytest.raises(SettingError, match="at least one run"):
        measure_layer_times(residual, (), (), n_runs=0)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    with pytest.raises(MeasurementError, match="cannot profile"):
        measure_layer_times(Artifact.of(broken), (), ())
    other = broken.rename(tmp_path / "file.dwn")
    with pytest.raises(MeasurementError, match=r"only \.onnx files"):
        measure_layer_times(Artifact.of(other), (), ())
    with pytest.raises(MeasurementError, match="cannot profile"):
        measure_layer_times(residual, (np.zeros((1, 3), np.float32),), ())
