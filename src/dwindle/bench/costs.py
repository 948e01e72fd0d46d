"""This file measures what running a file costs: latency, throughput, processor time, time to load, energy, memory."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dwindle.artifact import Artifact
from dwindle.bench.energy.find import first_sensor
from dwindle.bench.measurement import Measurement, Subject
from dwindle.bench.plan import Plan
from dwindle.bench.probes import latency, speed
from dwindle.bench.probes.energy import measure_energy
from dwindle.bench.probes.memory import measure_memory
from dwindle.bench.probes.planned_memory import READERS, measure_planned_memory
from dwindle.bench.protocol import LatencyProtocol, Timing
from dwindle.errors import MeasurementError
from dwindle.runtimes.protocol import Array, Runtime, Session

Inputs = Mapping[int, tuple[Array, ...]]
"""For each number of examples that is timed, inputs of that many."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Opened:
    """One loaded file."""

    artifact: Artifact
    engine: Runtime
    session: Session
    subject: Subject
    n_threads: int

    @property
    def load(self) -> latency.Load:
        """Opens the file anew."""
        return lambda: self.engine.load(self.artifact, n_threads=self.n_threads)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Samples:
    """The single timed runs behind a latency; `artifact` is the sha256 of the file."""

    artifact: str
    runtime: str
    n_threads: int
    batch: int
    samples_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Costs:
    """What was found of one file; `samples` is None where no latency was measured."""

    measurements: tuple[Measurement, ...] = ()
    samples: Samples | None = None


def costs_alone(file: Opened, inputs: Inputs, plan: Plan) -> Costs:
    """Return what `plan` asks for of a file that is measured alone."""
    found: list[Measurement] = []
    samples = None
    if plan.latency is not None:
        timing = latency.time_session(file.session, inputs[plan.latency_batch], plan.latency, clock=plan.clock)
        found += latency.measure_latency(file.subject, timing, batch=plan.latency_batch)
        samples = _samples(file, timing, plan)
    if plan.throughput_batch is not None:
        protocol = plan.latency or LatencyProtocol()
        timing = latency.time_session(file.session, inputs[plan.throughput_batch], protocol, clock=plan.clock)
        found.append(
            speed.measure_throughput(file.subject, timing, batch=plan.throughput_batch, protocol=latency.ALONE)
        )
    return Costs(measurements=(*found, *_others(file, inputs, plan)), samples=samples)


def costs_in_turn(files: tuple[Opened, Opened], inputs: Inputs, plan: Plan) -> tuple[Costs, Costs]:
    """Return what `plan` asks for of two files that are timed in turn, and how many times faster the first one is."""
    first, second = files
    found: tuple[list[Measurement], list[Measurement]] = ([], [])
    samples: Sequence[Samples | None] = (None, None)
    if plan.latency is not None:
        batch = plan.latency_batch
        both = _compare(files, inputs[batch], plan.latency, plan=plan)
        samples = [_samples(file, timing, plan) for file, timing in zip(files, (both.b, both.a), strict=True)]
        for file, timing, side in zip(files, (both.b, both.a), found, strict=True):
            side += latency.measure_latency(file.subject, timing, batch=batch, protocol=latency.IN_TURN)
        speedup = latency.measure_speedup(first.subject, both, baseline=second.artifact.sha256, batch=batch)
        found[0].append(speedup)
    if (batch := plan.throughput_batch) is not None:
        both = _compare(files, inputs[batch], plan.latency or LatencyProtocol(), plan=plan)
        for file, timing, side in zip(files, (both.b, both.a), found, strict=True):
            side.append(speed.measure_throughput(file.subject, timing, batch=batch, protocol=latency.IN_TURN))
    one, other = (
        Costs(measurements=(*side, *_others(file, inputs, plan)), samples=kept)
        for file, side, kept in zip(files, found, samples, strict=True)
    )
    return one, other


def _compare(
    files: tuple[Opened, Opened], inputs: tuple[Array, ...], protocol: LatencyProtocol, *, plan: Plan
) -> latency.Comparison:  # fmt: skip
    """Time the second file as a and the first as b, so that the ratio says how many times faster the first one is."""
    return latency.compare_loads((files[1].load, files[0].load), inputs, protocol, clock=plan.clock)


def _samples(file: Opened, timing: Timing, plan: Plan) -> Samples:
    return Samples(
        artifact=file.artifact.sha256,
        runtime=file.subject.runtime,
        n_threads=plan.n_threads,
        batch=plan.latency_batch,
        samples_ms=timing.samples_ms,
    )


def _others(file: Opened, inputs: Inputs, plan: Plan) -> list[Measurement]:
    found: list[Measurement] = []
    if plan.cpu_time:
        batch = plan.latency_batch
        found.append(speed.measure_cpu_time(file.subject, file.session, inputs[batch], batch=batch))
    if plan.load_time:
        found.append(speed.measure_load_time(file.subject, file.load, clock=plan.clock))
    if plan.energy:
        found.append(
            measure_energy(
                file.subject,
                file.session,
                inputs[plan.latency_batch],
                sensor=first_sensor(),
                protocol=plan.energy_protocol,
            )
        )
    if (plan.memory or plan.arena) and file.artifact.format in READERS:
        with contextlib.suppress(MeasurementError):  # the engine may run what it plans only with a delegate
            found.append(measure_planned_memory(file.subject, file.artifact))
    if plan.memory:
        found += measure_memory(
            file.subject,
            file.artifact,
            inputs[plan.latency_batch],
            runtime=file.engine,
            protocol=plan.memory_protocol,
            n_threads=plan.n_threads,
        )
    return found
