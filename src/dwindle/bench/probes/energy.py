"""This file measures energy: the joules that one call takes beyond those of the machine at rest.

A sensor sees the whole machine, or a whole part of it, so rest and load are measured in turn. A block is rest, load,
rest: the power at rest is the mean of the two windows around the load, which takes a drift out that is straight over a
block. Blocks share no window, so they are independent where the machine is, and the interval is Student's over blocks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dwindle.bench.batches import n_examples
from dwindle.bench.energy.sensor import Joules, Sensor
from dwindle.bench.measurement import ENERGY, Measurement, Subject
from dwindle.bench.protocol import Action, Clock
from dwindle.core.statistics import mean_interval
from dwindle.errors import MeasurementError, SettingError
from dwindle.runtimes.protocol import Array, Session

PROTOCOL: Final = "energy, idle subtracted"
_FEWEST_BLOCKS: Final = 3
_MILLI: Final = 1e3
_MOST_CALLS: Final = 10_000
"""Calls after which a clock that still shows the start is taken to stand still."""
_LONGEST: Final = 60.0
"""Seconds of a window that no one asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyProtocol:
    """How energy is measured.

    Attributes:
        n_blocks: of rest, load, rest; what the interval counts.
        seconds: of the load in a block, and of its two rests together, at least.
        n_updates: of the sensor in a load, at least: a window may miss up to one at either end.
        settle_seconds: pause after a load before rest is measured, for clocks and voltages to fall.
        level: of the t-interval.
    """

    n_blocks: int = 8
    seconds: float = 1.0
    n_updates: int = 50
    settle_seconds: float = 0.2
    level: float = 0.95

    def __post_init__(self) -> None:
        if self.n_blocks < _FEWEST_BLOCKS or self.n_updates < 1 or not 0 < self.level < 1:
            raise SettingError(
                f"n_blocks must be at least {_FEWEST_BLOCKS}, n_updates at least 1 and level between 0 and 1; got "
                f"{self.n_blocks}, {self.n_updates}, {self.level}"
            )
        if not 0 < self.seconds < math.inf or not 0 <= self.settle_seconds < math.inf:
            raise SettingError(
                f"seconds must be positive and settle_seconds not negative; got {self.seconds}, {self.settle_seconds}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Time:
    """Where time comes from and how it is waited for; a test passes its own."""

    clock: Clock = time.perf_counter
    sleep: Callable[[float], object] = time.sleep


REAL: Final = Time()


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """What one block saw: joules of a call beyond rest, and the powers in watts."""

    joules: float
    idle_watts: float
    load_watts: float
    n_calls: int


def measure_energy(
    subject: Subject, session: Session, inputs: tuple[Array, ...], *, sensor: Sensor,
    protocol: EnergyProtocol | None = None, time: Time = REAL,
) -> Measurement:  # fmt: skip
    """Return the energy of one call in mJ beyond that of the machine at rest, with its t-interval.

    Other work on the machine is measured as well: let there be none. An interval that reaches 0 or below says
    `unresolved: yes`: the sensor cannot tell the call from rest.

    Raises:
        MeasurementError: the sensor cannot be read, or does not move under load.
    """
    protocol = protocol or EnergyProtocol()
    blocks = energy_blocks(lambda: session.run(*inputs), sensor, protocol, time=time)
    interval = mean_interval([_MILLI * block.joules for block in blocks], level=protocol.level)
    conditions: dict[str, str | float] = {
        "batch": n_examples(inputs),
        "sensor": sensor.name,
        "covers": sensor.covers,
        "idle_watts": _mean([block.idle_watts for block in blocks]),
        "load_watts": _mean([block.load_watts for block in blocks]),
        "calls_in_a_block": _mean([float(block.n_calls) for block in blocks]),
    }
    if protocol.level != 0.95:
        conditions["level"] = protocol.level
    if interval.low <= 0:
        conditions["unresolved"] = "yes"
    return subject.measured(ENERGY, interval, protocol=PROTOCOL, conditions=conditions)


def energy_blocks(
    action: Action, sensor: Sensor, protocol: EnergyProtocol, *, time: Time = REAL
) -> tuple[Block, ...]:  # fmt: skip
    """Return what each block saw of `action`, which must be loaded and ready.

    Raises:
        MeasurementError: the sensor cannot be read, is too slow, or does not move under load.
    """
    seconds = max(protocol.seconds, protocol.n_updates * sensor.update_seconds)
    if seconds > max(protocol.seconds, _LONGEST):
        raise MeasurementError(
            f"{sensor.name} updates every {sensor.update_seconds:g} s, so {protocol.n_updates} updates take "
            f"{seconds:g} s; take another sensor, fewer updates (n_updates), or windows of that length (seconds)"
        )
    action()
    with sensor.opened() as joules:
        return tuple(
            _block(action, joules, seconds=seconds, settle=protocol.settle_seconds, time=time)
            for _ in range(protocol.n_blocks)
        )


def _block(action: Action, joules: Joules, *, seconds: float, settle: float, time: Time) -> Block:
    before = _rest(joules, seconds / 2, time)
    start, first, n_calls = time.clock(), joules(), 0
    while (spent := time.clock() - start) < seconds:
        action()
        n_calls += 1
        if n_calls > _MOST_CALLS and time.clock() <= start:
            raise MeasurementError("the clock stands still during a load; use one that runs")
    used = joules() - first
    if not used > 0:
        raise MeasurementError(
            f"the sensor did not move in {spent:.3g} s of load; longer windows (seconds) or another sensor may"
        )
    time.sleep(settle)
    idle = (before + _rest(joules, seconds / 2, time)) / 2
    return Block(joules=(used - idle * spent) / n_calls, idle_watts=idle, load_watts=used / spent, n_calls=n_calls)


def _rest(joules: Joules, seconds: float, time: Time) -> float:
    """Return the watts of the machine at rest."""
    start, first = time.clock(), joules()
    time.sleep(seconds)
    spent = time.clock() - start
    if not spent > 0:
        raise MeasurementError("the clock stands still at rest; use one that runs")
    return (joules() - first) / spent


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
