"""This file turns floats into integer codes on a uniform grid: value = (code - zero_point) * scale.

Symmetric grids: Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference", 2018, section 2.2;
asymmetric grids: Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only
inference", CVPR 2018, section 2.1. Codes are rounded half to even, as ONNX QuantizeLinear does. Fixed point (the
format that Qin et al. 2018 compare at 6, 8 and 16 bits) is the symmetric grid whose scale is a power of two.
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
    values = _prepared(values, support)
    lows, highs = value_ranges(values, granularity)
    scale, zero_point = choose_qparams(lows, highs, n_bits=n_bits, symmetric=symmetric, signed=signed)
    return quantize_with(values, scale, zero_point, granularity=granularity, n_bits=n_bits, signed=signed)


def quantize_fixed_point(
    values: Tensor, *, n_bits: int, granularity: Granularity = WHOLE_TENSOR, support: Tensor | None = None
) -> Affine:
    """Quantize `values` in fixed point: signed codes around 0, as scale the smallest power of two that covers them.

    Nothing saturates, so |x - decode(x)| <= scale / 2 everywhere: a step down would halve the error of most values but
    clip the largest ones, and which of the two costs more only data can tell. A scale of 2^-f is the format Qm.f with
    m = n_bits - 1 - f integer bits beside the sign.

    Args:
        values: finite floats of any shape.
        n_bits: width of a code, 2 to 16.
        granularity: which weights share one scale.
        support: bool, the shape of `values`; what lies outside is neither looked at nor kept.

    Raises:
        SettingError: `n_bits` out of range, an axis that does not exist, NaN, infinity or a magnitude beyond 1e38.

    >>> found = quantize_fixed_point(torch.tensor([-1.0, 0.3]), n_bits=6)
    >>> found.codes.tolist(), found.scale.tolist()
    ([-16, 5], [0.0625])
    """
    values = _prepared(values, support)
    scale, zero_point = choose_qparams(
        *value_ranges(values, granularity), n_bits=n_bits, symmetric=True, signed=True, power_of_two=True
    )
    return quantize_with(values, scale, zero_point, granularity=granularity, n_bits=n_bits, signed=True)


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


def choose_qparams(
    low: Tensor, high: Tensor, *, n_bits: int, symmetric: bool, signed: bool, power_of_two: bool = False
) -> tuple[Tensor, Tensor]:
    """Return (scale float32, zero_point int32) of the grids that cover [low, high] and zero; shapes as `low`.

    A symmetric grid leaves its lowest code unused, so that negation is exact: [-127, 127] around 0 at 8 bits signed,
    [1, 255] around 128 unsigned. A range of nothing but zero gets scale 1, and no scale falls below the smallest
    normal float32, so that dividing by it stays finite. With `power_of_two` a scale is rounded up to the next one.

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
    step = (width / n_steps).clamp(min=tiny)
    if power_of_two:
        mantissa, exponent = torch.frexp(step)  # step = mantissa * 2^exponent, mantissa in [0.5, 1)
        step = torch.ldexp(torch.ones_like(step), exponent - (mantissa == 0.5).to(exponent.dtype))
    scale = torch.where(width > 0, step, torch.ones_like(width)).to(torch.float32)
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


def _prepared(values: Tensor, support: Tensor | None) -> Tensor:
    """Return `values` as finite float32, zero outside `support`."""
    if support is not None:
        values = torch.where(support, values, torch.zeros((), dtype=values.dtype))
    low, high = require_finite(values, "quantize")
    if max(-low, high) > MAX_MAGNITUDE:
        raise SettingError(f"quantize: magnitudes must stay below {MAX_MAGNITUDE:g}, got {max(-low, high):g}")
    return values.detach().to(torch.float32)


def dynamic_qparams(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return (scale, zero_point), float32 (), of the unsigned 8-bit grid that covers all of `x` and zero.

    Bit for bit those of ONNX DynamicQuantizeLinear, which computes them in float32.

    >>> dynamic_qparams(torch.tensor([-1.0, 0.5, 4.1]))
    (tensor(0.0200), tensor(50.))
    """
    ends = torch.aminmax(x)
    low, high = ends.min.clamp(max=0.0), ends.max.clamp(min=0.0)
    n_steps = torch.full_like(low, 255.0)  # a tensor: torch may multiply by the reciprocal of a number
    scale = torch.where(high > low, (high - low) / n_steps, torch.ones_like(low))
    return scale, torch.round((-low / scale).clamp(0.0, 255.0))


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
