"""This file measures how long a file takes for a whole data set: every call timed, one after the other.

Predic et al. (2022) compare networks by this figure. Calls that follow each other share what the machine does
meanwhile, so the interval is that of batch means: the calls are cut into blocks, and a block counts as one observation
(A. M. Law and W. D. Kelton, Simulation Modeling and Analysis, 1991). It says nothing of what another load of the file
or another hour would give; to say which of two files is faster, time them in turn.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from dwindle.bench.batches import Answering
from dwindle.bench.measurement import TEST_TIME, Measurement, Metric, Subject
from dwindle.bench.protocol import Clock
from dwindle.core.statistics import Interval, mean_interval
from dwindle.errors import MeasurementError
from dwindle.runtimes.protocol import Array

PROTOCOL: Final = "whole set"
N_BLOCKS: Final = 20


@dataclass(frozen=True, slots=True, eq=False)
class TimedSession:
    """A session that notes how long each of its calls takes, in seconds: on the clock, and of processor time.

    Processor time is that of all threads of this process; other work on the machine hardly changes it.
    """

    session: Answering
    clock: Clock = time.perf_counter
    cpu_clock: Clock = time.process_time
    seconds: list[float] = field(default_factory=list[float])
    cpu_seconds: list[float] = field(default_factory=list[float])

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Return what the session answers."""
        start, cpu_start = self.clock(), self.cpu_clock()
        outputs = self.session.run(*inputs)
        self.cpu_seconds.append(self.cpu_clock() - cpu_start)
        self.seconds.append(self.clock() - start)
        return outputs


def measure_whole_set(
    subject: Subject, seconds: Sequence[float], *, batch: int, metric: Metric = TEST_TIME
) -> Measurement:
    """Return the sum of `seconds`, what each call with `batch` examples took, in the order of the calls.

    Raises:
        MeasurementError: fewer than two calls, which say nothing about their spread.
    """
    if len(seconds) < 2:
        raise MeasurementError(f"{len(seconds)} call says nothing about the spread of its time; time at least two")
    n_blocks = min(N_BLOCKS, len(seconds) // 2) if len(seconds) > 3 else len(seconds)
    sums = [sum(seconds[len(seconds) * i // n_blocks : len(seconds) * (i + 1) // n_blocks]) for i in range(n_blocks)]
    mean = mean_interval(sums)
    total = sum(seconds)
    low = max(n_blocks * mean.low, len(seconds) * min(seconds))
    interval = Interval(value=total, low=low, high=n_blocks * mean.high, n=len(seconds))
    conditions: dict[str, str | float] = {"batch": batch, "blocks": n_blocks}
    return subject.measured(metric, interval, protocol=PROTOCOL, conditions=conditions)
