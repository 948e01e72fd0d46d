"""This file times two actions in turn and says how many times slower one is, with an interval that chance cannot fool.

The design makes the two sides exchangeable: whatever the machine does meanwhile, two copies of one file may only differ
by chance, and the sign of every round's difference is as fair as a coin. Three things see to that:

- *Rounds.* Two loads of one file differ by themselves: their weights lie elsewhere in memory. Runs of one load repeat
  that difference, they do not average it. So both sides are loaded anew for every round, in an order that a coin
  decides, and a round is what the interval counts.
- *Order.* Within a round blocks of runs alternate in pairs. Which side of a pair goes first is shuffled, half of the
  pairs each way.
- *No peeking.* How many rounds, pairs and runs there are is decided before the first timed run, from what a pair costs
  and never from what it shows. An interval that is looked at until it pleases is too narrow.

A block counts by the mean of the middle half of its runs, which does not see a single interrupted run; a round by the
mean of the middle half of its pairs, which does not see a pair that a burst of other work hit. (Medians waste more, and
where runs take one of two times they jump between the two.) The t-interval over rounds is then near its level for heavy
tails, drift and steps alike: under fair signs its error does not grow with the tails (B. Efron, "Student's t-test under
symmetry conditions", JASA 64, 1969).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from dwindle.bench.protocol import FEWEST_ROUNDS, Action, Clock, LatencyProtocol, Timing, is_narrow, repeat, time_once
from dwindle.core.statistics import Interval, mean_interval

Loader = Callable[[], AbstractContextManager[Action]]
"""Loads a side anew; leaving the context frees it."""
_N_PILOT: Final = 3
_PATIENCE: Final = 2.0
"""A machine that became slow after the pilot is stopped at this multiple of the limit. That looks at the clock, which
counts both sides, and not at their difference, so it stays fair."""
_N_WARMUP_AGAIN: Final = 2
"""Untimed runs of a file that is loaded again: the first run reserves memory, the second finds it there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two actions, timed in turn.

    Attributes:
        ratio: latency of a ÷ latency of b: geometric mean, over the rounds, of the ratios in the middle half of a
            round's pairs of blocks, with its t-interval; `n` is the number of rounds.
        is_stable: whether half the interval of the ratio is as narrow as the protocol asks.
    """

    a: Timing
    b: Timing
    ratio: Interval
    is_stable: bool

    @property
    def differs(self) -> bool:
        """Whether the interval of the ratio leaves 1 out."""
        return not self.ratio.low <= 1.0 <= self.ratio.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How a comparison will run, decided before it does; `cut_by` says which limit made it shorter than asked for."""

    n_rounds: int
    n_pairs: int
    block: int
    cut_by: str


def compare(a: Loader, b: Loader, protocol: LatencyProtocol, *, clock: Clock = time.perf_counter) -> Comparison:
    """Return the latencies of `a` and `b`, timed in turn; `protocol.seed` shuffles who goes first.

    The first run of each block is not timed: it finds the caches full of the other side's data.

    Raises:
        MeasurementError: the clock does not move during a run.
    """
    generator = np.random.default_rng(protocol.seed)
    samples: tuple[list[float], list[float]] = ([], [])
    logs: list[float] = []
    schedule: Schedule | None = None
    start = clock()
    while schedule is None or len(logs) < schedule.n_rounds:
        with ExitStack() as stack:
            actions = _load((a, b), stack, first=int(generator.integers(2)))
            for action in actions:
                repeat(action, protocol.n_warmup if schedule is None else min(protocol.n_warmup, _N_WARMUP_AGAIN))
            if schedule is None:
                schedule = plan(protocol, seconds=sum(_pilot(action, clock) for action in actions))
            orders = _orders(schedule.n_pairs, generator)
            logs.append(_round(actions, orders, samples, block=schedule.block, clock=clock))
        if clock() - start > 2 * _PATIENCE * protocol.seconds and len(logs) >= FEWEST_ROUNDS:
            schedule = replace(schedule, n_rounds=len(logs), cut_by="time")
    return _comparison(samples, logs, protocol=protocol, schedule=schedule)


def plan(protocol: LatencyProtocol, *, seconds: float) -> Schedule:
    """Return the schedule for sides of which one run each takes `seconds` together.

    >>> plan(LatencyProtocol(), seconds=0.001)
    Schedule(n_rounds=10, n_pairs=10, block=5, cut_by='')
    >>> plan(LatencyProtocol(seconds=10), seconds=0.5)
    Schedule(n_rounds=10, n_pairs=1, block=3, cut_by='time')
    """
    budget = min(2 * protocol.seconds / max(seconds, 1e-12), 1e9)
    n_rounds = min(protocol.n_rounds, max(FEWEST_ROUNDS, int(budget // 2)))
    by_time = _shape(protocol, budget / n_rounds)
    # Timed runs are limited, too; a block has one more that is not timed.
    n_timed = protocol.max_repeats // n_rounds
    block = max(min(protocol.block, n_timed), 1)
    by_repeats = (block, max(min(protocol.n_pairs, n_timed // block), 1))
    asked = (protocol.block, protocol.n_pairs)
    block, n_pairs = min((by_time, by_repeats), key=math.prod)
    shorter = (block, n_pairs) != asked or n_rounds < protocol.n_rounds
    cut_by = ("time" if math.prod(by_time) <= math.prod(by_repeats) else "repeats") if shorter else ""
    return Schedule(n_rounds=n_rounds, n_pairs=n_pairs, block=block, cut_by=cut_by)


def middle(values: Sequence[float]) -> float:
    """Return the mean of the middle half: the median of three, the mean of the middle three of five.

    >>> middle([1.0, 9.0, 2.0]), middle([1.0, 2.0, 3.0, 4.0, 90.0])
    (2.0, 3.0)
    """
    n_cut = (len(values) + 1) // 4
    kept = sorted(values)[n_cut : len(values) - n_cut]
    return sum(kept) / len(kept)


def _shape(protocol: LatencyProtocol, n_runs: float) -> tuple[int, int]:
    """Return (block, pairs) of a round in which each side may run `n_runs` times."""
    block = max(min(protocol.block, int(n_runs) - 1), 1)
    return block, max(min(protocol.n_pairs, int(n_runs // (block + 1))), 1)


def _load(loaders: tuple[Loader, Loader], stack: ExitStack, *, first: int) -> tuple[Action, Action]:
    one = stack.enter_context(loaders[first]())
    other = stack.enter_context(loaders[1 - first]())
    return (other, one) if first else (one, other)


def _pilot(action: Action, clock: Clock) -> float:
    return middle([time_once(action, clock) for _ in range(_N_PILOT)]) / 1e3


def _orders(n_pairs: int, generator: np.random.Generator) -> list[int]:
    """Return which side goes first in each pair: half of them each way, shuffled; a coin decides an odd one."""
    start = int(generator.integers(2))
    return generator.permutation([(start + i) % 2 for i in range(n_pairs)]).tolist()


def _round(
    actions: tuple[Action, Action], orders: Sequence[int], samples: tuple[list[float], list[float]], *, block: int,
    clock: Clock,
) -> float:  # fmt: skip
    """Time a pair of blocks for each of `orders`, add the runs to `samples`, and return the log ratio of the middle."""
    logs: list[float] = []
    for first in orders:
        typical = [0.0, 0.0]
        for side in (first, 1 - first):
            repeat(actions[side], 1)
            times = [time_once(actions[side], clock) for _ in range(block)]
            samples[side].extend(times)
            typical[side] = middle(times)
        logs.append(math.log(typical[0] / typical[1]))
    return middle(logs)


def _comparison(
    samples: tuple[list[float], list[float]], logs: list[float], *, protocol: LatencyProtocol, schedule: Schedule
) -> Comparison:
    log = mean_interval(logs, level=protocol.level)
    ratio = Interval(value=math.exp(log.value), low=math.exp(log.low), high=math.exp(log.high), n=log.n)
    a, b = (_timing(times, protocol, schedule) for times in samples)
    return Comparison(a=a, b=b, ratio=ratio, is_stable=is_narrow(ratio, protocol))


def _timing(times: list[float], protocol: LatencyProtocol, schedule: Schedule) -> Timing:
    settled = is_narrow(mean_interval(times, level=protocol.level), protocol)
    stopped_by = "interval" if settled else schedule.cut_by or "repeats"
    return Timing(samples_ms=tuple(times), level=protocol.level, stopped_by=stopped_by)
