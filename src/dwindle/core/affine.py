"""This file turns floats into integer codes on a uniform grid: value = (code - zero_point) * scale.

Symmetric grids: Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference", 2018, section 2.2;
asymmetric grids: Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only
inference", CVPR 2018, section 2.1. Codes are rounded half to even, as ONNX QuantizeLinear does.
"""

from __future__ import annotations

from typing import Final, assert_never

import torch
from torch import Tensor
from torch.nn.functional import pad

from dwindle.core.encoding import MAX_BITS, MIN_BITS, Affine, code_range
from dwindle.core.finite import require_finite
from dwindle.core.granularity import Granularity, PerChannel, PerGroup, PerTensor, expand, n_scales, row_shape
from dwindle.errors import SettingError

WHOLE_TENSOR: Final = PerTensor()
MAX_MAGNITUDE: Final = 1e38
"""Larger values could overflow float32 when they are rounded away from zero."""


def quantize(
    values: Tensor,
    *,
    n_bits: int,
    granularity: Granularity = WHOLE_TENSOR,
    symmetric: bool = True,
    signed: bool = True,
    support: Tensor | None = None,
) -> Affine:
    """Quantize `values` on the grid that covers them; |x - decode(x)| <= scale / 2, and zero stays exactly zero.

    Args:
        values: finite floats of any shape.
        n_bits: width of a code, 2 to 16.
        granularity: which weights share one scale.
        symmetric: whether the grid lies symmetric about zero.
        signed: whether codes may be negative.
        support: bool, the shape of `values`; what lies outside is neither looked at nor kept: its code is `zero_point`.

    Raises:
        SettingError: `n_bits` out of range, an axis that does not exist, NaN, infinity or a magnitude beyond 1e38.

    >>> quantize(torch.tensor([-1.0, 0.0, 0.5]), n_bits=8).codes.tolist()
    [-127, 0, 64]
    """
    if support is not None:
        values = torch.where(support, values, torch.zeros((), dtype=values.dtype))
    low, high = require_finite(values, "quantize")
    if max(-low, high) > MAX_MAGNITUDE:
        raise SettingError(f"quantize: magnitudes must stay below {MAX_MAGNITUDE:g}, got {max(-low, high):g}")
    values = values.detach().to(torch.float32)
    lows, highs = value_ranges(values, granularity)
    scale, zero_point = choose_qparams(lows, highs, n_bits=n_bits, symmetric=symmetric, signed=signed)
    return quantize_with(values, scale, zero_point, granularity=granularity, n_bits=n_bits, signed=signed)


def quantize_with(
    values: Tensor, scale: Tensor, zero_point: Tensor, *, granularity: Granularity, n_bits: int, signed: bool
) -> Affine:
    """Quantize finite `values` on a grid that is given; what lies beyond its ends is clipped to them.

    Args:
        values: floats of any shape.
        scale: float32 (n_scales,), positive.
        zero_point: int32 (n_scales,).
        granularity: which weights share one scale.
        n_bits: width of a code, 2 to 16.
        signed: whether codes may be negative.
    """
    shape = tuple(values.shape)
    low, high = code_range(n_bits, signed=signed)
    codes = torch.round(values.to(torch.float32) / expand(scale, granularity, shape))
    codes = codes.add_(expand(zero_point, granularity, shape)).clamp_(low, high).to(torch.int32)
    return Affine(codes, scale, zero_point, granularity, n_bits, signed)


def choose_qparams(low: Tensor, high: Tensor, *, n_bits: int, symmetric: bool, signed: bool) -> tuple[Tensor, Tensor]:
    """Return (scale float32, zero_point int32) of the grids that cover [low, high] and zero; shapes as `low`.

    A symmetric grid leaves its lowest code unused, so that negation is exact: [-127, 127] around 0 at 8 bits signed,
    [1, 255] around 128 unsigned. A range of nothing but zero gets scale 1, and no scale falls below the smallest
    normal float32, so that dividing by it stays finite.

    Raises:
        SettingError: `n_bits` out of range.

    >>> choose_qparams(torch.tensor([-1.0]), torch.tensor([2.0]), n_bits=2, symmetric=False, signed=False)
    (tensor([1.]), tensor([1], dtype=torch.int32))
    """
    if not MIN_BITS <= n_bits <= MAX_BITS:
        raise SettingError(f"n_bits must be in [{MIN_BITS}, {MAX_BITS}], got {n_bits}")
    code_low, code_high = code_range(n_bits, signed=signed)
    low64, high64 = low.double().clamp(max=0.0), high.double().clamp(min=0.0)
    if symmetric:
        width, n_steps = torch.maximum(-low64, high64), (1 << (n_bits - 1)) - 1
    else:
        width, n_steps = high64 - low64, code_high - code_low
    tiny = torch.finfo(torch.float32).tiny
    scale = torch.where(width > 0, (width / n_steps).clamp(min=tiny), torch.ones_like(width)).to(torch.float32)
    if symmetric:
        return scale, torch.full_like(scale, code_high - n_steps, dtype=torch.int32)
    zero_point = torch.round(code_low - low64 / scale.double()).clamp(code_low, code_high)
    return scale, zero_point.to(torch.int32)


def fake_quantize(x: Tensor, scale: Tensor | float, zero_point: Tensor | int, *, n_bits: int, signed: bool) -> Tensor:
    """Return what is left of `x` after a trip through codes; `scale` and `zero_point` broadcast against `x`.

    The arithmetic is that of ONNX QuantizeLinear and DequantizeLinear: divide, round half to even, shift, saturate.

    >>> fake_quantize(torch.tensor([-0.4, 0.3, 9.0]), 0.25, 0, n_bits=4, signed=False).tolist()
    [0.0, 0.25, 3.75]
    """
    low, high = code_range(n_bits, signed=signed)
    return (torch.clamp(torch.round(x / scale) + zero_point, low, high) - zero_point) * scale


def value_ranges(values: Tensor, granularity: Granularity) -> tuple[Tensor, Tensor]:
    """Return (low, high), each (n_scales,): the range of every set of weights that shares one scale, zero included.

    Raises:
        SettingError: an axis that does not exist.
    """
    n = n_scales(tuple(values.shape), granularity)
    if values.numel() == 0:
        return torch.zeros(n), torch.zeros(n)
    match granularity:
        case PerTensor():
            sets = values.reshape(1, -1)
        case PerChannel(axis):
            sets = values.movedim(axis, 0).reshape(n, -1)
        case PerGroup(size):
            n_rows, n_columns = row_shape(tuple(values.shape))
            rows, size = values.reshape(n_rows, n_columns), min(size, n_columns)
            sets = pad(rows, (0, -n_columns % size)).reshape(n, size)  # zeros, which the range includes anyway
        case _:
            assert_never(granularity)
    low, high = torch.aminmax(sets, dim=1)
    return low.clamp(max=0.0), high.clamp(min=0.0)
