"""This file rounds floats to a grid whose step is learned by gradient, and finds the step to start from.

Esser et al., "Learned step size quantization", ICLR 2020: with v = x / s the value on the grid is s * round(v), kept
between the ends of the codes; its derivative by x is 1 inside the range and 0 outside (straight through), and by s

    round(v) - v  inside the range,    the lowest or the highest code  outside of it.
"""

from __future__ import annotations

import math
from typing import Any, Final, cast

import torch
from torch import Tensor

from dwindle.core.affine import value_ranges
from dwindle.core.encoding import code_range
from dwindle.core.granularity import Granularity, PerChannel, PerGroup, PerTensor, expand, n_scales
from dwindle.errors import SettingError

SHRINKS: Final = tuple(1.0 - 0.02 * i for i in range(46))
"""Fractions of the largest magnitude at which `least_error_step` lets the grid end."""
TINY: Final = torch.finfo(torch.float32).tiny


def round_to_step(x: Tensor, step: Tensor, *, granularity: Granularity, n_bits: int) -> Tensor:
    """Return `x` on the grid of signed codes that lies symmetric about zero, differentiable by `x` and by `step`.

    The gradient of a step is divided by sqrt(number of values that share it * highest code), which keeps updates of
    steps and of weights in proportion (Esser et al. 2020, section 2.2).

    Args:
        x: floats of any shape.
        step: (n_scales,), positive.
        granularity: which values share a step: all of them, or those of one index of an axis.
        n_bits: width of a code, 2 to 16.

    >>> round_to_step(torch.tensor([-0.6, 0.2, 9.0]), torch.tensor([0.25]), granularity=PerTensor(), n_bits=3).tolist()
    [-0.5, 0.25, 0.75]
    """
    return cast("Tensor", _RoundToStep.apply(x, step, granularity, highest_code(n_bits)))


def highest_code(n_bits: int) -> int:
    """Return the largest code of a symmetric grid, whose lowest code is its negative."""
    return code_range(n_bits, signed=True)[1]


def least_error_step(values: Tensor, *, granularity: Granularity, n_bits: int, support: Tensor | None = None) -> Tensor:
    """Return the steps, float32 (n_scales,), with the smallest squared error among those that clip little to much.

    Args:
        values: finite floats of any shape.
        granularity: which values share a step.
        n_bits: width of a code, 2 to 16.
        support: bool, the shape of `values`: what counts; None: all of them.

    >>> least_error_step(torch.tensor([1.0, -1.0, 0.1]), granularity=PerTensor(), n_bits=2)
    tensor([1.])
    """
    values = values.detach().float()
    if support is not None:
        values = torch.where(support, values, torch.zeros(()))  # zero lies on every grid and costs nothing
    low, high = value_ranges(values, granularity)
    widest = torch.maximum(-low, high) / highest_code(n_bits)
    best, least = widest.clamp(min=TINY), torch.full_like(widest, math.inf)  # errors beyond float32 are never less
    for fraction in SHRINKS:
        step = (widest * fraction).clamp(min=TINY)
        error = _sums(
            (_on_grid(values, expand(step, granularity, tuple(values.shape)), highest_code(n_bits)) - values).square(),
            granularity,
        )
        best, least = torch.where(error < least, step, best), torch.minimum(error, least)
    return torch.where(widest > 0, best, torch.ones_like(best))


def _on_grid(x: Tensor, spread: Tensor, highest: int) -> Tensor:
    return torch.round(x / spread).clamp_(-highest, highest) * spread


def _sums(values: Tensor, granularity: Granularity) -> Tensor:
    """Return the sum (n_scales,) over the values that share a scale.

    Raises:
        SettingError: groups, which engines have no integer kernels for.
    """
    match granularity:
        case PerTensor():
            return values.sum().reshape(1)
        case PerChannel(axis):
            return values.movedim(axis, 0).flatten(1).sum(1) if values.ndim > 1 else values
        case PerGroup():
            raise SettingError(f"steps are learned for PerTensor() and PerChannel(axis), got {granularity}")


class _RoundToStep(torch.autograd.Function):
    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        ctx, x, step, granularity, highest = arguments
        spread = expand(step, granularity, tuple(x.shape))
        v = x / spread
        codes = torch.round(v).clamp_(-highest, highest)
        ctx.save_for_backward(v, codes)
        ctx.granularity, ctx.highest = granularity, highest
        ctx.weight = 1.0 / math.sqrt(max(x.numel() / max(n_scales(tuple(x.shape), granularity), 1), 1.0) * highest)
        return codes * spread

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None]:
        v, codes = ctx.saved_tensors
        grad, inside = grad_outputs[0], v.abs() <= ctx.highest
        by_step = _sums((codes - v * inside) * grad, ctx.granularity) * ctx.weight
        return grad * inside, by_step, None, None
