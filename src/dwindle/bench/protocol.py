"""This file holds the latency protocol: when to warm up, how often to repeat, when to stop, and two files in turn.

After Qin et al.: load time excluded, warm-up, then repeats until the 95 % t-interval of the mean lies within 5 % of the
mean. Where that cannot be reached inside the limits, the outcome says so. All time comes from a `clock` argument.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from dwindle.core.statistics import Interval, mean_interval
from dwindle.errors import MeasurementError, SettingError

Action = Callable[[], object]
Clock = Callable[[], float]
"""Returns seconds that only grow, as `time.perf_counter`."""
_FEWEST: Final = 3
"""Runs that are timed even after the time limit: fewer give no interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyProtocol:
    """How latency is measured.

    Attributes:
        level: of the t-interval.
        relative_width: stop once half the interval is at most this fraction of the mean.
        n_warmup: untimed runs first.
        min_repeats: timed runs before stopping is considered; the interval is wrong if it may stop on a lucky few.
        max_repeats: timed runs after which it stops in any case.
        seconds: wall-clock limit for one action, twice that for `compare`; three runs (three blocks) are timed anyway.
        block: timed runs between two looks at the interval; `compare` changes sides after each block.
    """

    level: float = 0.95
    relative_width: float = 0.05
    n_warmup: int = 5
    min_repeats: int = 30
    max_repeats: int = 2000
    seconds: float = 10.0
    block: int = 5

    def __post_init__(self) -> None:
        if not 0 < self.level < 1 or not self.relative_width > 0 or not self.seconds > 0:
            raise SettingError(
                f"level must lie between 0 and 1, relative_width and seconds must be positive; got {self.level}, "
                f"{self.relative_width}, {self.seconds}"
            )
        if self.n_warmup < 0 or self.block < 1 or not _FEWEST <= self.min_repeats <= self.max_repeats:
            raise SettingError(
                f"n_warmup must be at least 0, block at least 1 and {_FEWEST} <= min_repeats <= max_repeats; got "
                f"{self.n_warmup}, {self.block}, {self.min_repeats}, {self.max_repeats}"
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
        """Mean latency in ms with its t-interval."""
        return mean_interval(self.samples_ms, level=self.level)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two actions, timed in turn.

    Attributes:
        ratio: latency of a ÷ latency of b: geometric mean, over pairs of neighbouring blocks, of the ratio of the
            blocks' medians, with its t-interval. Both blocks of a pair see the same state of the machine, so a slow
            phase cancels out, and a median does not see the single runs that another process interrupted.
        is_stable: whether half the interval of the ratio is as narrow as the protocol asks.
    """

    a: Timing
    b: Timing
    ratio: Interval
    is_stable: bool


def time_action(action: Action, protocol: LatencyProtocol, *, clock: Clock = time.perf_counter) -> Timing:
    """Return the latency of `action`, which must be loaded and ready.

    Raises:
        MeasurementError: the clock does not move during a run.
    """
    start = clock()
    _repeat(action, protocol.n_warmup)
    samples: list[float] = []
    while (stopped_by := _stop((samples,), protocol, clock() - start)) is None:
        samples.append(_time_once(action, clock))
    return Timing(samples_ms=tuple(samples), level=protocol.level, stopped_by=stopped_by)


def compare(a: Action, b: Action, protocol: LatencyProtocol, *, clock: Clock = time.perf_counter) -> Comparison:
    """Return the latencies of `a` and `b`, timed in alternating blocks (a b, b a, a b, ...).

    The first run of each block is not timed: it finds the caches full of the other side's data.

    Raises:
        MeasurementError: the clock does not move during a run.
    """
    start = clock()
    for action in (a, b):
        _repeat(action, protocol.n_warmup)
    sides: tuple[tuple[Action, list[float]], ...] = ((a, []), (b, []))
    samples = tuple(times for _, times in sides)
    n_pairs = 0
    while (stopped_by := _stop(samples, protocol, (clock() - start) / 2)) is None or n_pairs < _FEWEST:
        for action, times in sides if n_pairs % 2 == 0 else sides[::-1]:
            _repeat(action, 1)
            times.extend(_time_once(action, clock) for _ in range(protocol.block))
        n_pairs += 1
    timings = (Timing(samples_ms=tuple(s), level=protocol.level, stopped_by=stopped_by) for s in samples)
    ratio = _paired_ratio(samples, protocol)
    is_stable = ratio.half_width <= protocol.relative_width * ratio.value
    return Comparison(a=next(timings), b=next(timings), ratio=ratio, is_stable=is_stable)


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


def _repeat(action: Action, n: int) -> None:
    for _ in range(n):
        action()


def _time_once(action: Action, clock: Clock) -> float:
    start = clock()
    action()
    elapsed_ms = (clock() - start) * 1e3
    if not elapsed_ms > 0:
        raise MeasurementError(f"a run took {elapsed_ms} ms by this clock; use one that resolves a single run")
    return elapsed_ms


def _stop(sides: tuple[list[float], ...], protocol: LatencyProtocol, elapsed: float) -> str | None:
    n = min(map(len, sides))
    if n < _FEWEST:
        return None
    # Looking after every run would stop on a lucky streak more often.
    may_stop = n >= protocol.min_repeats and n % protocol.block == 0
    if may_stop and all(_is_narrow(samples, protocol) for samples in sides):
        return "interval"
    if n >= protocol.max_repeats:
        return "repeats"
    return "time" if elapsed >= protocol.seconds else None


def _is_narrow(samples: list[float], protocol: LatencyProtocol) -> bool:
    mean = mean_interval(samples, level=protocol.level)
    return mean.half_width <= protocol.relative_width * mean.value


def _paired_ratio(sides: tuple[list[float], ...], protocol: LatencyProtocol) -> Interval:
    a, b = (np.median(np.reshape(times, (-1, protocol.block)), axis=1) for times in sides)
    logs = mean_interval(np.log(a / b), level=protocol.level)
    return Interval(value=math.exp(logs.value), low=math.exp(logs.low), high=math.exp(logs.high), n=logs.n)
