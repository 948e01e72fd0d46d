"""This file measures latency: one loaded file alone, or two in turn with the speed-up between them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from dwindle.bench.interleaved import Comparison, Loader, compare
from dwindle.bench.measurement import (
    LATENCY,
    LATENCY_MEDIAN,
    LATENCY_P90,
    SPEEDUP,
    Measurement,
    Subject,
)
from dwindle.bench.protocol import Action, Clock, LatencyProtocol, Timing, quantile_interval, time_action
from dwindle.runtimes.protocol import Array, Session

ALONE: Final = "latency"
IN_TURN: Final = "latency, interleaved"
Load = Callable[[], AbstractContextManager[Session]]


def time_session(
    session: Session, inputs: tuple[Array, ...], protocol: LatencyProtocol, *, clock: Clock = time.perf_counter
) -> Timing:
    """Return the latency of a loaded `session` on one batch."""
    with _no_garbage_collection():
        return time_action(lambda: session.run(*inputs), protocol, clock=clock)


def compare_loads(
    loads: tuple[Load, Load],
    inputs: tuple[Array, ...],
    protocol: LatencyProtocol,
    *,
    clock: Clock = time.perf_counter,
) -> Comparison:
    """Return the latencies of two files on one batch, timed in turn; each of `loads` opens its file anew."""
    first, second = (_loader(load, inputs) for load in loads)
    with _no_garbage_collection():
        return compare(first, second, protocol, clock=clock)


def measure_latency(
    subject: Subject, timing: Timing, *, batch: int = 1, protocol: str = ALONE
) -> tuple[Measurement, ...]:
    """Return mean, median and 90th percentile in ms of a call with `batch` examples.

    All three say `unstable: yes` and what stopped the timing if the mean did not settle.
    """
    common = {"batch": batch, **stability(timing)}
    mean = subject.measured(LATENCY, timing.mean, protocol=protocol, conditions=common)
    found = [mean]
    for metric, quantile in ((LATENCY_MEDIAN, 0.5), (LATENCY_P90, 0.9)):
        interval, level = quantile_interval(timing.samples_ms, quantile, level=timing.level)
        reached = {"level": level} if level < timing.level else {}
        found.append(subject.measured(metric, interval, protocol=protocol, conditions={**common, **reached}))
    return tuple(found)


def measure_speedup(subject: Subject, comparison: Comparison, *, baseline: str, batch: int = 1) -> Measurement:
    """Return how many times faster b is than a; `subject` is b, `baseline` the sha256 of a."""
    conditions = {"batch": batch, "baseline": baseline, **_level(comparison.a)}
    if not comparison.is_stable:
        conditions |= {"unstable": "yes", "stopped_by": comparison.a.stopped_by}
    return subject.measured(SPEEDUP, comparison.ratio, protocol=IN_TURN, conditions=conditions)


def _loader(load: Load, inputs: tuple[Array, ...]) -> Loader:
    @contextmanager
    def loaded() -> Generator[Action]:
        with load() as session:
            yield lambda: session.run(*inputs)

    return loaded


def stability(timing: Timing) -> dict[str, str | float]:
    """Return the conditions that say whether the timing settled, and at which level."""
    return _level(timing) if timing.is_stable else _level(timing) | {"unstable": "yes", "stopped_by": timing.stopped_by}


def _level(timing: Timing) -> dict[str, str | float]:
    return {} if timing.level == 0.95 else {"level": timing.level}


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
