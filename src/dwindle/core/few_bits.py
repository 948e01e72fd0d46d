"""This file rounds values in [-1, 1] to the two to sixteen levels of 1 to 4 bits.

Abishek (2022), section 3.3: weights are centred, clipped to [-1, 1], rounded to levels and multiplied by one factor
alpha, after XNOR-Net (Rastegari et al. 2016); activations are clipped and rounded likewise, without a factor. Levels
are odd multiples of 1 / (2^b - 1) where all codes of b bits are used ("full": +-1 at 1 bit, +-1/3 and +-1 at 2 bits),
and multiples of 1 / (2^(b-1) - 1) where the lowest code is left out so that zero is a level ("restricted": -1, 0, 1 at
2 bits).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, cast

import torch
from torch import Tensor

from dwindle.errors import SettingError

LevelRange: TypeAlias = Literal["full", "restricted"]
FactorRule: TypeAlias = Literal["l1", "least_squares"]
"""How the factor follows from centred, clipped weights c and their levels m.

"l1": the mean of |c|, which minimizes |c - alpha m|^2 at 1 bit and which the thesis keeps at all widths.
"least_squares": <c, m> / <m, m>, which minimizes it at any width (the thesis prints the norm without its square).
"""
FactorGradient: TypeAlias = Literal["exact", "own_weight"]
"""What a weight's gradient knows of the factor.

"exact": the factor depends on every weight, so every weight's gradient holds the sum over all (the thesis's
correction). "own_weight": XNOR-Net's, 1 / n times the weight's own gradient.
"""
Spread: TypeAlias = Literal["deviation", "none"]
"""What centred weights are divided by before they are clipped to [-1, 1].

"deviation": a multiple of their standard deviation, so that weights of any size use all levels. "none": nothing, as in
the thesis; weights of a usual size then lie so close to zero that of the four levels of 2 bits they meet two.
"""
MOST_BITS: Final = 4
HIGHEST_LEVEL: Final = {1: 0.798, 2: 1.494, 3: 2.051, 4: 2.513}
"""Where the highest level of the uniform quantizer of least squared error lies, in standard deviations of a normal
distribution, by number of bits (Max, "Quantizing for minimum distortion", 1960, table 2)."""


@dataclass(frozen=True, slots=True)
class Levels:
    """The levels of `n_bits`: value = code * `unit` for odd ("full") or all ("restricted") codes up to `highest`."""

    n_bits: int
    kind: LevelRange = "full"

    def __post_init__(self) -> None:
        if not 1 <= self.n_bits <= MOST_BITS:
            raise SettingError(f"levels of 1 to {MOST_BITS} bits, got {self.n_bits}; QuantizeAware has more")
        if self.kind == "restricted" and self.n_bits == 1:
            raise SettingError("the restricted range of 1 bit holds nothing but zero; use the full range, or 2 bits")

    @property
    def highest(self) -> int:
        """The largest code; the lowest is its negative."""
        return (1 << self.n_bits) - 1 if self.kind == "full" else (1 << (self.n_bits - 1)) - 1

    @property
    def unit(self) -> float:
        """The value of code 1."""
        return 1.0 / self.highest

    def codes(self, c: Tensor) -> Tensor:
        """Return the code, as float32, of the level nearest to each of `c`, values in [-1, 1].

        Between two levels the higher one is taken: at 1 bit zero has the code 1.

        >>> Levels(2).codes(torch.tensor([-1.0, -0.2, 0.0, 0.9])).tolist()
        [-3.0, -1.0, 1.0, 3.0]
        >>> Levels(2, "restricted").codes(torch.tensor([-1.0, -0.2, 0.6])).tolist()
        [-1.0, 0.0, 1.0]
        """
        if self.kind == "full":
            return 2.0 * torch.floor((c + 1.0) * (self.highest / 2.0) + 0.5) - self.highest
        return torch.floor(c * self.highest + 0.5)


def round_activation(x: Tensor, levels: Levels) -> Tensor:
    """Return `x`, any shape, clipped to [-1, 1] and rounded to `levels`; the gradient passes where |x| <= 1.

    At 1 bit this is the sign, and a zero stays zero: behind a ReLU the two values are 0 and 1.

    >>> round_activation(torch.tensor([-0.3, 0.0, 2.0]), Levels(1)).tolist()
    [-1.0, 0.0, 1.0]
    """
    c = x.clamp(-1.0, 1.0)
    if levels.n_bits == 1:
        return stand_in(torch.sign(x.detach()), c)
    return stand_in(levels.codes(c.detach()) * levels.unit, c)


def stand_in(value: Tensor, surrogate: Tensor) -> Tensor:
    """Return `value` exactly, with the gradient of `surrogate`, of one shape."""
    return cast("Tensor", _StandIn.apply(value, surrogate))


class _StandIn(torch.autograd.Function):
    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        _, value, _ = arguments
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, Tensor]:
        del ctx
        return None, grad_outputs[0]
