"""This file holds a runtime with a known latency and noise on a clock of its own: what probes are tested against."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from dwindle.artifact import Artifact
from dwindle.errors import SettingError
from dwindle.runtimes.protocol import Array, InputSpec


@dataclass(slots=True)
class FakeClock:
    """A clock that stands still until it is told to go on."""

    now: float = 0.0

    def __call__(self) -> float:
        """Return the seconds so far."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self.now += seconds


def _echo(*inputs: Array) -> tuple[Array, ...]:
    return inputs


@dataclass(frozen=True, kw_only=True)
class FakeRuntime:
    """An engine that computes `outputs(*inputs)` and lets its clock run on.

    One run takes a gamma-distributed time of mean `latency_ms` and standard deviation `noise * latency_ms`: positive
    and skewed to the right, as real latencies are. Every `load` draws from a generator of its own, derived from `seed`
    and the number of loads so far.

    Attributes:
        latency_ms: the true mean latency, without outliers and drift.
        noise: relative standard deviation; 0 makes every run equal.
        drift: amplitude of a slow wave of the speed, as a fraction of it; it follows the clock, whatever runs.
        drift_seconds: length of that wave.
        outliers: share of the runs that take `outlier_factor` times as long.
        outputs: what a run returns; the inputs themselves if not given.
        formats: artifact formats it pretends to load.
    """

    latency_ms: float = 1.0
    noise: float = 0.0
    drift: float = 0.0
    drift_seconds: float = 10.0
    outliers: float = 0.0
    outlier_factor: float = 5.0
    outputs: Callable[..., tuple[Array, ...]] = _echo
    clock: FakeClock = field(default_factory=FakeClock)
    formats: tuple[str, ...] = ("dwn", "onnx")
    seed: int = 0
    seeds: np.random.SeedSequence = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.latency_ms > 0 or self.noise < 0:
            raise SettingError(
                f"latency_ms must be positive and noise not negative; got {self.latency_ms}, {self.noise}"
            )
        shares_fit = 0 <= self.drift < 1 and 0 <= self.outliers <= 1
        if not shares_fit or not min(self.drift_seconds, self.outlier_factor) > 0:
            raise SettingError(
                "drift must lie in [0, 1), outliers in [0, 1], drift_seconds and outlier_factor must be positive; got "
                f"{self.drift}, {self.outliers}, {self.drift_seconds}, {self.outlier_factor}"
            )
        object.__setattr__(self, "seeds", np.random.SeedSequence(self.seed))

    @property
    def name(self) -> str:
        """`fake`."""
        return "fake"

    def speed(self, now: float) -> float:
        """Return how many times as long as usual a run takes at a moment, by the drift."""
        return 1 + self.drift * math.sin(2 * math.pi * now / self.drift_seconds) if self.drift else 1.0

    def unavailable(self) -> str | None:
        """Return None: it runs everywhere."""
        return None

    @contextmanager
    def load(self, artifact: Artifact, *, n_threads: int = 1) -> Generator[FakeSession]:
        """Pretend to load `artifact`; the file is not opened."""
        del artifact, n_threads
        yield FakeSession(runtime=self, generator=np.random.default_rng(self.seeds.spawn(1)[0]))


@dataclass(frozen=True, kw_only=True)
class FakeSession:
    """A file that was not loaded."""

    runtime: FakeRuntime
    generator: np.random.Generator

    @property
    def input_names(self) -> tuple[str, ...]:
        """One input, `input`."""
        return ("input",)

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """One input of floats, a batch of anything."""
        return (InputSpec(name="input", dtype=np.dtype(np.float32), type_name="float", shape=("batch", None)),)

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Return the outputs and let the clock run on by one latency."""
        self.runtime.clock.advance(self._draw_ms() / 1e3)
        return self.runtime.outputs(*inputs)

    def _draw_ms(self) -> float:
        fake = self.runtime
        mean, variance = fake.latency_ms * fake.speed(fake.clock()), fake.noise**2
        if fake.outliers and self.generator.random() < fake.outliers:
            mean *= fake.outlier_factor
        return float(self.generator.gamma(1 / variance, mean * variance)) if variance else mean
