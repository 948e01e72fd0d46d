"""This file holds the law of written weights: onnxruntime unfolds the very bits that the record decodes to."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from dwindle.container.integer import integer_form
from dwindle.container.records import (
    AffineRecord,
    CodebookRecord,
    DenseRecord,
    HalfRecord,
    ScaledRecord,
    SparseRecord,
    decode_record,
)
from dwindle.exporters.inline import Unfolding, unfold_codes, unfold_floats

SHAPE = (4, 3, 2)


@st.composite
def affine(draw, shape=SHAPE, *, granularities=("tensor", "channel", "group", "odd group")):
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    n_bits, signed = draw(st.integers(2, 10)), draw(st.booleans())
    kind = draw(st.sampled_from(granularities))
    granularity, n_scales = {
        "tensor": (("tensor",), 1),
        "channel": (("channel", 1), shape[-2] if len(shape) > 1 else 1),
        "group": (("group", 2), 12),
        "odd group": (("group", 4), 8),
    }[kind]
    low, high = (-(1 << (n_bits - 1)), (1 << (n_bits - 1)) - 1) if signed else (0, (1 << n_bits) - 1)
    codes = rng.integers(low, high + 1, shape).astype(np.int32)
    zero_point = rng.integers(low, high + 1, n_scales) * draw(st.integers(0, 1))
    scale = rng.uniform(0.01, 1.0, n_scales).astype(np.float32)
    return AffineRecord(codes, scale, np.clip(zero_point, low, high).astype(np.int32), granularity, n_bits, signed)


@st.composite
def codebook(draw):
    size = draw(st.sampled_from([1, 2, 3, 4, 5, 15, 16, 17, 255, 256, 300]))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    indices = rng.integers(0, size, SHAPE).astype(np.uint8 if size <= 256 else np.int32)
    floats = DenseRecord(rng.standard_normal(size).astype(np.float32))
    halves = HalfRecord(rng.standard_normal(size).astype(np.float16))
    return CodebookRecord(indices, draw(st.just(floats) | st.just(halves) | affine((size,), granularities=("tensor",))))


@st.composite
def sparse(draw):
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    dense = DenseRecord(rng.standard_normal(SHAPE).astype(np.float32))
    return SparseRecord(rng.random(SHAPE) < 0.5, draw(codebook() | affine() | st.just(dense) | half()))


@st.composite
def half(draw):
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    return HalfRecord(rng.standard_normal(SHAPE).astype(np.float16))


@st.composite
def scaled(draw):
    axis = draw(st.integers(0, 1))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    return ScaledRecord(
        draw(codebook() | affine() | sparse() | half()), rng.uniform(-1, 1, SHAPE[axis]).astype(np.float32), axis
    )


def unfolded(unfolding: Unfolding, outputs: list[str], *, opset: int = 21) -> list[np.ndarray]:
    graph = helper.make_graph(
        unfolding.nodes,
        "weights",
        [],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        unfolding.initializers,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10 if opset == 21 else 8
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(outputs, {})


@settings(max_examples=150, deadline=None)
@given(codebook() | affine() | sparse() | scaled() | half(), st.sampled_from([15, 20, 21]))
def test_floats_unfold_to_the_bits_of_the_record(record, opset):
    (values,) = unfolded(unfold_floats("w", record, has_int4=opset == 21), ["w"], opset=opset)
    np.testing.assert_array_equal(values, decode_record(record))


@settings(max_examples=150, deadline=None)
@given(codebook() | affine() | sparse() | scaled(), st.sampled_from([15, 20, 21]))
def test_codes_unfold_to_the_integers_of_the_record(record, opset):
    form = integer_form(record)
    if form is None:
        return
    unfolding = unfold_codes("w", record, form, has_int4=opset == 21)
    parts = unfolded(unfolding, ["w/codes", "w/scale", "w/zero_point"], opset=opset)
    for part, expected in zip(parts, (form.codes, form.scale, form.zero_point), strict=True):
        np.testing.assert_array_equal(part, expected)
        assert part.dtype == expected.dtype


def test_fifteen_centroids_and_zero_take_half_a_byte_each():
    support = np.array([True, False, True, True])
    indices = np.array([14, 3, 0, 7], dtype=np.uint8)
    record = SparseRecord(support, CodebookRecord(indices, DenseRecord(np.arange(1, 16, dtype=np.float32))))
    stored = {tensor.name: tensor for tensor in unfold_floats("w", record).initializers}
    assert stored["w/indices"].data_type == onnx.TensorProto.UINT4
    assert stored["w/indices"].raw_data == bytes([14 | 15 << 4, 0 | 7 << 4])


@pytest.mark.parametrize(
    ("size", "has_int4", "expected"),
    [
        (16, True, onnx.TensorProto.UINT4),
        (16, False, onnx.TensorProto.UINT8),
        (256, True, onnx.TensorProto.UINT8),
        (257, True, onnx.TensorProto.UINT16),
        (65536, True, onnx.TensorProto.UINT16),
    ],
)
def test_indices_take_the_smallest_type_that_holds_them(size, has_int4, expected):
    record = CodebookRecord(np.array([0, size - 1], np.int32), DenseRecord(np.arange(size, dtype=np.float32)))
    unfolding = unfold_floats("w", record, has_int4=has_int4)
    assert next(t for t in unfolding.initializers if t.name == "w/indices").data_type == expected
    (values,) = unfolded(unfolding, ["w"])
    assert values.tolist() == [0.0, size - 1.0]


@pytest.mark.parametrize(("n_entries", "width"), [(1, 1), (2, 1), (3, 2), (4, 2)])
@pytest.mark.parametrize("shape", [(1,), (7,), (8,), (9,), (3, 5), (0,), (2, 0), ()])
@pytest.mark.parametrize("opset", [15, 21])
def test_few_entries_take_one_or_two_bits_each(n_entries, width, shape, opset):
    rng = np.random.default_rng(0)
    indices = rng.integers(0, n_entries, shape, dtype=np.uint8)
    record = CodebookRecord(np.asarray(indices), DenseRecord(rng.standard_normal(n_entries).astype(np.float32)))
    unfolding = unfold_floats("w", record, has_int4=opset == 21)
    stored = next(t for t in unfolding.initializers if t.name in {"w/indices/packed", "w/indices"})
    assert len(stored.raw_data) == -(-int(np.prod(shape)) * width // 8)
    (values,) = unfolded(unfolding, ["w"], opset=opset)
    np.testing.assert_array_equal(values, decode_record(record))
    assert values.shape == shape


def test_bits_fill_bytes_from_the_lowest_on():
    indices = np.array([1, 0, 0, 0, 0, 0, 1, 1, 1], np.uint8)
    record = CodebookRecord(indices, DenseRecord(np.array([-1.0, 1.0], np.float32)))
    stored = {t.name: t.raw_data for t in unfold_floats("w", record).initializers}
    assert stored["w/indices/packed"] == bytes([0b11000001, 0b00000001])


def test_a_pruned_binary_weight_takes_two_bits():
    support = np.array([True, False, True, True, True])
    record = SparseRecord(
        support, CodebookRecord(np.array([0, 0, 1, 0, 1], np.uint8), DenseRecord(np.array([-2.0, 2.0], np.float32)))
    )
    unfolding = unfold_floats("w", record)
    stored = {t.name: t.raw_data for t in unfolding.initializers}
    assert stored["w/indices/packed"] == bytes([0b00011000, 0b00000001])
    assert unfolded(unfolding, ["w"])[0].tolist() == [-2.0, 0.0, 2.0, -2.0, 2.0]


def test_a_float16_weight_takes_two_bytes_a_number():
    stored = unfold_floats("w", HalfRecord(np.ones(5, np.float16))).initializers
    assert [(t.data_type, len(t.raw_data)) for t in stored] == [(onnx.TensorProto.FLOAT16, 10)]
