from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwindle.container.integer import bytes_in_runtime, integer_form
from dwindle.container.records import (
    AffineRecord,
    CodebookRecord,
    DenseRecord,
    ScaledRecord,
    SparseRecord,
    decode_record,
)


def affine(shape, granularity=("tensor",), n_scales=1, *, n_bits=8, signed=True, seed=0, symmetric=False):
    rng = np.random.default_rng(seed)
    low = -(1 << (n_bits - 1)) if signed else 0
    codes = rng.integers(low + 1, low + (1 << n_bits), shape, dtype=np.int32)
    scale = rng.uniform(0.01, 0.1, n_scales).astype(np.float32)
    zero = np.zeros(n_scales, np.int32)
    zero_point = zero if symmetric else rng.integers(low, low + (1 << n_bits), n_scales, dtype=np.int32)
    return AffineRecord(codes, scale, zero_point, granularity, n_bits, signed)


def value_of(form):
    shape = [-1 if i == form.axis else 1 for i in range(form.codes.ndim)] if form.axis is not None else ()
    centred = form.codes.astype(np.int32) - form.zero_point.astype(np.int32).reshape(shape)
    return centred.astype(np.float32) * form.scale.reshape(shape)


@given(
    n_bits=st.integers(2, 8),
    signed=st.booleans(),
    axis=st.sampled_from([None, 0, 1]),
    sparse=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_integers_stand_for_the_decoded_values(n_bits, signed, axis, sparse, seed):
    granularity, n_scales = (("tensor",), 1) if axis is None else (("channel", axis), (4, 3)[axis])
    record = affine((4, 3, 2), granularity, n_scales, n_bits=n_bits, signed=signed, seed=seed)
    if sparse:
        record = SparseRecord(np.random.default_rng(seed).random((4, 3, 2)) < 0.5, record)
    form = integer_form(record)
    assert form.codes.dtype == form.zero_point.dtype == np.int8
    assert form.scale.dtype == np.float32
    assert form.axis == axis
    assert form.scale.shape == form.zero_point.shape == (() if axis is None else (n_scales,))
    assert np.array_equal(value_of(form), decode_record(record))


def test_codebooks_of_integers():
    indices = np.array([[0, 3], [2, 1]], np.uint8)
    record = CodebookRecord(indices, affine((4,)))
    assert np.array_equal(value_of(integer_form(record)), decode_record(record))
    assert integer_form(CodebookRecord(indices, DenseRecord(np.ones(4, np.float32)))) is None


@pytest.mark.parametrize("inner_axis", [None, 0])
def test_factors_join_the_scale_and_negative_ones_mirror_the_codes(inner_axis):
    granularity, n = (("tensor",), 1) if inner_axis is None else (("channel", 0), 3)
    inner = affine((3, 5), granularity, n, symmetric=True)
    factor = np.array([2.0, -0.5, 0.0], np.float32)
    form = integer_form(ScaledRecord(inner, factor, 0))
    assert form.axis == 0
    assert (form.scale >= 0).all()
    np.testing.assert_allclose(value_of(form), decode_record(ScaledRecord(inner, factor, 0)), rtol=1e-6)
    support = np.random.default_rng(0).random((3, 5)) < 0.5
    sparse = ScaledRecord(SparseRecord(support, inner), factor, 0)
    np.testing.assert_allclose(value_of(integer_form(sparse)), decode_record(sparse), rtol=1e-6)
    assert (integer_form(sparse).codes[~support] == 0).all()


def test_what_no_engine_computes_with():
    assert integer_form(DenseRecord(np.ones(3, np.float32))) is None
    assert integer_form(affine((4, 3), n_bits=9)) is None
    assert integer_form(affine((4, 3), ("group", 2), 8)) is None
    assert integer_form(SparseRecord(np.ones(3, np.bool_), DenseRecord(np.ones(3)))) is None
    other_axis = ScaledRecord(affine((4, 3), ("channel", 1), 3, symmetric=True), np.ones(4, np.float32), 0)
    assert integer_form(other_axis) is None
    lowest = AffineRecord(np.array([[-128]]), np.ones(1, np.float32), np.zeros(1, np.int32), ("tensor",), 8, True)
    assert integer_form(lowest) is not None
    assert integer_form(ScaledRecord(lowest, np.array([-1.0], np.float32), 0)) is None


def test_an_empty_tensor_has_integers():
    assert integer_form(affine((0, 3))).codes.shape == (0, 3)


def test_bytes_in_runtime():
    record = affine((4, 3), ("channel", 0), 4)
    assert bytes_in_runtime(record, is_integer=True) == 12 + 4 * 4 + 4
    assert bytes_in_runtime(record, is_integer=False) == 48
    assert bytes_in_runtime(DenseRecord(np.zeros(3, np.int64)), is_integer=True) == 24
