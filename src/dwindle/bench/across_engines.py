"""This file compares any number of files, each on the engine that runs it: speed, accuracy, parity across engines.

What is timed in turn: every file with the first one of its engine (its baseline), and that baseline with the first file
of all. So "int8 is 3 times faster than fp32" is a statement about one engine, and two engines are compared by one pair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from dwindle.artifact import Artifact
from dwindle.bench.any_file import Source, artifact_at, run_once, specs_of, timed_inputs, with_batch
from dwindle.bench.batches import Batch
from dwindle.bench.costs import Costs, Opened, costs_alone, costs_in_turn
from dwindle.bench.engine_parity import Answered, Parity, measure_engine_parity
from dwindle.bench.even_batches import RecordingSession
from dwindle.bench.ledger import Ledger
from dwindle.bench.made_inputs import cut, labelled_batch
from dwindle.bench.measure import Measured, open_file, record
from dwindle.bench.measurement import SPEEDUP, Measurement
from dwindle.bench.plan import Plan
from dwindle.bench.probes import accuracy
from dwindle.bench.probes.size import measure_size
from dwindle.bench.protocol import LatencyProtocol
from dwindle.bench.side_by_side import LEVEL
from dwindle.errors import DwindleError, SettingError
from dwindle.runtimes.catalogue import RUNTIMES
from dwindle.runtimes.protocol import Array, Runtime

REFERENCE: Final = "onnxruntime"
REFERENCE_FORMATS: Final = ("onnx", "dwn")
"""Of the files of one name, the first that is there is the reference of parity."""
OTHERS: Final = ("cpu_time", "load_time", "memory", "energy")
"""What a plan may ask for beside times; each is measured alone, once for each file."""
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """One file on one engine.

    Attributes:
        problem: why there are no figures, with the remedy; empty where there are.
        is_failed: whether the problem is one of the file on an engine that is installed, not of a missing engine.
        remark: which of the figures are missing, and why.
        measured: None where there is a problem.
        baseline: number of the row that it was timed in turn with; None of the first one, and where there is a problem.
        parity: None of the reference itself, and where there is a problem.
    """

    artifact: Artifact
    engine: str
    problem: str = ""
    is_failed: bool = False
    remark: str = ""
    measured: Measured | None = None
    baseline: int | None = None
    parity: Parity | None = None

    @property
    def name(self) -> str:
        """File and engine, for people."""
        return f"{self.artifact.path.name} on {self.engine}"

    def find(self, name: str) -> Measurement | None:
        """Return the measurement of the metric called `name`; None where there is none."""
        found = () if self.measured is None else self.measured.measurements
        return next((m for m in found if m.metric.name == name), None)

    @property
    def speedup(self) -> Measurement | None:
        """How many times faster it is than its baseline."""
        return self.find(SPEEDUP.name)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AcrossEngines:
    """Files on their engines, in the order in which they were named."""

    rows: tuple[Row, ...]

    @property
    def flagged(self) -> tuple[Row, ...]:
        """Rows whose engine answers otherwise than ONNX Runtime."""
        return tuple(row for row in self.rows if row.parity is not None and row.parity.is_flagged)

    @property
    def unmeasured(self) -> tuple[Row, ...]:
        """Rows without figures."""
        return tuple(row for row in self.rows if row.measured is None)


@dataclass(slots=True, kw_only=True, eq=False)
class _Side:
    """One row in the making."""

    artifact: Artifact
    engine: Runtime
    problem: str = ""
    remark: str = ""
    answered: Answered | None = None
    baseline: int | None = None
    costs: Costs = field(default_factory=Costs)
    others: tuple[Measurement, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.artifact.path.name} on {self.engine.name}"

    def opened(self, stack: ExitStack, plan: Plan) -> Opened:
        return open_file(stack, self.artifact, self.engine, plan=plan)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Given:
    """What all files answer: inputs of a timed call, and labelled examples where there are any."""

    inputs: tuple[Array, ...]
    labelled: Batch | None


def compare_across(
    paths: Sequence[Path],
    *,
    engines: Sequence[Runtime] = (),
    plan: Plan | None = None,
    source: Source | None = None,
    progress: Progress | None = None,
) -> AcrossEngines:
    """Compare the files at `paths`, each on the first engine for its format that is installed, and on `engines`.

    An engine that is missing, or that cannot run a file, is a row with the reason and fails nothing else.

    Args:
        paths: of one file or more; the files of one deployment share their name up to the suffix.
        engines: further ones; each runs every file whose format it loads.
        plan: threads, latency, metrics, memory.
        source: inputs to time, labelled examples.
        progress: is told what happens next.

    Raises:
        SettingError: nothing to compare, an engine that loads none of the files, or a plan without latency.
        MeasurementError: a path is no file that an engine knows.
        DataError: inputs or examples that cannot be read, or that the first file cannot run.
    """
    plan, source = plan or Plan(latency=LatencyProtocol(level=LEVEL)), source or Source()
    if plan.latency is None:
        raise SettingError("a comparison takes latencies; give the plan a latency protocol")
    told = progress or _silent
    sides = _sides([artifact_at(path) for path in paths], engines)
    given: _Given | None = None
    for side in sides:
        told(f"{side.name}: answers")
        given = _answer(side, given, plan=plan, source=source)
    if given is not None:
        _time_all(sides, given.inputs, with_batch(plan, given.inputs), told=told)
    return AcrossEngines(rows=tuple(_row(side, sides) for side in sides))


def record_across(ledger: Ledger, found: AcrossEngines) -> None:
    """Append every measurement to `ledger`; a row without figures as `not_measured`, with its reason.

    Raises:
        LedgerError: the ledger cannot be written.
    """
    for row in found.rows:
        if row.measured is not None:
            record(ledger, row.measured, role="dense" if _is_baseline(row, found) else "compressed")
        else:
            told = {"file": row.artifact.path.name, "engine": row.engine, "reason": row.problem}
            ledger.append("not_measured", told)


def _is_baseline(row: Row, found: AcrossEngines) -> bool:
    return row.baseline is None or found.rows[row.baseline].engine != row.engine


def _silent(_what: str) -> None:
    """Tell nobody."""


def _sides(artifacts: Sequence[Artifact], engines: Sequence[Runtime]) -> list[_Side]:
    found: list[_Side] = []
    used: set[str] = set()
    for artifact in artifacts:
        default = default_engine(artifact.format)
        further = {e.name: e for e in engines if artifact.format in e.formats}
        used |= {default.name, *further}
        further.pop(default.name, None)
        found += [_Side(artifact=artifact, engine=engine) for engine in (default, *further.values())]
    if idle := [engine.name for engine in engines if engine.name not in used]:
        formats = ", ".join(sorted({f".{artifact.format}" for artifact in artifacts}))
        raise SettingError(f"{', '.join(idle)} runs none of these files ({formats}); deploy a format that it loads")
    if len(found) < 2:
        raise SettingError("one file on one engine is nothing to compare; name another file, or another engine")
    return found


def default_engine(file_format: str) -> Runtime:
    """Return the first engine for a format that is installed, else the first: its row says what to install."""
    known = [engine for make in RUNTIMES.values() if file_format in (engine := make()).formats]
    return next((engine for engine in known if engine.unavailable() is None), known[0])


def _answer(side: _Side, given: _Given | None, *, plan: Plan, source: Source) -> _Given | None:
    """Let a file answer; return what the others answer, too: it is made for, or read by, the first that opens."""
    if reason := side.engine.unavailable():
        side.problem = reason
        return given
    with ExitStack() as stack:
        try:
            opened = side.opened(stack, plan)
        except DwindleError as error:
            side.problem = str(error)
            return given
        if given is None:  # what goes wrong here is the caller's mistake, not the file's
            given = _Given(inputs=timed_inputs(opened, source), labelled=_labelled(opened, source))
        try:
            side.answered = _answered(opened, given, plan)
        except DwindleError as error:
            side.problem = str(error)
    return given


def _labelled(opened: Opened, source: Source) -> Batch | None:
    return None if source.labelled is None else labelled_batch(source.labelled, specs_of(opened))


def _answered(opened: Opened, given: _Given, plan: Plan) -> Answered:
    name = opened.artifact.path.name
    outputs = run_once(opened, given.inputs)
    if given.labelled is None:
        return Answered(name=name, subject=opened.subject, outputs=outputs)
    recording = RecordingSession(opened.session)
    parts = cut(given.labelled, plan.batch_size)
    (answers,) = accuracy.answer([(name, recording)], parts, scores=plan.scores, threshold=plan.threshold)
    return Answered(name=name, subject=opened.subject, outputs=recording.outputs(), answers=answers)


def _time_all(sides: Sequence[_Side], inputs: tuple[Array, ...], plan: Plan, *, told: Progress) -> None:
    """Time each file in turn with its baseline; measure memory where the plan asks for it."""
    runs = [number for number, side in enumerate(sides) if not side.problem]
    first_of = {sides[number].engine.name: number for number in reversed(runs)}
    for number in (*runs[1:], *runs[:1]):  # the first of all comes last: where a pair gave it times, they are its own
        side, first = sides[number], first_of[sides[number].engine.name]
        try:
            if number != runs[0]:
                partner = runs[0] if first == number else first
                told(f"{side.name}: in turn with {sides[partner].name}")
                _time_pair((side, sides[partner]), inputs, plan)
                side.baseline = partner
            elif not side.costs.measurements:
                told(f"{side.name}: latency")
                _time_alone(side, inputs, plan)
        except DwindleError as error:
            side.problem = str(error)
            continue
        _find_others(side, inputs, plan, told=told)


def _time_pair(pair: tuple[_Side, _Side], inputs: tuple[Array, ...], plan: Plan) -> None:
    side, partner = pair
    plan = replace(plan, **dict.fromkeys(OTHERS, False))
    with ExitStack() as stack:
        both = side.opened(stack, plan), partner.opened(stack, plan)
        ours, theirs = costs_in_turn(both, {plan.latency_batch: inputs}, plan)
    side.costs = ours
    if not partner.costs.measurements:  # the first file of all has no baseline; its own times are of its first pair
        partner.costs = theirs


def _time_alone(side: _Side, inputs: tuple[Array, ...], plan: Plan) -> None:
    plan = replace(plan, **dict.fromkeys(OTHERS, False))
    with ExitStack() as stack:
        side.costs = costs_alone(side.opened(stack, plan), {plan.latency_batch: inputs}, plan)


def _find_others(side: _Side, inputs: tuple[Array, ...], plan: Plan, *, told: Progress) -> None:
    """Measure what else the plan asks for, once for each file; what cannot be measured costs no other figure."""
    for what in (name for name in OTHERS if getattr(plan, name)):
        told(f"{side.name}: {what.replace('_', ' ')}")
        alone = replace(plan, latency=None, throughput_batch=None, **{name: name == what for name in OTHERS})
        try:
            with ExitStack() as stack:
                found = costs_alone(side.opened(stack, plan), {plan.latency_batch: inputs}, alone)
        except DwindleError as error:
            side.remark = "; ".join(filter(None, (side.remark, f"{what.replace('_', ' ')} unknown, {error}")))
        else:
            side.others = (*side.others, *found.measurements)


def _row(side: _Side, sides: Sequence[_Side]) -> Row:
    if side.problem or side.answered is None:
        is_failed = side.engine.unavailable() is None
        return Row(artifact=side.artifact, engine=side.engine.name, problem=side.problem, is_failed=is_failed)
    answered = side.answered
    reference = _reference(side, sides)
    parity = None if reference is side else measure_engine_parity(answered, reference and reference.answered)
    scores = () if answered.answers is None else accuracy.measure_accuracy(answered.subject, answered.answers)
    near = () if parity is None else parity.measurements
    measured = Measured(
        artifacts=(side.artifact,),
        measurements=(*measure_size(side.artifact), *scores, *side.costs.measurements, *side.others, *near),
        samples=side.costs.samples,
        confusion=None if answered.answers is None else answered.answers.confusion,
    )
    return Row(
        artifact=side.artifact,
        engine=side.engine.name,
        remark=side.remark,
        measured=measured,
        baseline=side.baseline,
        parity=parity,
    )


def _reference(side: _Side, sides: Sequence[_Side]) -> _Side | None:
    """Return the file of the same name in the same folder that ONNX Runtime ran with its defaults.

    A `.dwn` is the reference only where no `.onnx` of its name was compared.
    """
    name = RUNTIMES[REFERENCE]().name
    known = [
        other
        for format_ in REFERENCE_FORMATS
        for other in sides
        if other.artifact.format == format_
        and other.engine.name == name
        and other.answered is not None
        and other.artifact.path.with_suffix("") == side.artifact.path.with_suffix("")
    ]
    return next(iter(known), None)
