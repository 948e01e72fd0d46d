"""This file holds the plan of a measurement: which metrics, with how many threads, for how long."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Final

from dwindle.bench.probes.energy import EnergyProtocol
from dwindle.bench.probes.memory import MemoryProtocol
from dwindle.bench.probes.scores import CLASSIFICATION, AnyScore
from dwindle.bench.protocol import Clock, LatencyProtocol
from dwindle.errors import SettingError

MAX_THREADS: Final = 1024
"""An engine starts every thread it is asked for; some ten thousand of them take a machine down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to measure.

    Attributes:
        n_threads: threads of the engine, fixed.
        batch_size: examples in one call while accuracy is measured.
        scores: metrics of the answers; the drop is measured in the first.
        threshold: above it one output names the second of two classes; None: each class has an output of its own.
        latency: when to stop timing; None measures no latency.
        latency_batch: examples in one timed call.
        throughput_batch: examples in one call while throughput is measured; None measures none.
        memory: measure the memory of a fresh process (a few seconds for each file), and read the planned arena.
        arena: read the arena out of an engine that plans one, even where `memory` is not asked for.
        memory_protocol: how often and how long.
        energy: measure the energy of a call; there must be a sensor (half a minute for each file).
        energy_protocol: how often and how long.
        cpu_time: measure the processor time of a call.
        load_time: measure the time until a file is ready.
        clock: what time is taken from.
    """

    n_threads: int = 1
    batch_size: int = 256
    scores: tuple[AnyScore, ...] = CLASSIFICATION
    threshold: float | None = None
    latency: LatencyProtocol | None = field(default_factory=LatencyProtocol)
    latency_batch: int = 1
    throughput_batch: int | None = None
    memory: bool = False
    arena: bool = False
    memory_protocol: MemoryProtocol = field(default_factory=MemoryProtocol)
    energy: bool = False
    energy_protocol: EnergyProtocol = field(default_factory=EnergyProtocol)
    cpu_time: bool = False
    load_time: bool = False
    clock: Clock = time.perf_counter

    def __post_init__(self) -> None:
        for name in ("n_threads", "batch_size", "latency_batch", "throughput_batch"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise SettingError(f"{name} must be at least 1, got {number}")
        if self.n_threads > MAX_THREADS:
            raise SettingError(
                f"n_threads must be at most {MAX_THREADS}, got {self.n_threads}; more never compute faster"
            )
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise SettingError(f"threshold must be a finite number, got {self.threshold}; 0.5 for probabilities")
        if not self.scores:
            raise SettingError("scores is empty; name at least one metric of the answers")
        names = [score.metric.name for score in self.scores]
        if len(set(names)) < len(names):
            raise SettingError(f"two scores have the same name in {names}; rename one of them")

    @property
    def timed_batches(self) -> tuple[int, ...]:
        """Numbers of examples in the calls that are timed, each once."""
        wanted = [self.latency_batch] if self.latency or self.cpu_time or self.memory or self.energy else []
        return tuple(dict.fromkeys([*wanted, *([self.throughput_batch] if self.throughput_batch else [])]))
