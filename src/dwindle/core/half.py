"""This file rounds floats to float16 and says what that cost; what float16 cannot hold is an error."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

from dwindle.core.encoding import Half
from dwindle.errors import EncodingError

LARGEST: Final = 65504.0
"""The largest finite float16; from 65520 on, rounding would give infinity."""
SMALLEST_NORMAL: Final = 2.0**-14
"""Below it a float16 loses bits; below 2^-25 it is zero."""


class HalfLoss(NamedTuple):
    """What rounding to float16 cost.

    Attributes:
        max_absolute_error: the largest difference.
        n_flushed: values that were not zero and have become zero.
        n_subnormal: values that kept fewer than the 11 bits of a float16.
    """

    max_absolute_error: float
    n_flushed: int
    n_subnormal: int


def to_half(values: Tensor) -> Half:
    """Return `values` (float, any shape) rounded to the nearest float16, ties to even (IEEE 754-2019, section 4.3.1).

    Raises:
        EncodingError: a value is beyond the range of float16, or not finite.

    >>> to_half(torch.tensor([0.1])).values.item()
    0.0999755859375
    """
    rounded = values.to(torch.float16)
    if not bool(torch.isfinite(rounded).all()):
        n_beyond = int((~torch.isfinite(rounded)).sum())
        largest = float(values.abs().max())
        raise EncodingError(
            f"{n_beyond} values lie beyond +-{LARGEST:.0f}, the range of float16 (largest: {largest:.4g}); "
            "leave this tensor out of the selection, or scale it down"
        )
    return Half(rounded)


def half_loss(values: Tensor, rounded: Half) -> HalfLoss:
    """Return what was lost on the way from `values` to `rounded`, of one shape.

    >>> half_loss(torch.tensor([1e-9, 1.0]), to_half(torch.tensor([1e-9, 1.0])))
    HalfLoss(max_absolute_error=1e-09, n_flushed=1, n_subnormal=0)
    """
    after = rounded.values.double()
    before = values.double()
    error = float((after - before).abs().max()) if before.numel() else 0.0
    n_flushed = int(((before != 0) & (after == 0)).sum())
    n_subnormal = int(((after != 0) & (after.abs() < SMALLEST_NORMAL)).sum())
    return HalfLoss(float(f"{error:.6g}"), n_flushed, n_subnormal)
