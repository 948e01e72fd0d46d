"""This file measures a deployed file from end to end: size, accuracy, drop, latency; and writes the result down."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from dwindle.artifact import Artifact
from dwindle.bench.batches import Batch, Data, batches, run_batch
from dwindle.bench.costs import Costs, Opened, Samples, costs_alone, costs_in_turn
from dwindle.bench.deployment import Deployment
from dwindle.bench.ledger import Ledger
from dwindle.bench.machine import this_machine
from dwindle.bench.measurement import Measurement, Subject
from dwindle.bench.plan import Plan
from dwindle.bench.probes import accuracy
from dwindle.bench.probes.size import measure_size
from dwindle.errors import DataError, MeasurementError
from dwindle.runtimes.catalogue import engine_for, engine_of
from dwindle.runtimes.protocol import Array, Runtime
from dwindle.settings import TAG, nearest, to_plain

Role = Literal["dense", "compressed"]
BASELINE_RUNTIME: Final = "baseline_runtime"
"""Condition of a drop against a dense file that answered on another engine."""


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
    read once: both files see every batch, and their latencies are timed in turn. A dense file that `runtime` does not
    load answers on an engine of its own, and its times are not taken.

    Raises:
        RuntimeUnavailableError: the engine's package is missing.
        MeasurementError: the engine loads none of these formats, a file has changed, or answers are not finite.
        DataError: no data, labels out of range, or inputs that a file cannot run.
    """
    plan, engine = plan or Plan(), engine_of(runtime)
    artifacts = _run_first(target, engine)
    files = artifacts[:1] if dense is None else (artifacts[0], dense)
    n_dense_weights = target.n_dense_weights if isinstance(target, Deployment) else None
    weighed = [measure_size(file, n_dense_weights=n_dense_weights) for file in (*artifacts, *files[1:])]
    engines = [engine if file.format in engine.formats else engine_for(file.format) for file in files]
    found = _run(tuple(zip(files, engines, strict=True)), data, plan=plan)
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


def _run(files: tuple[tuple[Artifact, Runtime], ...], data: Data, *, plan: Plan) -> list[Measured]:
    """Run one file, or the compressed and the dense one; the comparison joins the first one's measurements."""
    with ExitStack() as stack:
        sides = [open_file(stack, file, engine, plan=plan) for file, engine in files]
        first, every = _peek(batches(data, batch_size=plan.batch_size))
        answers = accuracy.answer(
            [(s.artifact.path.name, s.session) for s in sides], every, scores=plan.scores, threshold=plan.threshold
        )
        inputs = _inputs(sides, first, plan)
        if len(sides) == 1:
            return [_found(sides[0], answers[0], costs_alone(sides[0], inputs, plan))]
        is_shared = files[0][1] is files[1][1]  # times of two engines are not compared
        pair = (sides[0], sides[1])
        costs = costs_in_turn(pair, inputs, plan) if is_shared else (costs_alone(pair[0], inputs, plan), Costs())
    found = list(itertools.starmap(_found, zip(sides, answers, costs, strict=True)))
    drop = accuracy.measure_drop(sides[0].subject, *answers[::-1], baseline=files[1][0].sha256)
    if not is_shared:
        drop = tuple(replace(m, conditions={**m.conditions, BASELINE_RUNTIME: files[1][1].name}) for m in drop)
    found[0] = replace(found[0], measurements=(*found[0].measurements, *drop))
    return found


def _found(side: Opened, answers: accuracy.Answers, costs: Costs) -> Measured:
    scores = accuracy.measure_accuracy(side.subject, answers)
    return Measured(
        artifacts=(side.artifact,),
        measurements=(*scores, *costs.measurements),
        samples=costs.samples,
        confusion=answers.confusion,
    )


def open_file(stack: ExitStack, file: Artifact, engine: Runtime, *, plan: Plan) -> Opened:
    """Return `file`, loaded until `stack` is left."""
    conditions: dict[str, str | float] = {"n_threads": plan.n_threads, "format": file.format}
    machine = this_machine().summary()
    return Opened(
        artifact=file,
        engine=engine,
        session=stack.enter_context(engine.load(file, n_threads=plan.n_threads)),
        subject=Subject(artifact=file.sha256, runtime=engine.name, machine=machine, conditions=conditions),
        n_threads=plan.n_threads,
    )


def _with(measured: Measured, artifacts: tuple[Artifact, ...], before: tuple[Measurement, ...]) -> Measured:
    return replace(measured, artifacts=artifacts, measurements=(*before, *measured.measurements))


def _inputs(sides: Sequence[Opened], first: Batch, plan: Plan) -> dict[int, tuple[Array, ...]]:
    """Return the inputs of the calls to time, each tried once on every side."""
    found: dict[int, tuple[Array, ...]] = {}
    for n in plan.timed_batches:
        head = first.head(n)
        if len(head) < n:
            name = "latency_batch" if n == plan.latency_batch else "throughput_batch"
            raise DataError(
                f"{name} = {n}, but the first batch holds {len(head)} examples; give larger batches or a smaller {name}"
            )
        for side in sides:  # a file may have a fixed batch size: say so before timing starts
            run_batch(side.session, head, what=side.artifact.path.name)
        found[n] = head.inputs
    return found


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


def _plain(value: object) -> dict[str, Any]:
    return {key: item for key, item in to_plain(value).items() if key != TAG}
