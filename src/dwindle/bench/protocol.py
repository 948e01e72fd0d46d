"""This file holds the latency protocol: when to warm up, how often to repeat, when to stop.

After Qin et al.: load time excluded, warm-up, then repeats until the 95 % t-interval of the mean lies within 5 % of the
mean. A narrow interval is believed late: it may only not have met a rare slow run yet. Where it cannot be reached
inside the limits, the outcome says so. All time comes from a `clock` argument.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from dwindle.core.statistics import Interval, mean_interval
from dwindle.errors import MeasurementError, SettingError

Action = Callable[[], object]
Clock = Callable[[], float]
"""Returns seconds that only grow, as `time.perf_counter`."""
_FEWEST: Final = 3
"""Runs that are timed even after the time limit: fewer give no interval."""
FEWEST_ROUNDS: Final = 5
"""Rounds of two in turn, timed even after the time limit: a t-interval over fewer is too wide to say anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyProtocol:
    """How latency is measured.

    Attributes:
        level: of the t-interval.
        relative_width: stop once half the interval is at most this fraction of the mean.
        n_warmup: untimed runs first.
        min_repeats: timed runs before stopping is considered; the interval is wrong if it may stop on a lucky few.
        enough_repeats: timed runs after which a narrow interval is believed. What happens once in 100 runs is missed by
            300 runs in 5 of 100 measurements (0.99^300), by 30 runs in 74.
        enough_seconds: timing after which `min_repeats` are enough for that: some networks take long.
        max_repeats: timed runs after which it stops in any case.
        seconds: wall-clock limit for one action, twice that for two in turn; loading does not count, and a few runs are
            timed anyway.
        block: timed runs between two looks at the interval; two in turn change sides after each block.
        n_rounds: of two in turn: how often both are loaded anew; see `interleaved`.
        n_pairs: of two in turn: pairs of blocks in one round.
        seed: of two in turn: shuffles who goes first.
    """

    level: float = 0.95
    relative_width: float = 0.05
    n_warmup: int = 5
    min_repeats: int = 30
    enough_repeats: int = 300
    enough_seconds: float = 2.0
    max_repeats: int = 2000
    seconds: float = 10.0
    block: int = 5
    n_rounds: int = 10
    n_pairs: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise SettingError(f"level must lie between 0 and 1, such as 0.95, got {self.level}")
        for name in ("relative_width", "seconds"):
            if not getattr(self, name) > 0:
                raise SettingError(f"{name} must be positive, got {getattr(self, name)}")
        if self.n_warmup < 0 or self.block < 1 or not _FEWEST <= self.min_repeats <= self.max_repeats:
            raise SettingError(
                f"n_warmup must be at least 0, block at least 1 and {_FEWEST} <= min_repeats <= max_repeats; got "
                f"{self.n_warmup}, {self.block}, {self.min_repeats}, {self.max_repeats}"
            )
        if self.enough_repeats < 1 or not self.enough_seconds >= 0:
            raise SettingError(
                f"enough_repeats must be at least 1 and enough_seconds not negative; got {self.enough_repeats}, "
                f"{self.enough_seconds}"
            )
        if self.n_rounds < FEWEST_ROUNDS or self.n_pairs < 1 or self.seed < 0:
            raise SettingError(
                f"n_rounds must be at least {FEWEST_ROUNDS}, n_pairs at least 1 and seed not negative; got "
                f"{self.n_rounds}, {self.n_pairs}, {self.seed}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Timed runs of one action.

    Attributes:
        stopped_by: "interval" if it became narrow enough; else the limit that came first: "repeats" or "time".
    """

    samples_ms: tuple[float, ...]
    level: float
    stopped_by: str

    @property
    def is_stable(self) -> bool:
        """Whether the interval became as narrow as the protocol asks."""
        return self.stopped_by == "interval"

    @property
    def mean(self) -> Interval:
        """Mean latency in ms with its t-interval, which ends at the shortest run: the mean run is no shorter.

        Other work only adds time, so a run is longer than the true mean at most every second time, and all n are in at
        most 2^-n of the measurements: of 30 runs never, of the 3 that stand after a time limit in 1 of 8.
        """
        found = mean_interval(self.samples_ms, level=self.level)
        return replace(found, low=max(found.low, min(self.samples_ms)))


def time_action(action: Action, protocol: LatencyProtocol, *, clock: Clock = time.perf_counter) -> Timing:
    """Return the latency of `action`, which must be loaded and ready.

    Raises:
        MeasurementError: the clock does not move during a run.
    """
    start = clock()
    repeat(action, protocol.n_warmup)
    samples: list[float] = []
    while (stopped_by := _stop(samples, protocol, clock() - start)) is None:
        samples.append(time_once(action, clock))
    return Timing(samples_ms=tuple(samples), level=protocol.level, stopped_by=stopped_by)


def repeat(action: Action, n: int) -> None:
    """Run `action` `n` times, untimed."""
    for _ in range(n):
        action()


def time_once(action: Action, clock: Clock) -> float:
    """Return the milliseconds that one run of `action` takes.

    Raises:
        MeasurementError: the clock does not move meanwhile.
    """
    start = clock()
    action()
    elapsed_ms = (clock() - start) * 1e3
    if not elapsed_ms > 0:
        raise MeasurementError(f"a run took {elapsed_ms} ms by this clock; use one that resolves a single run")
    return elapsed_ms


def quantile_interval(samples: tuple[float, ...], quantile: float, *, level: float = 0.95) -> tuple[Interval, float]:
    """Return a quantile with an interval of order statistics, and the level that interval really has.

    Distribution-free: the number of samples below the true quantile is binomial (n, quantile). A tail needs many
    samples: the 90th percentile has no upper bound at 95 % below n = 36, and the true level says so.

    Raises:
        MeasurementError: there are no samples.

    >>> quantile_interval(tuple(range(1, 101)), 0.5)[0]
    Interval(value=50.5, low=40, high=61, n=100)
    """
    from scipy.special import bdtr  # imported late, as in core/statistics.py

    n = len(samples)
    if n == 0:
        raise MeasurementError("a quantile needs at least one sample; none was given")
    ordered = sorted(samples)
    position = quantile * (n - 1)
    below = math.floor(position)
    above = min(below + 1, n - 1)
    value = ordered[below] + (position - below) * (ordered[above] - ordered[below])
    tail = (1 - level) / 2
    cumulated = np.asarray(bdtr(np.arange(n + 1.0), n, quantile))  # P(number below <= k)
    # The quantile lies in [x_(low), x_(high)] (ranks from 1) where low <= number below < high.
    low = max(int(np.searchsorted(cumulated, tail)), 1)
    high = min(int(np.searchsorted(cumulated, 1 - tail)) + 1, n)
    reached = float(cumulated[high - 1] - cumulated[low - 1])
    bounds = (min(ordered[low - 1], value), max(ordered[high - 1], value))
    return Interval(value=value, low=bounds[0], high=bounds[1], n=n), reached


def _stop(samples: list[float], protocol: LatencyProtocol, elapsed: float) -> str | None:
    n = len(samples)
    if n < _FEWEST:
        return None
    limit = "repeats" if n >= protocol.max_repeats else "time" if elapsed >= protocol.seconds else None
    is_enough = n >= protocol.enough_repeats or elapsed >= protocol.enough_seconds
    # Looking after every run would stop on a lucky streak more often; at a limit it is looked at once more.
    may_look = n >= protocol.min_repeats and (limit is not None or (is_enough and n % protocol.block == 0))
    if may_look and is_narrow(mean_interval(samples, level=protocol.level), protocol):
        return "interval"
    return limit


def is_narrow(interval: Interval, protocol: LatencyProtocol) -> bool:
    """Return whether half of `interval` is as narrow as `protocol` asks."""
    return interval.half_width <= protocol.relative_width * interval.value
