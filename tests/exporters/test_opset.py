"""This file tests older opsets: what is rewritten computes the same, what cannot be is named."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from dwindle.errors import ExportError
from dwindle.exporters.opset import lower_opset, opset_of


def model_of(graph: str, *, opset: int = 21) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> {graph}')


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


SAME = {
    "axes of a mean": "g (float[n,3] x) => (float[n,1] y) <int64[1] axes = {1}> { y = ReduceMean (x, axes) }",
    "axes of a maximum": "g (float[n,3] x) => (float[n] y) <int64[1] axes = {1}> "
    "{ y = ReduceMax <keepdims = 0, noop_with_empty_axes = 0> (x, axes) }",
    "a pool": "g (float[n,3] x) => (float[n,1,2] y) <int64[1] at = {1}> "
    "{ z = Unsqueeze (x, at) y = AveragePool <kernel_shape = [2], dilations = [1]> (z) }",
    "only types": "g (float[n,3] x) => (float[n,3] y) <int64[2] s = {-1, 3}> "
    "{ z = Reshape <allowzero = 0> (x, s) y = Identity (z) }",
    "a cast": "g (float[n,3] x) => (double[n,3] y) { y = Cast <to = 11, saturate = 1> (x) }",
}


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("opset", [15, 17, 18, 20])
def test_the_older_graph_is_valid_and_computes_the_same(name, opset):
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    model = model_of(SAME[name])
    expected = run(model, x)
    lower_opset(model, opset)
    onnx.checker.check_model(model, full_check=True)
    assert opset_of(model) == opset
    assert model.ir_version == (8 if opset <= 18 else 9)
    np.testing.assert_array_equal(run(model, x), expected)


NEWER = [
    ("g (float[n,3] x) => (float[n,3] y) { y = Gelu (x) }", 19, "Gelu exists from opset 20 on"),
    (
        "g (float[n,3] x, float[3] w) => (float[n,3] y) { y = LayerNormalization (x, w) }",
        16,
        "LayerNormalization exists from opset 17 on",
    ),
    (
        "g (float[n,1,9] x) => (float[n,1,7] y) { y = AveragePool <kernel_shape = [2], dilations = [2]> (x) }",
        18,
        "AveragePool has no dilations before opset 19",
    ),
    (
        "g (float[n,1,4,4] x, float[n,2,2,2] at) => (float[n,1,2,2] y) { y = GridSample (x, at) }",
        19,
        "GridSample was redefined in opset 20",
    ),
]


@pytest.mark.parametrize(("graph", "opset", "message"), NEWER)
def test_what_the_older_opset_cannot_express_is_named(graph, opset, message):
    with pytest.raises(ExportError, match=f"opset {opset} cannot express this network: {message}"):
        lower_opset(model_of(graph), opset)


def test_all_obstacles_are_named_once():
    graph = "g (float[n] x) => (float[n] y) { a = Gelu (x) b = Gelu (a) y = Mish (b) }"
    with pytest.raises(ExportError, match=r"network: Gelu exists from opset 20 on; Mish exists from opset 18 on; ask"):
        lower_opset(model_of(graph), 15)


def test_an_operation_of_another_domain_is_no_standard():
    model = model_of("g (float[n] x) => (float[n] y) { y = com.example.Secret (x) }")
    with pytest.raises(ExportError, match=r"Secret of domain 'com\.example' is no standard operation"):
        lower_opset(model, 17)


def test_a_graph_cannot_become_newer():
    model = model_of("g (float[n] x) => (float[n] y) { y = Neg (x) }", opset=17)
    with pytest.raises(ExportError, match="written in opset 17 and cannot become 18"):
        lower_opset(model, 18)
    before = model.SerializeToString()
    lower_opset(model, 17)
    assert model.SerializeToString() == before
    lower_opset(model, 17, ir_version=10)
    assert model.ir_version == 10
