"""This file compares two files side by side: timed in turn, weighed, their memory and their answers as well."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from dwindle.artifact import Artifact
from dwindle.bench.any_file import Source, artifact_at, batch_of, run_once, scored, timed_inputs, with_batch
from dwindle.bench.costs import Costs, Opened, costs_in_turn
from dwindle.bench.even_batches import RecordingSession
from dwindle.bench.measure import Measured, open_file
from dwindle.bench.measurement import SPEEDUP, Measurement
from dwindle.bench.plan import Plan
from dwindle.bench.probes import accuracy
from dwindle.bench.probes.size import measure_size
from dwindle.bench.protocol import LatencyProtocol
from dwindle.errors import DataError, SettingError
from dwindle.runtimes.catalogue import engine_for
from dwindle.runtimes.protocol import Array, Runtime

LEVEL: Final = 0.99
"""Of the interval that decides: one comparison of equal files in a hundred calls them different."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswersBeside:
    """How far the answers of two files to the same inputs lie apart.

    Attributes:
        largest: the largest absolute difference; None where the answers or the inputs have other shapes.
        scale: the largest absolute answer of the first file.
        agreement: share of examples with the same largest output; None where there are no classes.
        remark: why they cannot be compared; empty where they can.
        n: examples that were answered.
        about: where they come from.
    """

    largest: float | None = None
    scale: float | None = None
    agreement: float | None = None
    remark: str = ""
    n: int = 0
    about: str = "the same inputs"

    def words(self) -> str:
        """Return the figures in one sentence."""
        if self.largest is None:
            return f"answers: not comparable, {self.remark}"
        agreement = "" if self.agreement is None else f"; the largest output is the same for {self.agreement:.1%}"
        apart = f"largest difference {self.largest:.3g}, largest answer {self.scale or 0.0:.3g}"
        return f"answers to {self.n:,} example{'' if self.n == 1 else 's'} of {self.about}: {apart}{agreement}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SideBySide:
    """Two files, side by side.

    Attributes:
        ratio: how many times faster the first file is than the second.
    """

    a: Measured
    b: Measured
    ratio: Measurement
    answers: AnswersBeside

    @property
    def differs(self) -> bool:
        """Whether the interval of the ratio leaves 1 out: whether one file is faster."""
        return not self.ratio.low <= 1.0 <= self.ratio.high

    def sentence(self) -> str:
        """Return the verdict in one sentence."""
        names = (self.a.artifacts[0].path.name, self.b.artifacts[0].path.name)
        return ratio_sentence(self.ratio, *(("A", "B") if names[0] == names[1] else names))


def ratio_sentence(ratio: Measurement, a: str, b: str) -> str:
    """Return "a is 2.10x [2.00, 2.20] faster than b", slower as faster the other way round, or "no difference"."""
    level = f"{100 * float(ratio.conditions.get('level', 0.95)):g} % interval, n = {ratio.n} rounds"
    if ratio.low <= 1.0 <= ratio.high:
        interval = f"[{ratio.low:.3f}, {ratio.high:.3f}]"
        return f"no difference between {a} and {b}: {ratio.value:.3f}x {interval} holds 1 ({level})"
    value, low, high = ratio.value, ratio.low, ratio.high
    if high < 1.0:
        (a, b), (value, low, high) = (b, a), (1 / value, 1 / high, 1 / low)
    return f"{a} is {value:.2f}x [{low:.2f}, {high:.2f}] faster than {b} ({level})"


def compare_files(a: Path, b: Path, *, plan: Plan | None = None, source: Source | None = None) -> SideBySide:
    """Compare the files at `a` and `b` on the same inputs.

    Raises:
        SettingError: the plan takes no latencies, or the files run on two engines.
        RuntimeUnavailableError: their engine is not installed.
        MeasurementError: a file cannot be loaded, or a measurement failed.
        DataError: inputs that are missing or that a file cannot run.
    """
    plan, source = plan or Plan(latency=LatencyProtocol(level=LEVEL)), source or Source()
    artifacts = artifact_at(a), artifact_at(b)
    if plan.latency is None:
        raise SettingError("a comparison takes latencies; give the plan a latency protocol")
    engine = _engine_of(artifacts)
    with ExitStack() as stack:
        one, other = (open_file(stack, artifact, engine, plan=plan) for artifact in artifacts)
        inputs = timed_inputs(one, source)
        plan = with_batch(plan, inputs)
        beside = replace(_beside(one, other, inputs), about=str(source.inputs or "made inputs"))
        for n in plan.timed_batches:
            batch_of(other, inputs, n)
        by_batch = {n: batch_of(one, inputs, n) for n in plan.timed_batches}
        answers, answered = _scored((one, other), source, plan)
        costs = costs_in_turn((one, other), by_batch, plan)
    sides = list(itertools.starmap(_measured, zip((one, other), answers, costs, strict=True)))
    ratio = sides[0].find(SPEEDUP.name)
    if answers[0] is not None and answers[1] is not None:
        drop = accuracy.measure_drop(one.subject, answers[1], answers[0], baseline=artifacts[1].sha256)
        sides[0] = replace(sides[0], measurements=(*sides[0].measurements, *drop))
    return SideBySide(a=sides[0], b=sides[1], ratio=ratio, answers=answered or beside)


def _engine_of(artifacts: tuple[Artifact, Artifact]) -> Runtime:
    engine, other = (engine_for(artifact.format) for artifact in artifacts)
    if engine.name != other.name:
        a, b = (artifact.path for artifact in artifacts)
        raise SettingError(f"{a} runs on {engine.name}, {b} on {other.name}; use compare_across")
    return engine


def _measured(opened: Opened, answers: accuracy.Answers | None, costs: Costs) -> Measured:
    scores = () if answers is None else accuracy.measure_accuracy(opened.subject, answers)
    return Measured(
        artifacts=(opened.artifact,),
        measurements=(*measure_size(opened.artifact), *scores, *costs.measurements),
        samples=costs.samples,
        confusion=None if answers is None else answers.confusion,
    )


def _scored(
    both: tuple[Opened, Opened], source: Source, plan: Plan
) -> tuple[list[accuracy.Answers | None], AnswersBeside | None]:
    """Return the scored answers of both files to the labelled examples, if any, and how far these lie apart."""
    recordings = [RecordingSession(opened.session) for opened in both]
    answers = [
        scored(opened, source, plan, session=recording) for opened, recording in zip(both, recordings, strict=True)
    ]
    if source.labelled is None:
        return answers, None
    ours, theirs = (recording.outputs() for recording in recordings)
    return answers, replace(answers_beside(ours, theirs), about=str(source.labelled))


def _beside(one: Opened, other: Opened, inputs: tuple[Array, ...]) -> AnswersBeside:
    try:
        theirs = run_once(other, inputs)
    except DataError as error:
        raise DataError(f"the two files do not take the same inputs, so there is no comparing them: {error}") from error
    return answers_beside(run_once(one, inputs), theirs)


def answers_beside(ours: tuple[Array, ...], theirs: tuple[Array, ...]) -> AnswersBeside:
    """Return how far the answers of two files to the same inputs lie apart."""
    if not all(map(_is_numeric, (*ours, *theirs))):
        return AnswersBeside(remark="not all of them are arrays of numbers")
    shapes = [[array.shape for array in side] for side in (ours, theirs)]
    if shapes[0] != shapes[1]:
        return AnswersBeside(remark=f"the answers have other shapes: {shapes[0]} and {shapes[1]}")
    floats = [[_float64(array) for array in side] for side in (ours, theirs)]
    if not all(np.isfinite(array).all() for side in floats for array in side):
        return AnswersBeside(remark="there are NaN or infinite values among the answers")
    largest = max((float(np.abs(x - y).max(initial=0.0)) for x, y in zip(*floats, strict=True)), default=0.0)
    n = len(ours[0]) if ours and ours[0].ndim else 1
    scale = max((float(np.abs(x).max(initial=0.0)) for x in floats[0]), default=0.0)
    return AnswersBeside(largest=largest, scale=scale, agreement=_agreement(ours[0], theirs[0]), n=n)


def _agreement(ours: Array, theirs: Array) -> float | None:
    if ours.ndim != 2 or ours.shape[1] < 2:
        return None
    return float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean())


def _is_numeric(answer: object) -> bool:
    """Return whether an engine's answer is an array of numbers; it may be a list of arrays, or hold texts."""
    return isinstance(answer, np.ndarray) and answer.dtype.kind in "biuf"


def _float64(array: Array) -> Any:
    return array.astype(np.float64)
