"""This file holds what the bench returns: a metric measured on a file, with its interval; and an estimate apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from dwindle.core.statistics import Interval
from dwindle.errors import MeasurementError


@dataclass(frozen=True, slots=True)
class Metric:
    """What is measured. `better` is +1 where more is better, -1 where less is; `name` carries no unit, `unit` does."""

    name: str
    unit: str
    better: int


SIZE = Metric("size", "bytes", -1)
COMPRESSION_RATIO = Metric("compression_ratio", "x", +1)
ACCURACY = Metric("accuracy", "fraction", +1)
TOP5_ACCURACY = Metric("top5_accuracy", "fraction", +1)
ACCURACY_DROP = Metric("accuracy_drop", "points", -1)
LATENCY = Metric("latency", "ms", -1)
LATENCY_MEDIAN = Metric("latency_median", "ms", -1)
LATENCY_P90 = Metric("latency_p90", "ms", -1)
SPEEDUP = Metric("speedup", "x", +1)
PARITY = Metric("parity", "max absolute difference", -1)
TOP1_AGREEMENT = Metric("top1_agreement", "fraction", +1)
TOP1_GAP = Metric("top1_gap", "points", -1)
THROUGHPUT = Metric("throughput", "examples/s", +1)
CPU_TIME = Metric("cpu_time", "ms", -1)
LOAD_TIME = Metric("load_time", "ms", -1)
TEST_TIME = Metric("test_time", "s", -1)
TEST_CPU_TIME = Metric("test_cpu_time", "s", -1)
ZIPPED_SIZE = Metric("zipped_size", "bytes", -1)
MEMORY_BASELINE = Metric("memory_baseline", "bytes", -1)
MEMORY_LOADED = Metric("memory_loaded", "bytes", -1)
MEMORY_PEAK = Metric("memory_peak", "bytes", -1)
MEMORY_ADDED = Metric("memory_added", "bytes", -1)
ARENA = Metric("arena", "bytes", -1)
ENERGY = Metric("energy", "mJ", -1)

NO_ENGINE = "none"
"""The runtime of a measurement that no engine took part in."""
AT_LEAST = "at_least"
"""A condition, `yes` where the value is a lower end: what it leaves out is not known, so it can break a bound only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A number that a runtime got from a file.

    Attributes:
        low: lower end of the interval (`level` in the conditions, 0.95 unless said otherwise); equals `value` if exact.
        n: how many examples, runs or files it rests on.
        artifact: sha256 of the file that was measured.
        runtime: name and version of the engine; `NO_ENGINE` for a size.
        machine: `bench.machine.Machine.summary()`.
        protocol: how, in a word that docs/measuring.md explains.
        conditions: whatever else matters, as text or numbers (threads, batch, baseline, unstable: "yes").
    """

    metric: Metric
    value: float
    low: float
    high: float
    n: int
    artifact: str
    runtime: str
    machine: str
    protocol: str
    conditions: Mapping[str, str | float] = field(default_factory=dict[str, str | float])

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.value, self.low, self.high))) or self.n < 1:
            raise MeasurementError(
                f"{self.metric.name}: {self.value} [{self.low}, {self.high}], n = {self.n} is not a measurement"
            )
        if not self.low <= self.value <= self.high:
            raise MeasurementError(
                f"{self.metric.name}: {self.value} lies outside its interval [{self.low}, {self.high}]"
            )
        if not self.artifact:
            raise MeasurementError(f"{self.metric.name}: a measurement belongs to a file; name its sha256")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is measured and where: the fields that all measurements of one file on one machine share.

    Attributes:
        artifact: sha256 of the file.
        conditions: hold for all of them; those of a single measurement are added.
    """

    artifact: str
    runtime: str
    machine: str
    conditions: Mapping[str, str | float] = field(default_factory=dict[str, str | float])

    def measured(
        self, metric: Metric, interval: Interval, *, protocol: str, conditions: Mapping[str, str | float] | None = None
    ) -> Measurement:
        """Return the measurement that `interval` stands for."""
        return Measurement(
            metric=metric,
            value=interval.value,
            low=min(interval.low, interval.value),  # an end may miss the value by a rounding error
            high=max(interval.high, interval.value),
            n=interval.n,
            artifact=self.artifact,
            runtime=self.runtime,
            machine=self.machine,
            protocol=protocol,
            conditions={**self.conditions, **(conditions or {})},
        )


def exactly(value: float, *, n: int = 1) -> Interval:
    """Return `value` as an interval without width: a count or a size, not a sample."""
    return Interval(value=value, low=value, high=value, n=n)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number computed without running the file; never a `Measurement`, so it cannot reach a results table."""

    metric: Metric
    value: float
    method: str
