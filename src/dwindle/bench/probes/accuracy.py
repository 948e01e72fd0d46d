"""This file measures how good a file's answers are: scores of single examples, their mean, the drop, the confusion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dwindle.bench.batches import Batch, run_batch
from dwindle.bench.measurement import ACCURACY, ACCURACY_DROP, TOP5_ACCURACY, Measurement, Metric, Subject, exactly
from dwindle.core.statistics import Interval, mean_interval, paired_drop_interval, wilson_interval
from dwindle.errors import DataError, MeasurementError
from dwindle.runtimes.protocol import Array, Session

PerExample = Callable[[Any, Array], Array]
"""`(outputs, targets) -> values`, one (bool or float) for each example; several outputs come as a tuple."""


@dataclass(frozen=True, slots=True)
class Score:
    """A metric that is a mean over examples, and how one example is scored."""

    metric: Metric
    per_example: PerExample


def top1(outputs: Any, targets: Array) -> Array:
    """Return whether the largest of (n, classes) logits is that of the class in `targets` (n,).

    Raises:
        DataError: targets that are no class numbers of this network.
    """
    logits, classes = _classification(outputs, targets)
    return logits.argmax(axis=1) == classes


def top5(outputs: Any, targets: Array) -> Array:
    """Return whether fewer than five of (n, classes) logits are larger than that of the class in `targets` (n,).

    Raises:
        DataError: targets that are no class numbers of this network.
    """
    logits, classes = _classification(outputs, targets)
    own = np.take_along_axis(logits, classes[:, None], axis=1)
    return (logits > own).sum(axis=1) < 5


TOP1: Final = Score(ACCURACY, top1)
TOP5: Final = Score(TOP5_ACCURACY, top5)
CLASSIFICATION: Final = (TOP1, TOP5)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answers:
    """What a file answered, example by example.

    Attributes:
        values: metric -> (n,) values, bool where an answer is right or wrong.
        confusion: (classes, classes) counts, row = truth, column = answer; None where there are no classes.
    """

    values: dict[Metric, Array]
    confusion: npt.NDArray[np.int64] | None


@dataclass(slots=True)
class _Tally:
    scores: Sequence[Score]
    values: dict[Metric, list[Array]] = field(default_factory=dict[Metric, list[Array]])
    confusion: npt.NDArray[np.int64] | None = None

    def add(self, outputs: tuple[Array, ...], batch: Batch, what: str) -> None:
        for output in outputs:
            if np.issubdtype(output.dtype, np.floating) and not np.isfinite(output).all():
                raise MeasurementError(
                    f"{what} answers batch {batch.number} with NaN or infinite values; check training and export"
                )
        answer = outputs[0] if len(outputs) == 1 else outputs
        for score in self.scores:
            if score is TOP5 and outputs[0].ndim == 2 and outputs[0].shape[1] <= 5:
                continue  # always right
            values = np.asarray(score.per_example(answer, batch.targets))
            if values.shape != (len(batch),):
                raise DataError(
                    f"{score.metric.name} gave shape {values.shape} for {len(batch)} examples; "
                    "a metric returns one value for each example"
                )
            self.values.setdefault(score.metric, []).append(values)
        if any(score.per_example is top1 for score in self.scores):
            self._confuse(outputs[0], batch.targets)

    def _confuse(self, logits: Array, targets: Array) -> None:
        if self.confusion is None:
            self.confusion = np.zeros((logits.shape[1], logits.shape[1]), dtype=np.int64)
        np.add.at(self.confusion, (targets.astype(np.int64), logits.argmax(axis=1)), 1)

    def answers(self) -> Answers:
        return Answers(values={m: np.concatenate(v) for m, v in self.values.items()}, confusion=self.confusion)


def answer(
    sessions: Sequence[tuple[str, Session]], data: Iterable[Batch], *, scores: Sequence[Score] = CLASSIFICATION
) -> tuple[Answers, ...]:
    """Return the answers of each named session to the same batches; the data is read once.

    Raises:
        DataError: labels out of range, inputs that a file cannot run, no data.
        MeasurementError: answers that are not finite.
    """
    tallies = [_Tally(scores) for _ in sessions]
    for batch in data:
        for (what, session), tally in zip(sessions, tallies, strict=True):
            tally.add(run_batch(session, batch, what=what), batch, what)
    if not all(tally.values for tally in tallies):
        raise DataError("the data set is empty, or no metric was asked for: there is nothing to score")
    return tuple(tally.answers() for tally in tallies)


def measure_accuracy(subject: Subject, answers: Answers) -> tuple[Measurement, ...]:
    """Return each metric: a Wilson interval for right or wrong answers, a t-interval for the mean of other values."""
    return tuple(
        subject.measured(metric, _interval(values), protocol="wilson" if values.dtype == np.bool_ else "t")
        for metric, values in answers.values.items()
    )


def measure_drop(subject: Subject, dense: Answers, compressed: Answers, *, baseline: str) -> tuple[Measurement, ...]:
    """Return what compression costs in the first metric, paired by example; more is worse.

    `subject` is the compressed file, `baseline` the sha256 of the dense one. Accuracies give `accuracy_drop` in
    percentage points; a metric of other values gives `<name>_drop` in its own unit.
    """
    metric = next(iter(compressed.values))
    against: dict[str, str | float] = {"baseline": baseline}
    before, after = dense.values[metric], compressed.values[metric]
    if after.dtype == np.bool_:
        drop = ACCURACY_DROP if metric == ACCURACY else Metric(f"{metric.name}_drop", "points", -1)
        interval = paired_drop_interval(before, after)
    else:
        drop = Metric(f"{metric.name}_drop", metric.unit, -1)
        interval = _interval(metric.better * (before.astype(np.float64) - after))
    return (subject.measured(drop, interval, protocol="paired", conditions=against),)


def _interval(values: Array) -> Interval:
    if values.dtype == np.bool_:
        return wilson_interval(int(values.sum()), len(values))
    if len(values) < 2:
        raise DataError(f"{len(values)} example says nothing about the spread of a metric; give at least 2")
    return exactly(float(values[0]), n=len(values)) if np.ptp(values) == 0 else mean_interval(values)


def _classification(outputs: Any, targets: Array) -> tuple[Array, npt.NDArray[np.int64]]:
    if isinstance(outputs, tuple) or outputs.ndim != 2:
        shape = [o.shape for o in outputs] if isinstance(outputs, tuple) else outputs.shape
        raise DataError(
            f"accuracy needs one output (examples, classes), the network gives {shape}; pass scores= of your own"
        )
    if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
        raise DataError(
            f"accuracy needs targets (examples,) of whole class numbers, got shape {targets.shape} {targets.dtype}; "
            "pass scores= of your own for other tasks"
        )
    n_classes = outputs.shape[1]
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= n_classes:
        raise DataError(
            f"labels from {low} to {high} are out of range: the network has {n_classes} classes, numbered 0 to "
            f"{n_classes - 1}; give another network or renumber the labels"
        )
    return outputs, targets.astype(np.int64)
