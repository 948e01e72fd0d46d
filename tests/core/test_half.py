"""This file tests rounding to float16 against NumPy, and what it says was lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dwindle.core.encoding import Codebook, Half, Scaled, Sparse, decode, describe, is_half, restrict, rewrite, streams
from dwindle.core.half import half_loss, to_half
from dwindle.core.rate import estimate_bits
from dwindle.errors import EncodingError

FLOATS = st.lists(st.floats(-65504, 65504, width=32), max_size=20)


@given(FLOATS)
def test_it_rounds_as_numpy_does_and_decodes_to_float32(numbers: list[float]):
    values = torch.tensor(numbers, dtype=torch.float32)
    half = to_half(values)
    assert np.array_equal(half.values.numpy(), values.numpy().astype(np.float16))
    assert decode(half).dtype == torch.float32
    assert torch.equal(to_half(decode(half)).values, half.values)


@given(FLOATS)
def test_the_loss_is_what_differs(numbers: list[float]):
    values = torch.tensor(numbers, dtype=torch.float32)
    half = to_half(values)
    loss = half_loss(values, half)
    difference = (decode(half).double() - values.double()).abs()
    assert loss.max_absolute_error == pytest.approx(float(difference.max()) if numbers else 0.0, rel=1e-5)
    assert loss.n_flushed == sum(n != 0 and np.float16(n) == 0 for n in numbers)
    assert loss.n_subnormal == sum(0 < abs(float(np.float16(n))) < 2**-14 for n in numbers)


@pytest.mark.parametrize("value", [65520.0, -1e9, float("inf"), float("nan")])
def test_what_float16_cannot_hold_is_an_error(value: float):
    with pytest.raises(EncodingError, match=r"1 values lie beyond \+-65504.*leave this tensor out"):
        to_half(torch.tensor([1.0, value]))


def test_the_largest_that_rounds_down_is_kept():
    assert to_half(torch.tensor([65519.0])).values.item() == 65504.0


def test_only_float16_is_half():
    with pytest.raises(EncodingError, match=r"must be float16, got torch\.float32"):
        Half(torch.zeros(1))


def test_it_is_an_encoding_like_the_others():
    values = torch.randn(3, 4)
    half = to_half(values)
    sparse = restrict(half, torch.eye(3, 4, dtype=torch.bool))
    book = Codebook(torch.zeros(2, 2, dtype=torch.uint8), to_half(torch.ones(3)))
    scaled = Scaled(half, torch.ones(4), 1)
    words = [describe(encoding) for encoding in (half, sparse, book, scaled)]
    assert words == ["Half", "Sparse(Half)", "Codebook(3, Half)", "Scaled(Half)"]
    assert all(map(is_half, (half, sparse, book, scaled)))
    assert estimate_bits(half) == 16 * 12
    assert [stream.name for stream in streams(sparse)] == ["support", "values.values"]
    again = rewrite(scaled, lambda values, support, is_codebook: to_half(values * 2))
    assert isinstance(again, Scaled)
    assert torch.equal(decode(again), 2 * decode(half))
    assert isinstance(sparse, Sparse)
