"""This file tests the energy probe on simulated machines of known power, that are noisy, drift and wrap around."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest

from dwindle.bench.energy.sensor import Joules
from dwindle.bench.measurement import ENERGY, Subject
from dwindle.bench.probes.energy import EnergyProtocol, Time, energy_blocks, measure_energy
from dwindle.errors import MeasurementError, SettingError
from dwindle.runtimes.fake import FakeClock

SUBJECT = Subject(artifact="0" * 64, runtime="fake", machine="simulated")
CALL_SECONDS = 0.01
CALL_JOULES = 0.05
INPUTS = (np.zeros((2, 3), dtype=np.float32),)


@dataclass
class Machine:
    """A machine that takes `idle` watts at rest, `CALL_JOULES` more for a call, and has a sensor that updates slowly.

    `noise` is the standard deviation of the power within each 10 ms; `drift` is what the power at rest gains in a
    second, in watts; `wander` the standard deviation of a walk of the power at rest, in watts in a second.
    """

    idle: float = 5.0
    noise: float = 0.0
    drift: float = 0.0
    wander: float = 0.0
    update_seconds: float = 0.001
    call_joules: float = CALL_JOULES
    seed: int = 0
    clock: FakeClock = field(default_factory=FakeClock)
    joules: float = 0.0
    shown: float = 0.0
    seen: float = 0.0
    name: str = "simulated"
    covers: str = "a simulated machine"

    def __post_init__(self) -> None:
        self.generator = np.random.default_rng(self.seed)

    def spend(self, seconds: float, extra: float = 0.0) -> None:
        while seconds > 1e-12:
            step = min(seconds, 0.1)
            self.idle += self.drift * step + self.wander * math.sqrt(step) * self.generator.standard_normal()
            watts = self.idle + self.noise * math.sqrt(0.01 / step) * self.generator.standard_normal()
            self.joules += watts * step
            seconds -= step
            self.clock.advance(step)
        self.joules += extra

    @property
    def input_names(self) -> tuple[str, ...]:
        return ("input",)

    def run(self, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        self.spend(CALL_SECONDS, self.call_joules)
        return inputs

    def read(self) -> float:
        if self.clock() - self.seen >= self.update_seconds:
            self.shown = self.joules
            self.seen = math.floor(self.clock() / self.update_seconds) * self.update_seconds
        return self.shown

    @contextmanager
    def opened(self) -> Generator[Joules]:
        yield self.read

    @property
    def time(self) -> Time:
        return Time(clock=self.clock, sleep=self.spend)


def test_without_noise_the_energy_of_a_call_is_exact_whatever_the_machine_takes_at_rest() -> None:
    for idle in (0.0, 5.0, 300.0):
        machine = Machine(idle=idle)
        found = measure_energy(SUBJECT, machine, INPUTS, sensor=machine, time=machine.time)
        assert found.metric == ENERGY
        assert found.value == pytest.approx(1e3 * CALL_JOULES, rel=1e-6)
        assert found.conditions["idle_watts"] == pytest.approx(idle, abs=1e-6)
        assert found.conditions["load_watts"] == pytest.approx(idle + CALL_JOULES / CALL_SECONDS, rel=1e-6)
        assert found.conditions["batch"] == 2
        assert found.n == EnergyProtocol().n_blocks
        assert "unresolved" not in found.conditions


def test_a_straight_drift_of_the_power_at_rest_cancels() -> None:
    machine = Machine(drift=0.5)
    found = measure_energy(
        SUBJECT, machine, INPUTS, sensor=machine, time=machine.time, protocol=EnergyProtocol(settle_seconds=0.0)
    )
    assert found.value == pytest.approx(1e3 * CALL_JOULES, rel=0.01)


@pytest.mark.parametrize(
    "settings",
    [
        {"noise": 2.0, "drift": 0.02},
        {"noise": 1.0, "wander": 0.3},
        {"noise": 1.0, "update_seconds": 0.1},
    ],
)
def test_the_interval_covers_the_true_energy_at_its_level(settings: dict[str, float]) -> None:
    n_trials = 200
    n_covered = 0
    for seed in range(n_trials):
        machine = Machine(seed=seed, **settings)  # type: ignore[arg-type]
        found = measure_energy(SUBJECT, machine, INPUTS, sensor=machine, time=machine.time)
        n_covered += found.low <= 1e3 * CALL_JOULES <= found.high
    # Four binomial standard deviations around 0.95.
    assert abs(n_covered / n_trials - 0.95) <= 4 * math.sqrt(0.05 * 0.95 / n_trials)


def test_what_the_sensor_cannot_tell_from_rest_is_said_to_be_unresolved() -> None:
    machine = Machine(noise=5.0, call_joules=1e-6)
    found = measure_energy(SUBJECT, machine, INPUTS, sensor=machine, time=machine.time)
    assert found.low <= 0
    assert found.conditions["unresolved"] == "yes"


def test_windows_grow_with_the_time_between_two_updates_of_the_sensor() -> None:
    slow = Machine(update_seconds=0.2)
    blocks = energy_blocks(lambda: slow.run(), slow, EnergyProtocol(n_updates=50), time=slow.time)
    assert all(block.n_calls >= 10 / CALL_SECONDS for block in blocks)


def test_a_sensor_that_hardly_ever_updates_is_refused_before_anything_runs() -> None:
    machine = Machine(update_seconds=10.0)
    with pytest.raises(MeasurementError, match="updates every 10 s, so 50 updates take 500 s"):
        measure_energy(SUBJECT, machine, INPUTS, sensor=machine, time=machine.time)
    assert machine.clock() == 0


def test_a_sensor_that_stands_still_is_an_error() -> None:
    machine = Machine(idle=0.0, call_joules=0.0)
    with pytest.raises(MeasurementError, match="the sensor did not move in 1 s of load"):
        measure_energy(SUBJECT, machine, INPUTS, sensor=machine, time=machine.time)


def test_a_clock_that_stands_still_is_an_error() -> None:
    machine = Machine()
    with pytest.raises(MeasurementError, match="the clock stands still"):
        energy_blocks(lambda: None, machine, EnergyProtocol(), time=Time(clock=lambda: 1.0, sleep=lambda _: None))


@pytest.mark.parametrize(
    "wrong",
    [{"n_blocks": 2}, {"seconds": 0.0}, {"seconds": math.inf}, {"n_updates": 0}, {"settle_seconds": -1.0},
     {"settle_seconds": math.nan}, {"level": 1.0}],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingError, match="must be"):
        EnergyProtocol(**wrong)  # type: ignore[arg-type]
