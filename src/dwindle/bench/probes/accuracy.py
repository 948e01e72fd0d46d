"""This file measures how good a file's answers are: every metric with its interval, the drop, and the confusion."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dwindle.bench.batches import Answering, Batch, is_finite, run_batch
from dwindle.bench.measurement import Measurement, Metric, Subject, exactly
from dwindle.bench.probes import resample
from dwindle.bench.probes.scores import (
    CLASSIFICATION,
    TOP5,
    AnyScore,
    MeansScore,
    Score,
    SetScore,
    as_scores,
    classification,
    drop_of,
    top1,
    top5,
)
from dwindle.core.statistics import Interval, mean_interval, paired_drop_interval, wilson_interval
from dwindle.errors import DataError, DwindleError, MeasurementError, SettingError
from dwindle.runtimes.protocol import Array

BOOTSTRAP: Final = "bootstrap"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labels:
    """Class numbers (n,): what is true, and what was answered."""

    truth: npt.NDArray[np.int64]
    answers: npt.NDArray[np.int64]
    n_classes: int

    @property
    def confusion(self) -> npt.NDArray[np.int64]:
        """(classes, classes) counts, row = truth, column = answer."""
        flat = np.bincount(self.truth * self.n_classes + self.answers, minlength=self.n_classes**2)
        return flat.reshape(self.n_classes, self.n_classes).astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answers:
    """What a file answered, example by example.

    Attributes:
        scores: the metrics that apply, in the order that was asked for.
        values: metric -> (n,) values, bool where an answer is right or wrong, or (n, k) of a metric of several means.
        labels: None where no metric is one of classes.
    """

    scores: tuple[AnyScore, ...]
    values: dict[Metric, Array]
    labels: Labels | None

    @property
    def confusion(self) -> npt.NDArray[np.int64] | None:
        """(classes, classes) counts, row = truth, column = answer; None where there are no classes."""
        return None if self.labels is None else self.labels.confusion


@dataclass(slots=True)
class _Tally:
    scores: Sequence[AnyScore]
    threshold: float | None = None
    values: dict[Metric, list[Array]] = field(default_factory=dict[Metric, list[Array]])
    truth: list[Array] = field(default_factory=list[Array])
    classes: list[Array] = field(default_factory=list[Array])
    n_classes: int = 0
    n: int = 0

    def add(self, outputs: tuple[Array, ...], batch: Batch, what: str) -> None:
        if not all(map(is_finite, outputs)):
            raise MeasurementError(
                f"{what} answers batch {batch.number} with NaN or infinite values; check training and export"
            )
        self.n += len(batch)
        answer = outputs[0] if len(outputs) == 1 else outputs
        for score in self.scores:
            if isinstance(score, SetScore) or (score is TOP5 and _has_few_classes(outputs)):
                continue  # counted below; always right
            given = self._as_scores(answer) if _is_top(score) else answer
            values = _checked(score, _values(score, given, batch, what=what), batch, what=what)
            self.values.setdefault(score.metric, []).append(values)
        if any(isinstance(score, SetScore) or _is_top1(score) for score in self.scores):
            self._classify(self._as_scores(answer), batch.targets)

    def _as_scores(self, answer: Any) -> Any:
        if self.threshold is None:
            return answer
        if (scores := as_scores(answer, self.threshold)) is answer:
            raise SettingError(
                f"the threshold {self.threshold:g} says what one output names, but the network gives several for each "
                "example; leave the threshold out"
            )
        return scores

    def _classify(self, answer: Any, targets: Any) -> None:
        logits, classes = classification(answer, targets)
        self.n_classes = logits.shape[1]
        self.truth.append(classes)
        self.classes.append(logits.argmax(axis=1))

    def answers(self) -> Answers:
        labels = None
        if self.truth:
            truth, classes = (np.concatenate(part).astype(np.int64) for part in (self.truth, self.classes))
            labels = Labels(truth=truth, answers=classes, n_classes=self.n_classes)
        values = {m: np.concatenate(v) for m, v in self.values.items()}
        scores = tuple(s for s in self.scores if isinstance(s, SetScore) or s.metric in values)
        return Answers(scores=scores, values=values, labels=labels)


def answer(
    sessions: Sequence[tuple[str, Answering]],
    data: Iterable[Batch],
    *,
    scores: Sequence[AnyScore] = CLASSIFICATION,
    threshold: float | None = None,
) -> tuple[Answers, ...]:
    """Return the answers of each named session to the same batches; the data is read once.

    With a `threshold`, one output above it names the second of two classes, for the metrics of classes.

    Raises:
        SettingError: a threshold for a network of several outputs.
        DataError: labels out of range, inputs that are not finite or that a file cannot run, no data.
        MeasurementError: answers or scores that are not finite.
    """
    tallies = [_Tally(scores, threshold) for _ in sessions]
    for batch in data:
        if not all(map(is_finite, batch.inputs)):  # answers do not tell: quantizers turn NaN into a number
            raise DataError(f"the inputs of batch {batch.number} hold NaN or infinite values; repair the data")
        for (what, session), tally in zip(sessions, tallies, strict=True):
            tally.add(run_batch(session, batch, what=what), batch, what)
    found = tuple(tally.answers() for tally in tallies)
    if not all(tally.n for tally in tallies) or not all(answers.scores for answers in found):
        raise DataError("the data set is empty, or no metric was asked for that applies: there is nothing to score")
    return found


def measure_accuracy(subject: Subject, answers: Answers) -> tuple[Measurement, ...]:
    """Return each metric with its interval.

    Wilson's for right or wrong answers, Student's for the mean of other values, a bootstrap for metrics of whole sets.
    """
    return tuple(_measure(subject, answers, score) for score in answers.scores)


def measure_drop(subject: Subject, dense: Answers, compressed: Answers, *, baseline: str) -> tuple[Measurement, ...]:
    """Return what compression costs in the first metric, paired by example; more is worse.

    `subject` is the compressed file, `baseline` the sha256 of the dense one. The drop of a share, such as accuracy or
    F1, is in percentage points; another metric's is in its own unit.
    """
    score = compressed.scores[0]
    drop = drop_of(score.metric)
    interval = _drop(score, dense, compressed, in_points=drop.unit == "points")
    return (subject.measured(drop, interval, protocol="paired", conditions={"baseline": baseline}),)


def _measure(subject: Subject, answers: Answers, score: AnyScore) -> Measurement:
    if isinstance(score, SetScore):
        labels = _labels(answers)
        interval = resample.confusion_interval(score, labels.truth, labels.answers, n_classes=labels.n_classes)
        return subject.measured(score.metric, interval, protocol=BOOTSTRAP)
    values = answers.values[score.metric]
    if isinstance(score, MeansScore):
        return subject.measured(score.metric, resample.means_interval(score, values), protocol=BOOTSTRAP)
    protocol = "wilson" if values.dtype == np.bool_ else "t"
    return subject.measured(score.metric, _interval(values), protocol=protocol)


def _drop(score: AnyScore, dense: Answers, compressed: Answers, *, in_points: bool) -> Interval:
    factor = 100.0 if in_points else 1.0
    if isinstance(score, SetScore):
        before, after = _labels(dense), _labels(compressed)
        sides = (before.answers, after.answers)
        return _scaled(resample.confusion_drop(score, after.truth, sides, n_classes=after.n_classes), factor)
    before, after = dense.values[score.metric], compressed.values[score.metric]
    if isinstance(score, MeansScore):
        return _scaled(resample.means_drop(score, before, after), factor)
    if after.dtype == np.bool_ and score.metric.better > 0:
        return _scaled(paired_drop_interval(before, after), factor / 100.0)
    return _scaled(_interval(score.metric.better * (before.astype(np.float64) - after)), factor)


def _interval(values: Array) -> Interval:
    if values.dtype == np.bool_:
        return wilson_interval(int(values.sum()), len(values))
    if len(values) < 2:
        raise DataError(f"{len(values)} example says nothing about the spread of a metric; give at least 2")
    return exactly(float(values[0]), n=len(values)) if np.ptp(values) == 0 else mean_interval(values)


def _scaled(interval: Interval, factor: float) -> Interval:
    low, high = factor * interval.low, factor * interval.high
    return Interval(value=factor * interval.value, low=low, high=high, n=interval.n)


def _values(score: Score | MeansScore, answer: Any, batch: Batch, *, what: str) -> Array:
    """Return what the metric gives for copies: the next metric and the next file need the answers as they are."""
    try:
        return np.asarray(score.per_example(_copy(answer), _copy(batch.targets)))
    except DwindleError:
        raise
    except Exception as error:  # a user's own code
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"the metric {score.metric.name} fails on batch {batch.number} of {what}: {reason}") from error


def _copy(arrays: Any) -> Any:
    return tuple(map(_copy, arrays)) if isinstance(arrays, tuple) else arrays.copy()


def _checked(score: Score | MeansScore, values: Array, batch: Batch, *, what: str) -> Array:
    is_vector = isinstance(score, MeansScore)
    if values.shape[:1] != (len(batch),) or values.ndim != 1 + is_vector:
        raise DataError(
            f"{score.metric.name} gave shape {values.shape} for {len(batch)} examples; "
            "a metric returns one value for each example"
        )
    if values.dtype == np.bool_:
        return values
    if not (np.issubdtype(values.dtype, np.number) and np.isfinite(values).all()):
        raise MeasurementError(
            f"{score.metric.name} gives values that are no finite numbers for batch {batch.number} of {what}; "
            "mend the metric or leave these examples out"
        )
    if score.metric.unit == "fraction" and not ((values >= 0) & (values <= 1)).all():
        raise MeasurementError(
            f"{score.metric.name} gives values in [{values.min():g}, {values.max():g}] for batch {batch.number} of "
            f"{what}, but its unit is a fraction; mend the metric or name its unit"
        )
    return values.astype(np.float64)


def _labels(answers: Answers) -> Labels:
    if answers.labels is None:
        raise DataError("this metric counts classes, and these answers have none; ask for it when they are given")
    return answers.labels


def _has_few_classes(outputs: tuple[Array, ...]) -> bool:
    return outputs[0].ndim == 2 and outputs[0].shape[1] <= 5


def _is_top1(score: AnyScore) -> bool:
    return isinstance(score, Score) and score.per_example is top1


def _is_top(score: AnyScore) -> bool:
    return isinstance(score, Score) and score.per_example in {top1, top5}
