"""This file chooses the range that a grid of codes covers, from a histogram of the values that it is to hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, assert_never

import torch
from torch import Tensor

from dwindle.core.affine import choose_qparams, fake_quantize
from dwindle.core.encoding import code_range
from dwindle.errors import SettingError
from dwindle.settings import require_kinds

N_BINS: Final = 8192
SHRINKS: Final = torch.linspace(1.0, 0.02, 99, dtype=torch.float64)
"""Fractions of the full range that `Mse` tries."""


@dataclass(frozen=True, slots=True)
class MinMax:
    """The range covers every calibration value; nothing is clipped, one outlier makes the grid coarse."""


@dataclass(frozen=True, slots=True)
class Percentile:
    """The range ends at the `p`-th and the (100 - `p`)-th percentile of the calibration values, and includes zero."""

    p: float = 99.99

    def __post_init__(self) -> None:
        require_kinds(self)
        if not 50 < self.p <= 100:
            raise SettingError(f"Percentile: p must be in (50, 100], got {self.p}")


@dataclass(frozen=True, slots=True)
class Mse:
    """The range with the smallest mean squared error between values and quantized values on the calibration data."""


Method = MinMax | Percentile | Mse


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How the ranges of activations are found.

    Attributes:
        n: how many examples are looked at, at most: the first ones of the calibration data, so shuffle data that are
            sorted by class.
        method: how a range follows from the values seen.
    """

    n: int = 512
    method: Method = field(default_factory=Mse)

    def __post_init__(self) -> None:
        require_kinds(self)
        if self.n < 1:
            raise SettingError(f"Calibration: n must be at least 1 example, got {self.n}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The grids that an activation may get.

    Attributes:
        n_bits: width of a code.
        symmetric: signed codes and zero point 0; else unsigned codes and a zero point that follows the range.
        power_of_two: whether a scale is rounded up to a power of two.
    """

    n_bits: int = 8
    symmetric: bool = False
    power_of_two: bool = False

    def cover(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Return (scale, zero_point) of the grids that cover [low, high]; shapes as `low`."""
        return choose_qparams(
            low,
            high,
            n_bits=self.n_bits,
            symmetric=self.symmetric,
            signed=self.symmetric,
            power_of_two=self.power_of_two,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """How often a value occurred: float64 `counts` in equal bins from `low` to `high`."""

    low: float
    high: float
    counts: Tensor

    @property
    def centres(self) -> Tensor:
        """The middle of each bin, float64."""
        width = (self.high - self.low) / self.counts.numel()
        return self.low + width * (torch.arange(self.counts.numel(), dtype=torch.float64) + 0.5)


def choose_range(
    histogram: Histogram, method: Method, grid: Grid, *, ends: tuple[float, float] | None = None
) -> tuple[float, float]:
    """Return the (low, high) around zero that `method` picks for the values in `histogram`.

    Args:
        histogram: the values.
        method: how to pick.
        grid: what the range is for.
        ends: smallest and largest of the values, where the histogram reaches further than they do.

    >>> values = Histogram(0.0, 1.0, torch.tensor([9.0, 0.0, 0.0, 1.0], dtype=torch.float64))
    >>> choose_range(values, Percentile(80.0), Grid())
    (0.0, 0.25)
    """
    low, high = (histogram.low, histogram.high) if ends is None else ends
    low, high = min(low, 0.0), max(high, 0.0)
    match method:
        case MinMax():
            return low, high
        case Percentile(p):
            return _percentiles(histogram, p)
        case Mse():
            return _least_error(histogram, grid, (low, high))
        case _:
            assert_never(method)


def clipped_fraction(histogram: Histogram, grid: Grid, *, scale: float, zero_point: int) -> float:
    """Return the fraction of values more than half a step outside the grid, where the error exceeds rounding."""
    n_values = float(histogram.counts.sum())
    if n_values == 0.0:
        return 0.0
    first, last = code_range(grid.n_bits, signed=grid.symmetric)
    codes = histogram.centres / scale + zero_point
    outside = (codes < first - 0.5) | (codes > last + 0.5)
    return float(histogram.counts[outside].sum()) / n_values


def _percentiles(histogram: Histogram, p: float) -> tuple[float, float]:
    n_values = float(histogram.counts.sum())
    if n_values == 0.0:
        return 0.0, 0.0
    below = histogram.counts.cumsum(0) / n_values
    n_bins = histogram.counts.numel()
    width = (histogram.high - histogram.low) / n_bins
    last = int(torch.searchsorted(below, p / 100.0))
    first = int(torch.searchsorted(below, 1.0 - p / 100.0, right=True))
    low = histogram.low + width * min(first, n_bins - 1)
    high = histogram.low + width * (min(last, n_bins - 1) + 1)
    return min(low, 0.0), max(high, 0.0)


def _least_error(histogram: Histogram, grid: Grid, full: tuple[float, float]) -> tuple[float, float]:
    """Shrink both ends together, then each alone in turn; one pass each way is enough for unimodal errors."""
    lows, highs = (end * SHRINKS for end in full)
    if full[1] <= full[0]:
        return full
    low, high = _best(histogram, grid, lows=lows, highs=highs)
    if low < 0.0 < high and not grid.symmetric:
        for _ in range(2):
            low, high = _best(histogram, grid, lows=lows, highs=torch.full_like(highs, high))
            low, high = _best(histogram, grid, lows=torch.full_like(lows, low), highs=highs)
    return low, high


def _best(histogram: Histogram, grid: Grid, *, lows: Tensor, highs: Tensor) -> tuple[float, float]:
    """Return the pair among `lows` and `highs`, each (n_candidates,), with the smallest squared error.

    Up to 8 bits a step is wide against a bin, so rounding is counted. Finer grids would resonate with the bins: there
    a rounding error is taken to be uniform within a step (variance scale^2 / 12), and clipping alone is counted.
    """
    held = histogram.counts > 0
    values, counts = histogram.centres[held], histogram.counts[held]
    scales, zero_points = grid.cover(lows, highs)
    scale, zero_point = scales.double()[:, None], zero_points[:, None]
    if grid.n_bits <= 8:
        kept = fake_quantize(values[None, :], scale, zero_point, n_bits=grid.n_bits, signed=grid.symmetric)
        errors = (kept - values).square_() @ counts
    else:
        first, last = code_range(grid.n_bits, signed=grid.symmetric)
        clipped = torch.clamp(values[None, :], (first - zero_point) * scale, (last - zero_point) * scale)
        errors = (clipped - values).square_() @ counts + counts.sum() * scale[:, 0].square() / 12
    best = int(errors.argmin())
    return float(lows[best]), float(highs[best])
