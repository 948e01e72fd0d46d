"""This file says which of repeated calls count, the middle half by duration, and how sure a mean over them is.

Other work disturbs some calls. Leaving out the slowest and the fastest quarter also narrows the spread of what depends
on the duration, so the spread of the calls that are left is not that of their mean: the choice is part of the figure,
and the interval repeats it.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from dwindle.core.statistics import Interval, mean_interval
from dwindle.errors import SettingError
from dwindle.runtimes.protocol import Array

FEW: Final = 8
"""Calls of which all count towards an interval: of fewer, a half says too little about its spread."""
N_RESAMPLED: Final = 400
"""The standard error of a bootstrap with so many is itself known to 4 %."""
SEED: Final = 0


def middle_half(durations: Array, *, few: int = FEW) -> Array:
    """Return the places of the middle half of the calls by their duration; all of them where they are fewer than `few`.

    >>> middle_half(np.array([3.0, 1.0, 100.0, 2.0]), few=4)
    array([0, 3])
    """
    order = np.argsort(durations, kind="stable")
    cut = _cut(len(order), few)
    return np.sort(order[cut : len(order) - cut])


def middle_mean(durations: Array) -> float:
    """Return the mean of the middle half: single runs are whole microseconds, and some are disturbed.

    >>> middle_mean(np.array([1.0, 2.0, 3.0, 100.0]))
    2.5
    """
    return float(durations[middle_half(durations, few=1)].mean())


def resampled_halves(durations: Array, *, seed: int = SEED) -> Array | None:
    """Return the middle halves of calls drawn anew with replacement, (`N_RESAMPLED`, calls that count) places.

    None where all calls count: then there is no choice to repeat.
    """
    n = len(durations)
    cut = _cut(n, FEW)
    if not cut:
        return None
    drawn = np.random.default_rng(seed).integers(0, n, (N_RESAMPLED, n))
    drawn.sort(axis=1)  # of places in the order of durations, so each row is sorted by duration
    return np.argsort(durations, kind="stable")[drawn[:, cut : n - cut]]


def middle_interval(values: Array, kept: Array, halves: Array | None) -> Interval:
    """Return the mean of `values` over the calls that count, with its 95 % interval.

    The standard error is that of the whole procedure (draw calls, leave out a quarter at each end, average), by B.
    Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7, 1979. Student's quantile has the
    freedom of the calls that count, as in J. W. Tukey and D. H. McLaughlin, "Less vulnerable confidence and
    significance procedures for location based on a single sample", Sankhya A 25, 1963, for a bootstrap alone is too
    narrow with few calls. Calls count as independent.

    Args:
        values: (n,) a figure of each call.
        kept: places of the calls that count, from `middle_half`.
        halves: of the same calls, from `resampled_halves`.

    Raises:
        SettingError: fewer than two calls count, or values are not finite.
    """
    from scipy.special import stdtrit  # imported late: scipy costs a tenth of a second

    if halves is None:
        return mean_interval(values[kept])
    if not np.isfinite(values).all():
        raise SettingError("middle_interval: values must be finite; drop the failed calls before averaging")
    mean = float(values[kept].mean())
    half = float(stdtrit(len(kept) - 1, 0.975)) * math.sqrt(float(values[halves].mean(axis=1).var(ddof=1)))
    return Interval(mean, mean - half, mean + half, len(kept))


def _cut(n: int, few: int) -> int:
    return n // 4 if n >= few else 0
