"""This file measures latency: one loaded file alone, or two in turn with the speed-up between them."""

from __future__ import annotations

import gc
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from dwindle.bench.measurement import (
    LATENCY,
    LATENCY_MEDIAN,
    LATENCY_P90,
    SPEEDUP,
    Measurement,
    Metric,
    Subject,
)
from dwindle.bench.protocol import Clock, Comparison, LatencyProtocol, Timing, compare, quantile_interval, time_action
from dwindle.runtimes.protocol import Array, Session

ALONE: Final = "latency"
IN_TURN: Final = "latency, interleaved"
_QUANTILES: Final = {LATENCY_MEDIAN: 0.5, LATENCY_P90: 0.9}


def time_session(
    session: Session, inputs: tuple[Array, ...], protocol: LatencyProtocol, *, clock: Clock = time.perf_counter
) -> Timing:
    """Return the latency of a loaded `session` on one batch."""
    with _no_garbage_collection():
        return time_action(lambda: session.run(*inputs), protocol, clock=clock)


def compare_sessions(
    sessions: tuple[Session, Session],
    inputs: tuple[Array, ...],
    protocol: LatencyProtocol,
    *,
    clock: Clock = time.perf_counter,
) -> Comparison:
    """Return the latencies of two loaded sessions on one batch, timed in turn."""
    first, second = sessions
    with _no_garbage_collection():
        return compare(lambda: first.run(*inputs), lambda: second.run(*inputs), protocol, clock=clock)


def measure_latency(subject: Subject, timing: Timing, *, protocol: str = ALONE) -> tuple[Measurement, ...]:
    """Return mean, median and 90th percentile in ms; all say `unstable: yes` if the mean did not settle."""
    conditions: dict[str, str | float] = _stability(timing)
    mean = subject.measured(LATENCY, timing.mean, protocol=protocol, conditions=conditions)
    return (mean, *(_quantile(subject, timing, protocol=protocol, metric=metric) for metric in _QUANTILES))


def measure_speedup(subject: Subject, comparison: Comparison, *, baseline: str) -> Measurement:
    """Return how many times faster b is than a; `subject` is b, `baseline` the sha256 of a."""
    unstable = _stability(comparison.a) | _stability(comparison.b)
    return subject.measured(SPEEDUP, comparison.ratio, protocol=IN_TURN, conditions={"baseline": baseline, **unstable})


def _quantile(subject: Subject, timing: Timing, *, protocol: str, metric: Metric) -> Measurement:
    interval, level = quantile_interval(timing.samples_ms, _QUANTILES[metric], level=timing.level)
    reached: dict[str, str | float] = {} if level >= timing.level else {"level": level}
    return subject.measured(metric, interval, protocol=protocol, conditions={**_stability(timing), **reached})


def _stability(timing: Timing) -> dict[str, str | float]:
    level: dict[str, str | float] = {} if timing.level == 0.95 else {"level": timing.level}
    return level if timing.is_stable else {**level, "unstable": "yes", "stopped_by": timing.stopped_by}


@contextmanager
def _no_garbage_collection() -> Generator[None]:
    """Keep Python's collector from running inside a timed run, as `timeit` does."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
