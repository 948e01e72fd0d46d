"""This file measures a deployed file from end to end: size, accuracy, drop, latency; and writes the result down."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from dwindle.artifact import Artifact
from dwindle.bench.batches import Batch, Data, batches, run_batch
from dwindle.bench.deployment import Deployment
from dwindle.bench.ledger import Ledger
from dwindle.bench.machine import this_machine
from dwindle.bench.measurement import Measurement, Subject
from dwindle.bench.probes import accuracy, latency
from dwindle.bench.probes.size import measure_size
from dwindle.bench.protocol import Clock, LatencyProtocol, Timing
from dwindle.errors import DataError, MeasurementError, RuntimeUnavailableError, SettingError
from dwindle.runtimes.protocol import Runtime, Session
from dwindle.settings import TAG, nearest, to_plain

Role = Literal["dense", "compressed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to measure.

    Attributes:
        n_threads: threads of the engine, fixed.
        batch_size: examples in one call while accuracy is measured.
        scores: metrics of the answers; the drop is measured in the first.
        latency: when to stop timing; None measures no latency.
        latency_batch: examples in one timed call.
        clock: what time is taken from.
    """

    n_threads: int = 1
    batch_size: int = 256
    scores: tuple[accuracy.Score, ...] = accuracy.CLASSIFICATION
    latency: LatencyProtocol | None = field(default_factory=LatencyProtocol)
    latency_batch: int = 1
    clock: Clock = time.perf_counter

    def __post_init__(self) -> None:
        if min(self.n_threads, self.batch_size, self.latency_batch) < 1:
            raise SettingError(
                f"n_threads, batch_size and latency_batch must be at least 1; got {self.n_threads}, {self.batch_size}, "
                f"{self.latency_batch}"
            )
        if not self.scores:
            raise SettingError("scores is empty; name at least one metric of the answers")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Samples:
    """The single timed runs behind a latency; `artifact` is the sha256 of the file."""

    artifact: str
    runtime: str
    n_threads: int
    batch: int
    samples_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """Everything found about one deployed model.

    Attributes:
        artifacts: the file that was run, then the other files of the deployment.
        samples: None where latency was not measured.
        confusion: (classes, classes) counts, row = truth, column = answer; None where there are no classes.
        dense: the same for the dense file, measured on the same examples and in turn; None without one.
    """

    artifacts: tuple[Artifact, ...]
    measurements: tuple[Measurement, ...]
    samples: Samples | None = None
    confusion: npt.NDArray[np.int64] | None = None
    dense: Measured | None = None

    def find(self, name: str) -> Measurement:
        """Return the measurement of the metric called `name`; of the file that was run, where there are several.

        Raises:
            MeasurementError: it was not measured; what was is listed.
        """
        same = [m for m in self.measurements if m.metric.name == name]
        if not same:
            known = {m.metric.name for m in self.measurements}
            raise MeasurementError(f"{name!r} was not measured; {nearest(name, known)}")
        return next((m for m in same if m.artifact == self.artifacts[0].sha256), same[0])


def measure(
    target: Deployment | Artifact,
    data: Data,
    *,
    runtime: Runtime | str = "onnxruntime",
    dense: Artifact | None = None,
    plan: Plan | None = None,
) -> Measured:
    """Measure `target` on `data`; with a `dense` file also the drop against it and the speed-up over it.

    Of a deployment in several formats every file is weighed and the first one that `runtime` loads is run. `data` is
    read once: both files see every batch, and their latencies are timed in turn.

    Raises:
        RuntimeUnavailableError: the engine's package is missing.
        MeasurementError: the engine loads none of these formats, a file has changed, or answers are not finite.
        DataError: no data, labels out of range, or inputs that a file cannot run.
    """
    plan, engine = plan or Plan(), _engine(runtime)
    artifacts = _run_first(target, engine)
    files = artifacts[:1] if dense is None else (artifacts[0], *_run_first(dense, engine))
    n_dense_weights = target.n_dense_weights if isinstance(target, Deployment) else None
    weighed = [measure_size(file, n_dense_weights=n_dense_weights) for file in (*artifacts, *files[1:])]
    found = _run(files, data, engine=engine, plan=plan)
    parity = target.parity if isinstance(target, Deployment) else ()
    baseline = None if dense is None else _with(found[1], (dense,), weighed[-1])
    before = (*itertools.chain(*weighed[: len(artifacts)]), *parity)
    return replace(_with(found[0], artifacts, before), dense=baseline)


def record(ledger: Ledger, measured: Measured, *, role: Role = "compressed", class_names: Sequence[str] = ()) -> None:
    """Append everything in `measured` to `ledger`; its dense counterpart first, with the role `dense`.

    Raises:
        LedgerError: the ledger cannot be written.
    """
    if measured.dense is not None:
        record(ledger, measured.dense, role="dense", class_names=class_names)
    for artifact in measured.artifacts:
        ledger.append("artifact", {"role": role, **_plain(artifact), "path": artifact.path.name})
    for measurement in measured.measurements:
        ledger.append("measurement", {"role": role, **_plain(measurement), "metric": _plain(measurement.metric)})
    if (samples := measured.samples) is not None:
        ledger.append("latency_samples", {"role": role, **_plain(samples)})
    if (confusion := measured.confusion) is not None:
        names = list(class_names) or [str(number) for number in range(len(confusion))]
        ledger.append("confusion", {"role": role, "class_names": names, "counts": confusion})


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """One loaded file."""

    artifact: Artifact
    session: Session
    subject: Subject

    def found(self, answers: accuracy.Answers, timing: Timing | None, plan: Plan, *, protocol: str) -> Measured:
        scores, batch = accuracy.measure_accuracy(self.subject, answers), plan.latency_batch
        speeds: tuple[Measurement, ...] = ()
        samples = None
        if timing is not None:
            speeds = latency.measure_latency(self.subject, timing, batch=batch, protocol=protocol)
            samples = Samples(
                artifact=self.artifact.sha256,
                runtime=self.subject.runtime,
                n_threads=plan.n_threads,
                batch=batch,
                samples_ms=timing.samples_ms,
            )
        return Measured(
            artifacts=(self.artifact,),
            measurements=(*scores, *speeds),
            samples=samples,
            confusion=answers.confusion,
        )


def _run(files: tuple[Artifact, ...], data: Data, *, engine: Runtime, plan: Plan) -> list[Measured]:
    """Run one file, or the compressed and the dense one; the comparison joins the first one's measurements."""
    with ExitStack() as stack:
        sides = [
            _Side(file, stack.enter_context(engine.load(file, n_threads=plan.n_threads)), _subject(file, engine, plan))
            for file in files
        ]
        first, every = _peek(batches(data, batch_size=plan.batch_size))
        named = [(side.artifact.path.name, side.session) for side in sides]
        answers = accuracy.answer(named, every, scores=plan.scores)
        timings, speedup = _time(sides, first, plan)
    protocol = latency.ALONE if len(sides) == 1 else latency.IN_TURN
    found = [side.found(a, t, plan, protocol=protocol) for side, a, t in zip(sides, answers, timings, strict=True)]
    if len(sides) > 1:
        drop = accuracy.measure_drop(sides[0].subject, *answers[::-1], baseline=files[1].sha256)
        found[0] = replace(found[0], measurements=(*found[0].measurements, *drop, *speedup))
    return found


def _subject(file: Artifact, engine: Runtime, plan: Plan) -> Subject:
    conditions: dict[str, str | float] = {"n_threads": plan.n_threads, "format": file.format}
    return Subject(artifact=file.sha256, runtime=engine.name, machine=this_machine().summary(), conditions=conditions)


def _with(measured: Measured, artifacts: tuple[Artifact, ...], before: tuple[Measurement, ...]) -> Measured:
    return replace(measured, artifacts=artifacts, measurements=(*before, *measured.measurements))


def _time(sides: Sequence[_Side], first: Batch, plan: Plan) -> tuple[list[Timing | None], tuple[Measurement, ...]]:
    protocol, batch = plan.latency, plan.latency_batch
    if protocol is None:
        return [None for _ in sides], ()
    head = first.head(batch)
    if len(head) < batch:
        raise DataError(
            f"latency_batch = {batch}, but the first batch holds {len(head)} examples; "
            "give larger batches or a smaller latency_batch"
        )
    for side in sides:  # a file may have a fixed batch size: say so before timing starts
        run_batch(side.session, head, what=side.artifact.path.name)
    if len(sides) == 1:
        return [latency.time_session(sides[0].session, head.inputs, protocol, clock=plan.clock)], ()
    compressed, dense = sides
    both = latency.compare_sessions((dense.session, compressed.session), head.inputs, protocol, clock=plan.clock)
    speedup = latency.measure_speedup(compressed.subject, both, baseline=dense.artifact.sha256, batch=batch)
    return [both.b, both.a], (speedup,)


def _peek(source: Iterator[Batch]) -> tuple[Batch, Iterator[Batch]]:
    first = next(source)  # never empty: `batches` refuses empty data
    return first, itertools.chain((first,), source)


def _run_first(target: Deployment | Artifact, engine: Runtime) -> tuple[Artifact, ...]:
    """Return the files of `target`, one that `engine` loads first."""
    files = tuple(target.artifacts.values()) if isinstance(target, Deployment) else (target,)
    chosen = next((file for file in files if file.format in engine.formats), None)
    if chosen is None:
        raise MeasurementError(
            f"{engine.name} loads {', '.join(engine.formats)}, but there is only "
            f"{', '.join(file.path.name for file in files) or 'no file'}; deploy another format or name another runtime"
        )
    return (chosen, *(file for file in files if file is not chosen))


def _onnxruntime() -> Runtime:
    from dwindle.runtimes.onnxruntime import OnnxRuntime

    return OnnxRuntime()


RUNTIMES: Final[Mapping[str, Callable[[], Runtime]]] = {"onnxruntime": _onnxruntime}
"""Runtimes that need no settings; others are given as objects."""


def _engine(runtime: Runtime | str) -> Runtime:
    if isinstance(runtime, str):
        if runtime not in RUNTIMES:
            raise SettingError(f"unknown runtime {runtime!r}; {nearest(runtime, RUNTIMES)}, or pass a runtime object")
        runtime = RUNTIMES[runtime]()
    if (reason := runtime.unavailable()) is not None:
        raise RuntimeUnavailableError(reason)
    return runtime


def _plain(value: object) -> dict[str, Any]:
    return {key: item for key, item in to_plain(value).items() if key != TAG}
