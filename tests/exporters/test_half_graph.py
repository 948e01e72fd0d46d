"""This file tests graphs that compute in float16: types inside, types at the door, and what is stored."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from dwindle.container.records import DenseRecord, HalfRecord
from dwindle.errors import ExportError
from dwindle.exporters.half_graph import compute_in_half, computes_in_half, store_halves
from dwindle.exporters.onnx import fill_references
from dwindle.exporters.references import reference

SMALL = {
    "arithmetic": "g (float[n,3] x) => (float[n,3] y) <float[3] c = {1.5, -2.0, 0.1}> { z = Mul (x, c) y = Exp (z) }",
    "a mask beyond the range": "g (float[n,3] x) => (float[n,3] y) <float[3] c = {0.0, -3.0e38, 0.0}> "
    "{ z = Add (x, c) y = Softmax (z) }",
    "a constant": "g (float[n,3] x) => (float[n,3] y) { c = Constant <value_float = 0.5> () y = Mul (x, c) }",
    "a cast": "g (float[n,3] x) => (float[n,3] y) { z = Cast <to = 7> (x) w = Cast <to = 1> (z) y = Add (w, x) }",
    "a filled shape": "g (float[n,3] x) => (float[n,3] y) "
    "{ s = Shape (x) z = ConstantOfShape <value = float[1] {2.0}> (s) y = Add (z, x) }",
    "float32 scales": "g (float[n,1,3] x) => (float[n,1,6] y) <float[3] s = {1.0, 1.0, 2.0}> "
    '{ y = Resize <mode = "nearest"> (x, , s) }',
    "an input handed through": "g (float[n,3] x) => (float[n,3] y) { y = Identity (x) }",
    "an output that is read": "g (float[n,3] x) => (float[n,3] y, float[n,3] z) { y = Neg (x) z = Neg (y) }",
}


def model_of(graph: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {graph}')


def run(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


@pytest.mark.parametrize("name", SMALL)
def test_it_computes_nearly_the_same_and_keeps_the_door(name):
    model = model_of(SMALL[name])
    shape = (4, 1, 3) if "scales" in name else (4, 3)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = run(model, x)
    assert not computes_in_half(model.graph)
    compute_in_half(model.graph)
    assert computes_in_half(model.graph)
    onnx.checker.check_model(model, full_check=True)
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    inside = [v for v in onnx.shape_inference.infer_shapes(model).graph.value_info if "float16" in v.name]
    assert {v.type.tensor_type.elem_type for v in inside} == {TensorProto.FLOAT16}
    for ours, theirs in zip(run(model, x), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("record", [DenseRecord(np.array([0.1, 2, 3], np.float32)), HalfRecord(np.ones(3, np.float16))])
def test_weights_are_stored_once_as_float16(record):
    model = model_of("g (float[n,3] x) => (float[n,3] y) <float[3] w> { y = Mul (x, w) }")
    del model.graph.initializer[:]
    model.graph.initializer.append(reference("w", TensorProto.FLOAT, (3,)))
    compute_in_half(model.graph)
    fill_references(model.graph, {"w": record})
    store_halves(model.graph)
    onnx.checker.check_model(model, full_check=True)
    (stored,) = model.graph.initializer
    assert stored.data_type == TensorProto.FLOAT16
    np.testing.assert_array_equal(numpy_helper.to_array(stored), record.values.astype(np.float16))
    assert run(model, np.ones((1, 3), np.float32))[0].tolist() == [record.values.astype(np.float16).tolist()]


def test_a_branch_is_refused():
    model = model_of(
        "g (float[n] x, bool c) => (float[n] y) "
        "{ y = If (c) <then_branch = a () => (float[n] p) { p = Neg (x) }, "
        "else_branch = b () => (float[n] q) { q = Exp (x) }> }"
    )
    with pytest.raises(ExportError, match=r"a If cannot become float16; use float_type='float32'"):
        compute_in_half(model.graph)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_a_recurrent_layer_is_refused(op):
    model = model_of(
        "g (float[2,n,3] x, float[1,4,3] w, float[1,4,4] r) => (float[2,1,n,4] y) "
        f"{{ y = {op} <hidden_size = 4> (x, w, r) }}"
    )
    with pytest.raises(ExportError, match=f"a {op} layer does not run in float16; use float_type='float32'"):
        compute_in_half(model.graph)
