"""This file measures the other speeds of a file: processor time of a call, examples per second, and time to load."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from dwindle.bench.measurement import CPU_TIME, LOAD_TIME, THROUGHPUT, Measurement, Subject
from dwindle.bench.probes.latency import Load, stability
from dwindle.bench.protocol import Clock, Timing, repeat
from dwindle.core.statistics import Interval, mean_interval
from dwindle.errors import MeasurementError
from dwindle.runtimes.protocol import Array, Session

N_BLOCKS: Final = 10
_BLOCK_SECONDS: Final = 0.05
"""Of processor time in a block: systems may count it in hundredths of a second."""
_MOST_RUNS: Final = 10_000
N_LOADS: Final = 5


def measure_cpu_time(
    subject: Subject, session: Session, inputs: tuple[Array, ...], *, batch: int = 1, clock: Clock = time.process_time
) -> Measurement:
    """Return the processor time of one call in ms, that of all threads together: mean over blocks, t-interval.

    Other work on the machine stretches a latency but hardly this.

    Raises:
        MeasurementError: the clock of processor time stands still.
    """
    n_runs = _runs_of_a_block(session, inputs, clock)
    blocks = [_block(session, inputs, n_runs, clock=clock) for _ in range(N_BLOCKS)]
    conditions: dict[str, str | float] = {"batch": batch, "runs_in_a_block": n_runs}
    return subject.measured(CPU_TIME, _mean_time(blocks), protocol="cpu time", conditions=conditions)


def measure_throughput(subject: Subject, timing: Timing, *, batch: int, protocol: str) -> Measurement:
    """Return examples per second: `batch` over the mean latency of a call, whose interval it takes over."""
    mean = timing.mean
    value, low, high = (1e3 * batch / ms for ms in (mean.value, mean.high, mean.low))
    interval = Interval(value=value, low=low, high=max(high, value), n=mean.n)
    return subject.measured(THROUGHPUT, interval, protocol=protocol, conditions={"batch": batch, **stability(timing)})


def measure_load_time(subject: Subject, load: Load, *, clock: Clock = time.perf_counter) -> Measurement:
    """Return the time in ms from the file's name to a session that is ready: mean of several loads, t-interval.

    The file was read before, so that the disk is not measured; a load before the timed ones sees to it.
    """
    samples = [_load_once(load, clock) for _ in range(N_LOADS + 1)][1:]
    return subject.measured(LOAD_TIME, _mean_time(samples), protocol="load time")


def _mean_time(samples_ms: Sequence[float]) -> Interval:
    """Return the mean with its t-interval, which knows nothing of times: none is below 0."""
    found = mean_interval(samples_ms)
    return replace(found, low=max(found.low, 0.0))


def _load_once(load: Load, clock: Clock) -> float:
    start = clock()
    with load():
        return 1e3 * (clock() - start)


def _runs_of_a_block(session: Session, inputs: tuple[Array, ...], clock: Clock) -> int:
    n_runs = 1
    while (spent := _block(session, inputs, n_runs, clock=clock) * n_runs / 1e3) < _BLOCK_SECONDS:
        if n_runs >= _MOST_RUNS:
            if spent > 0:
                break
            raise MeasurementError(f"{n_runs} runs took no processor time by this clock; leave cpu_time out here")
        n_runs = min(
            _MOST_RUNS, 2 * n_runs if spent <= 0 else max(n_runs + 1, int(1.2 * n_runs * _BLOCK_SECONDS / spent))
        )
    return n_runs


def _block(session: Session, inputs: tuple[Array, ...], n_runs: int, *, clock: Clock) -> float:
    start = clock()
    repeat(lambda: session.run(*inputs), n_runs)
    return 1e3 * (clock() - start) / n_runs
