"""This file holds the ranges of activations that are trained along with a network, and the quantizers they end as."""

from __future__ import annotations

import math
from typing import Any, Final, Literal, cast

import torch
from torch import Tensor, nn

from dwindle.core.affine import choose_qparams, fake_quantize
from dwindle.core.encoding import code_range
from dwindle.core.learned_step import TINY
from dwindle.core.straight_through import extremes, on_grid
from dwindle.network.activations import ActivationQuantizer

RangeKind = Literal["moving_average", "learned"]
"""How the range of an activation follows the training.

"moving_average": the extremes of each batch, smoothed (Jacob et al. 2018). "learned": the step by gradient
(Esser et al. 2020), the zero point as calibrated.
"""
MOMENTUM: Final = 0.01
"""How far a range moves towards the extremes of a batch."""
BEGIN: Final = 0.02
"""What stands for the calibrated step where it is trained: about as large as a step of 8 bits is."""


def trained_range(start: ActivationQuantizer, kind: RangeKind) -> MovingRange | LearnedRange:
    """Return a range of `kind` that begins at `start`."""
    return MovingRange(start) if kind == "moving_average" else LearnedRange(start)


class MovingRange(nn.Module):
    """A range that covers zero and moves with what it sees in training, until it is frozen.

    Attributes:
        low: float32 (), where the range begins; a buffer, like the others.
        high: float32 (), where it ends.
        frozen: bool (), whether it has stopped to move.
    """

    low: Tensor
    high: Tensor
    frozen: Tensor

    def __init__(self, start: ActivationQuantizer) -> None:
        super().__init__()
        first, last = code_range(start.n_bits, signed=start.signed)
        first = max(first, -last)  # a symmetric grid leaves its lowest code unused
        self.n_bits, self.signed = start.n_bits, start.signed
        self.register_buffer("low", torch.tensor((first - start.zero_point) * start.scale, dtype=torch.float32))
        self.register_buffer("high", torch.tensor((last - start.zero_point) * start.scale, dtype=torch.float32))
        self.register_buffer("frozen", torch.tensor(False))  # ruff: ignore[boolean-positional-value-in-call]

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` as its codes say it; any shape."""
        if self.training and x.numel() and not bool(self.frozen):
            low, high = extremes(x)
            self.low.lerp_(low.clamp(max=0.0), MOMENTUM)
            self.high.lerp_(high.clamp(min=0.0), MOMENTUM)
        scale, zero_point = self._grid()
        if _is_only_asked(self, x):
            return fake_quantize(x.float(), scale, zero_point, n_bits=self.n_bits, signed=self.signed).to(x.dtype)
        return on_grid(x, scale, zero_point, n_bits=self.n_bits, signed=self.signed)

    def quantizer(self) -> ActivationQuantizer:
        """Return what the range has become."""
        scale, zero_point = self._grid()
        return ActivationQuantizer(
            scale=float(scale), zero_point=int(zero_point), n_bits=self.n_bits, signed=self.signed
        )

    def _grid(self) -> tuple[Tensor, Tensor]:
        return choose_qparams(self.low, self.high, n_bits=self.n_bits, symmetric=self.signed, signed=self.signed)


class LearnedRange(nn.Module):
    """A range whose step is learned by gradient; its zero point stays.

    What is trained is not the step, whose size depends on the activations and the number of bits (0.02 at 8 bits is
    0.00008 at 16), but `BEGIN` times its ratio to the calibrated one: so one learning rate fits every range.

    Attributes:
        growth: (1,), a parameter that begins at `BEGIN`; the step is growth / `BEGIN` times the calibrated one.
        start: (), a buffer: the calibrated step.
        zero_point: int32 (), a buffer.
    """

    start: Tensor
    zero_point: Tensor

    def __init__(self, start: ActivationQuantizer) -> None:
        super().__init__()
        self.n_bits, self.signed = start.n_bits, start.signed
        self.growth = nn.Parameter(torch.tensor([BEGIN], dtype=torch.float32))
        self.register_buffer("start", torch.tensor(start.scale, dtype=torch.float32))
        self.register_buffer("zero_point", torch.tensor(start.zero_point, dtype=torch.int32))

    @property
    def step(self) -> Tensor:
        """The step as it is, (1,), positive."""
        return (self.growth.abs() / BEGIN * self.start).clamp(min=TINY)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` as its codes say it; any shape (batch, ...)."""
        step = self.step
        if _is_only_asked(self, x):
            return fake_quantize(x.float(), step.detach(), self.zero_point, n_bits=self.n_bits, signed=self.signed).to(
                x.dtype
            )
        kept = _Learned.apply(x.float(), step, self.zero_point, self.n_bits, self.signed)
        return cast("Tensor", kept).to(x.dtype)

    def quantizer(self) -> ActivationQuantizer:
        """Return what the range has become."""
        scale = float(self.step.detach())
        return ActivationQuantizer(scale=scale, zero_point=int(self.zero_point), n_bits=self.n_bits, signed=self.signed)


def _is_only_asked(module: nn.Module, x: Tensor) -> bool:
    """Return whether an answer is wanted and no gradient: then it is the one of the exported file to the last bit.

    The faster operation of training multiplies by the reciprocal of the scale, which moves a value at a tie by a code.
    """
    return not module.training and not (torch.is_grad_enabled() and x.requires_grad)


class _Learned(torch.autograd.Function):
    """As `core.learned_step`, for large tensors with one step: fewer passes over memory."""

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        ctx, x, step, zero_point, n_bits, signed = arguments
        kept = on_grid(x, step.reshape(()), zero_point, n_bits=n_bits, signed=signed)
        ctx.save_for_backward(x, kept, step, zero_point)
        ctx.ends = code_range(n_bits, signed=signed)
        return kept

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        x, kept, step, zero_point = ctx.saved_tensors
        low, high = ((end - zero_point) * step for end in ctx.ends)
        inside = (x >= low) & (x <= high)
        # Inside, kept - x is the error of rounding; outside, kept is the end of the range.
        share = torch.where(inside, kept - x, kept).mul_(grad_outputs[0])
        per_example = x.numel() / max(len(x), 1) if x.ndim else 1.0
        weight = 1.0 / math.sqrt(max(per_example, 1.0) * max(abs(end) for end in ctx.ends))
        return grad_outputs[0] * inside, share.sum().reshape(1) / step * weight, None, None, None
