"""This file tests the laws of uniform grids."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dwindle.core.affine import (
    choose_qparams,
    fake_quantize,
    quantize,
    quantize_fixed_point,
    quantize_with,
    value_ranges,
)
from dwindle.core.encoding import code_range, decode
from dwindle.core.granularity import PerChannel, PerGroup, PerTensor, expand
from dwindle.errors import SettingError

FLOATS = st.floats(-(2.0**99), 2.0**99, width=32) | st.floats(-1, 1, width=32)
MATRICES = hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=3, max_side=5), elements=FLOATS).map(
    torch.from_numpy
)
GRANULARITIES = st.sampled_from([PerTensor(), PerChannel(0), PerGroup(1), PerGroup(3), PerGroup(100)])
BITS = st.integers(2, 16)


@given(MATRICES, GRANULARITIES, BITS, st.booleans(), st.booleans())
def test_error_is_at_most_half_a_step_and_zero_is_exact(values, granularity, n_bits, symmetric, signed):
    affine = quantize(values, n_bits=n_bits, granularity=granularity, symmetric=symmetric, signed=signed)
    restored = decode(affine)
    steps = expand(affine.scale, granularity, tuple(values.shape)).expand(values.shape)
    # Codes come from a float32 division and values from a float32 product: each may be off by one part in 2^23.
    slack = values.abs().double() * 2**-22
    assert ((values.double() - restored.double()).abs() <= steps.double() / 2 + slack).all()
    assert (restored[values == 0] == 0).all()
    low, high = code_range(n_bits, signed=signed)
    assert low <= int(affine.zero_point.min()) <= int(affine.zero_point.max()) <= high


@given(MATRICES, GRANULARITIES, BITS, st.booleans())
def test_symmetric_grids_are_idempotent_and_mirror(values, granularity, n_bits, signed):
    once = quantize(values, n_bits=n_bits, granularity=granularity, signed=signed)
    twice = quantize(decode(once), n_bits=n_bits, granularity=granularity, signed=signed)
    normal = values.abs() > 1e-30  # below, scales are floored and codes may vanish
    assert torch.equal(twice.codes[normal], once.codes[normal])
    mirrored = quantize(-values, n_bits=n_bits, granularity=granularity, signed=signed)
    assert torch.equal(decode(mirrored), -decode(once))


@given(MATRICES, GRANULARITIES, BITS, st.booleans(), st.booleans())
def test_what_lies_on_a_grid_stays_on_it(values, granularity, n_bits, symmetric, signed):
    once = quantize(values, n_bits=n_bits, granularity=granularity, symmetric=symmetric, signed=signed)
    again = quantize_with(
        decode(once), once.scale, once.zero_point, granularity=granularity, n_bits=n_bits, signed=signed
    )
    assert torch.equal(again.codes, once.codes)


@given(MATRICES, GRANULARITIES, BITS)
def test_fixed_point_scales_are_powers_of_two_and_nothing_saturates(values, granularity, n_bits):
    affine = quantize_fixed_point(values, n_bits=n_bits, granularity=granularity)
    mantissas, _ = torch.frexp(affine.scale)
    assert set(mantissas.tolist()) <= {0.5}
    assert not affine.zero_point.any()
    step = expand(affine.scale, granularity, tuple(values.shape)).double()
    assert bool(((decode(affine).double() - values.double()).abs() <= step / 2).all())
    again = quantize_fixed_point(decode(affine), n_bits=n_bits, granularity=granularity)
    assert torch.equal(decode(again), decode(affine))
    free = quantize(values, n_bits=n_bits, granularity=granularity)
    is_free = free.scale != 1.0  # the scale of nothing but zeros
    assert bool((affine.scale >= free.scale)[is_free].all())
    assert bool((affine.scale <= 2 * free.scale)[is_free].all())


@pytest.mark.parametrize(
    ("largest", "n_bits", "scale"),
    [
        (1.0, 8, 2.0**-6),
        (127 / 128, 8, 2.0**-7),
        (31.0, 6, 1.0),
        (31.5, 6, 2.0),
        (1e38, 2, 2.0**127),
        (1e-45, 8, 2.0**-126),
    ],
)
def test_the_scale_is_the_smallest_power_of_two_that_covers(largest, n_bits, scale):
    assert quantize_fixed_point(torch.tensor([-largest, 0.0]), n_bits=n_bits).scale.tolist() == [scale]


@given(MATRICES, BITS, st.booleans())
def test_codes_rise_with_values(values, n_bits, symmetric):
    codes = quantize(values, n_bits=n_bits, symmetric=symmetric).codes.flatten()
    assert (codes[values.flatten().argsort()].diff() >= 0).all()


@given(MATRICES, BITS, st.booleans(), st.data())
def test_what_lies_outside_the_support_does_not_matter(values, n_bits, symmetric, data):
    support = torch.from_numpy(data.draw(hnp.arrays(np.bool_, tuple(values.shape))))
    wild = torch.where(support, values, torch.tensor(float("nan")))
    affine = quantize(wild, n_bits=n_bits, symmetric=symmetric, support=support)
    assert (decode(affine)[~support] == 0).all()
    if support.any():
        alone = quantize(values[support], n_bits=n_bits, symmetric=symmetric)
        assert torch.equal(alone.codes, affine.codes[support])


def test_a_signed_symmetric_grid_leaves_its_lowest_code_unused():
    affine = quantize(torch.tensor([-2.0, 2.0]), n_bits=8)
    assert affine.codes.tolist() == [-127, 127]
    assert affine.zero_point.tolist() == [0]


def test_an_unsigned_symmetric_grid_is_centred_at_128():
    affine = quantize(torch.tensor([-2.0, 0.0, 2.0]), n_bits=8, signed=False)
    assert affine.codes.tolist() == [1, 128, 255]


def test_asymmetric_grids_use_every_code():
    affine = quantize(torch.tensor([0.0, 255.0]), n_bits=8, symmetric=False, signed=True)
    assert affine.codes.tolist() == [-128, 127]
    assert affine.scale.tolist() == [1.0]
    assert affine.zero_point.tolist() == [-128]


@pytest.mark.parametrize("value", [0.0, 1e-45, -1e-40, 3.0, -7.5, 1e38, -1e38])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("n_bits", [2, 8, 16])
def test_constant_and_subnormal_tensors_stay_finite(value, symmetric, n_bits):
    affine = quantize(torch.full((4,), value), n_bits=n_bits, symmetric=symmetric)
    assert affine.scale.isfinite().all()
    assert (affine.scale > 0).all()
    torch.testing.assert_close(decode(affine), torch.full((4,), value), atol=1e-38, rtol=1e-6)


def test_the_widest_range_does_not_overflow():
    values = torch.tensor([-1e38, 1e38])
    assert decode(quantize(values, n_bits=2, symmetric=False)).isfinite().all()


@pytest.mark.parametrize(
    ("shape", "granularity", "n"),
    [
        ((0,), PerTensor(), 1),
        ((0, 3), PerChannel(1), 3),
        ((3, 0), PerChannel(1), 0),
        ((0, 3), PerGroup(2), 0),
        ((3, 0), PerGroup(2), 0),
        ((), PerTensor(), 1),
        ((), PerGroup(2), 1),
    ],
)
def test_empty_and_scalar_tensors(shape, granularity, n):
    affine = quantize(torch.ones(shape), n_bits=4, granularity=granularity)
    assert affine.scale.shape == (n,)
    assert torch.equal(decode(affine), torch.ones(shape))


def test_each_channel_and_each_group_has_its_own_range():
    values = torch.tensor([[1.0, -2.0, 3.0], [0.5, 0.25, -8.0]])
    low, high = value_ranges(values, PerChannel(1))
    assert (low.tolist(), high.tolist()) == ([0.0, -2.0, -8.0], [1.0, 0.25, 3.0])
    low, high = value_ranges(values, PerGroup(2))
    assert (low.tolist(), high.tolist()) == ([-2.0, 0.0, 0.0, -8.0], [1.0, 3.0, 0.5, 0.0])


def test_half_precision_weights_are_read_as_float32():
    affine = quantize(torch.tensor([1.0, -0.5], dtype=torch.bfloat16), n_bits=8)
    assert affine.scale.dtype == torch.float32
    assert affine.codes.tolist() == [127, -64]


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        (torch.ones(2), {"n_bits": 1}, r"n_bits must be in \[2, 16\], got 1"),
        (torch.ones(2), {"n_bits": 17}, r"got 17"),
        (torch.ones(2), {"n_bits": 8, "granularity": PerChannel(1)}, "axis=1"),
        (torch.tensor([1.0, float("nan")]), {"n_bits": 8}, "1 of 2 values are NaN"),
        (torch.tensor([float("-inf")]), {"n_bits": 8}, "1 of 1 values"),
        (torch.tensor([2e38]), {"n_bits": 8}, "below 1e\\+38, got 2e\\+38"),
        (torch.ones(2, dtype=torch.int32), {"n_bits": 8}, "floating point values, got torch.int32"),
    ],
)
def test_refusals(values, settings, message):
    with pytest.raises(SettingError, match=message):
        quantize(values, **settings)


@given(MATRICES, BITS, st.booleans(), st.booleans())
def test_fake_quantization_is_the_trip_through_codes(values, n_bits, symmetric, signed):
    affine = quantize(values, n_bits=n_bits, symmetric=symmetric, signed=signed)
    faked = fake_quantize(values, affine.scale, affine.zero_point, n_bits=n_bits, signed=signed)
    assert torch.equal(faked, decode(affine))


def test_fake_quantization_rounds_half_to_even_and_saturates():
    faked = fake_quantize(torch.tensor([0.5, 1.5, -0.5, 1e9, -1e9]), 1.0, 3, n_bits=4, signed=False)
    assert faked.tolist() == [0.0, 2.0, 0.0, 12.0, -3.0]


def test_a_range_always_includes_zero():
    scale, zero_point = choose_qparams(
        torch.tensor([2.0, -4.0]), torch.tensor([4.0, -2.0]), n_bits=4, symmetric=False, signed=False
    )
    assert zero_point.tolist() == [0, 15]
    torch.testing.assert_close(scale, torch.tensor([4.0, 4.0]) / 15)
