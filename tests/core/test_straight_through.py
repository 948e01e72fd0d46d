"""Activations on a grid: bit for bit as torch has them, in any order of memory; and the extremes of a tensor."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dwindle.core.encoding import code_range
from dwindle.core.straight_through import BLOCK, extremes, on_grid

SHAPES = [(), (1,), (7,), (0, 3), (3, 5, 4, 2), (2, 1, 3, 1), (2, BLOCK - 3)]


def laid_out(x: Tensor, layout: str) -> Tensor:
    """Return `x` with its numbers in another order of memory, or with gaps between them."""
    if layout == "channels last" and x.ndim == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "transposed" and x.ndim > 1:
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "with gaps" and x.ndim:
        return torch.stack((x, x), -1)[..., 0]
    return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "channels last", "transposed", "with gaps"])
@pytest.mark.parametrize("shape", SHAPES)
def test_answer_and_gradient_are_those_of_torch(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(len(shape))
    x = laid_out((torch.randn(shape, generator=generator) * 3).to(dtype), layout)
    upstream = torch.randn(shape, generator=generator).to(dtype)
    for n_bits, signed, scale, zero_point in ((8, False, 0.013, 100), (2, True, 0.7, 0), (16, False, 1e-4, 30_000)):
        step, zero = torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32)
        ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        kept = on_grid(ours, step, zero, n_bits=n_bits, signed=signed)
        first, last = code_range(n_bits, signed=signed)
        expected = torch.fake_quantize_per_tensor_affine(theirs.float(), step, zero, first, last).to(dtype)
        assert (kept.dtype, kept.shape) == (dtype, x.shape)
        assert torch.equal(kept, expected)
        kept.backward(upstream)
        expected.backward(upstream)
        assert torch.equal(ours.grad, theirs.grad)
        assert torch.equal(x, ours)  # nothing is changed in place


@given(st.floats(1e-6, 1e6), st.integers(2, 16), st.booleans(), st.integers(0, 2**31))
def test_any_scale(scale: float, n_bits: int, signed: bool, seed: int) -> None:
    first, last = code_range(n_bits, signed=signed)
    generator = torch.Generator().manual_seed(seed)
    zero = torch.randint(first, last + 1, (), generator=generator, dtype=torch.int32)
    step = torch.tensor(scale)
    x = torch.randn(50, generator=generator) * scale * 2**n_bits
    kept = on_grid(x, step, zero, n_bits=n_bits, signed=signed)
    assert torch.equal(kept, torch.fake_quantize_per_tensor_affine(x, step, zero, first, last))


def test_what_is_infinite_ends_at_the_end_and_nan_stays_to_be_seen() -> None:
    x = torch.tensor([math.inf, -math.inf, math.nan, 0.4], requires_grad=True)
    kept = on_grid(x, torch.tensor(0.5), torch.tensor(1, dtype=torch.int32), n_bits=2, signed=False)
    assert kept[:2].tolist() == [1.0, -0.5]
    assert kept[2].isnan()
    kept.nansum().backward()
    assert x.grad.tolist() == [0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("layout", ["contiguous", "channels last", "transposed", "with gaps"])
def test_extremes(layout: str) -> None:
    for shape in (shape for shape in SHAPES if math.prod(shape)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        for given_x in (x, x.bfloat16()):
            low, high = extremes(laid_out(given_x, layout))
            assert (low.dtype, low.shape, high.shape) == (torch.float32, (), ())
            assert (low, high) == (given_x.float().min(), given_x.float().max())
    assert all(end.isnan() for end in extremes(torch.tensor([1.0, math.nan])))
