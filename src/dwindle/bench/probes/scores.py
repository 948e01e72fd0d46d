"""This file holds the metrics of a file's answers: of single examples, of the confusion matrix, of means over examples.

A metric that is a mean over examples is a `Score`; one of yours is `Score(Metric(name, unit, better), function)`. Those
of a whole set of examples, such as F1 and R2, are a `SetScore` or a `MeansScore`: `bench/probes/resample.py` puts the
intervals around them.

Precision, recall and F1 are those of scikit-learn with `zero_division=0`: a class that was never answered has precision
0, and a class that is only answered and never true has recall 0 and counts in a macro average. A class that is neither
true nor answered is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dwindle.bench.measurement import ACCURACY, TOP5_ACCURACY, Metric
from dwindle.errors import DataError, SettingError
from dwindle.runtimes.protocol import Array
from dwindle.settings import nearest

PerExample = Callable[[Any, Array], Array]
"""`(outputs, targets) -> values`, one (bool or float) for each example; several outputs come as a tuple."""
Floats = npt.NDArray[np.float64]
OfCounts = Callable[[Floats], Floats]


@dataclass(frozen=True, slots=True)
class Score:
    """A metric that is a mean over examples, and how one example is scored."""

    metric: Metric
    per_example: PerExample


@dataclass(frozen=True, slots=True)
class SetScore:
    """A metric of the confusion matrix.

    Attributes:
        of_counts: (draws, classes, classes) counts, row = truth, column = answer -> (draws,) values.
    """

    metric: Metric
    of_counts: OfCounts


@dataclass(frozen=True, slots=True)
class MeansScore:
    """A metric of several means over the same examples, such as R2 or a root of a mean.

    Attributes:
        per_example: (outputs, targets) -> (examples, k) values.
        of_means: (draws, k) means -> (draws,) values.
    """

    metric: Metric
    per_example: PerExample
    of_means: Callable[[Floats], Floats]


AnyScore = Score | SetScore | MeansScore
_OTHER_METRIC: Final = "name another metric, such as mean_squared_error, or in Python give scores= of your own"


def top1(outputs: Any, targets: Array) -> Array:
    """Return whether the largest of (n, classes) logits is that of the class in `targets` (n,).

    Raises:
        DataError: targets that are no class numbers of this network.
    """
    logits, classes = classification(outputs, targets)
    return logits.argmax(axis=1) == classes


def top5(outputs: Any, targets: Array) -> Array:
    """Return whether fewer than five of (n, classes) logits are larger than that of the class in `targets` (n,).

    Raises:
        DataError: targets that are no class numbers of this network.
    """
    logits, classes = classification(outputs, targets)
    own = np.take_along_axis(logits, classes[:, None], axis=1)
    return (logits > own).sum(axis=1) < 5


def absolute_error(outputs: Any, targets: Array) -> Array:
    """Return the mean absolute error of each example.

    Raises:
        DataError: targets of another shape than the outputs.
    """
    answered, wanted = _regression(outputs, targets)
    return np.abs(answered - wanted).mean(axis=1)


def squared_error(outputs: Any, targets: Array) -> Array:
    """Return the mean squared error of each example.

    Raises:
        DataError: targets of another shape than the outputs.
    """
    answered, wanted = _regression(outputs, targets)
    return np.square(answered - wanted).mean(axis=1)


def precision_macro(counts: Floats) -> Floats:
    """Return the mean over classes of the share of answers that are right.

    >>> precision_macro(np.array([[[3.0, 1.0], [0.0, 4.0]]]))
    array([0.9])
    """
    tables = _Tables(counts)
    return tables.macro(_ratio(tables.right, tables.answered))


def recall_macro(counts: Floats) -> Floats:
    """Return the mean over classes of the share of a class that is answered rightly: balanced accuracy.

    >>> recall_macro(np.array([[[3.0, 1.0], [0.0, 4.0]]]))
    array([0.875])
    """
    tables = _Tables(counts)
    return tables.macro(_ratio(tables.right, tables.true))


def f1_macro(counts: Floats) -> Floats:
    """Return the mean over classes of the harmonic mean of precision and recall."""
    tables = _Tables(counts)
    return tables.macro(_ratio(2 * tables.right, tables.true + tables.answered))


def precision_weighted(counts: Floats) -> Floats:
    """Return the precision, averaged with the classes' shares of the examples as weights."""
    tables = _Tables(counts)
    return tables.weighted(_ratio(tables.right, tables.answered))


def recall_weighted(counts: Floats) -> Floats:
    """Return the recall, averaged with the classes' shares of the examples as weights: accuracy by another name."""
    tables = _Tables(counts)
    return tables.weighted(_ratio(tables.right, tables.true))


def f1_weighted(counts: Floats) -> Floats:
    """Return F1, averaged with the classes' shares of the examples as weights."""
    tables = _Tables(counts)
    return tables.weighted(_ratio(2 * tables.right, tables.true + tables.answered))


def classification(outputs: Any, targets: Any) -> tuple[Array, npt.NDArray[np.int64]]:
    """Return (n, classes) logits and (n,) class numbers.

    Raises:
        DataError: the network has several outputs or another shape, or targets that are no class numbers of it.
    """
    if isinstance(outputs, tuple) or outputs.ndim != 2:
        shape = [o.shape for o in outputs] if isinstance(outputs, tuple) else outputs.shape
        raise DataError(f"accuracy needs one output (examples, classes), the network gives {shape}; {_OTHER_METRIC}")
    if isinstance(targets, tuple):
        raise DataError(f"accuracy needs one target, the data give several; {_OTHER_METRIC}")
    n_classes = outputs.shape[1]
    if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
        raise DataError(
            f"accuracy needs a class number, 0 to {n_classes - 1}, for each example; {_other_targets(targets)}; "
            f"for another task {_OTHER_METRIC}"
        )
    low, high = int(targets.min()), int(targets.max())
    if n_classes == 1 and high == 1 and low >= 0:
        raise DataError(
            "the network has one output for labels 0 and 1: say above which threshold it names the second class, by "
            "the loss of the job (bce, bce_with_logits), --threshold or Plan(threshold=...)"
        )
    if low < 0 or high >= n_classes:
        raise DataError(
            f"the label {high if high >= n_classes else low} is out of range: the network has {n_classes} classes, "
            f"numbered 0 to {n_classes - 1}; give another network or renumber the labels"
        )
    return outputs, targets.astype(np.int64)


def _other_targets(targets: Array) -> str:
    """Return what targets are that are no class numbers, and how they become such, whatever the batch holds."""
    if targets.dtype.kind in "USO":
        return "these targets are texts: number the classes from 0"
    if targets.ndim == 2 and targets.shape[1] > 1:
        return f"these targets are {targets.shape[1]} values for each: save argmax(axis=1) of them, if they are one-hot"
    if targets.ndim != 1:
        return f"these targets have the shape {targets.shape[1:]} for each: save one number for each"
    return f"these targets are {targets.dtype}: save them as int64, if they are class numbers"


def as_scores(outputs: Any, threshold: float) -> Any:
    """Return (n, 2) scores, 0 and how far it lies above `threshold`, of one output (n, 1) or (n,); others as they are.

    >>> as_scores(np.array([[0.75], [0.5]]), 0.5).tolist()
    [[0.0, 0.25], [0.0, 0.0]]
    """
    if isinstance(outputs, tuple) or outputs.ndim not in {1, 2} or outputs.size != len(outputs):
        return outputs
    above = outputs.reshape(-1, 1) - outputs.dtype.type(threshold)
    return np.concatenate([np.zeros_like(above), above], axis=1)


def drop_of(metric: Metric) -> Metric:
    """Return the metric of what is lost: shares are lost in percentage points, others in their own unit.

    >>> drop_of(ACCURACY)
    Metric(name='accuracy_drop', unit='points', better=-1)
    """
    return Metric(f"{metric.name}_drop", "points" if metric.unit == "fraction" else metric.unit, -1)


def scores_named(names: Iterable[str]) -> tuple[AnyScore, ...]:
    """Return the built-in scores called `names`.

    Raises:
        SettingError: an unknown name (the nearest known one is named), one twice, or none.
    """
    asked = tuple(names)
    for name in asked:
        if name not in SCORES:
            raise SettingError(f"unknown metric {name!r}; {nearest(name, SCORES)}, or give a function of your own")
    if not asked or len(set(asked)) < len(asked):
        raise SettingError(f"name at least one metric and each once, got {list(asked)}")
    return tuple(SCORES[name] for name in asked)


class _Tables:
    """Of (draws, classes, classes) counts: how often each class is right, true, and answered; each (draws, classes)."""

    def __init__(self, counts: Floats) -> None:
        self.right = np.diagonal(counts, axis1=-2, axis2=-1)
        self.true = counts.sum(axis=-1)
        self.answered = counts.sum(axis=-2)

    def macro(self, values: Floats) -> Floats:
        n_seen = (self.true + self.answered > 0).sum(axis=-1)
        return values.sum(axis=-1) / np.maximum(n_seen, 1)

    def weighted(self, values: Floats) -> Floats:
        return (values * self.true).sum(axis=-1) / self.true.sum(axis=-1)


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.zeros_like(above, dtype=np.float64), where=below > 0)


def _regression(outputs: Any, targets: Any) -> tuple[Floats, Floats]:
    """Return (n, values) answers and targets; (n,) and (n, 1) are the same."""
    if isinstance(outputs, tuple) or isinstance(targets, tuple) or outputs[..., 0].size * targets.ndim == 0:
        raise DataError("a regression metric needs one output and one target; give a metric of your own for several")
    answered, wanted = (np.asarray(a, dtype=np.float64).reshape(len(a), -1) for a in (outputs, targets))
    squeezed = [tuple(size for size in array.shape[1:] if size != 1) for array in (outputs, targets)]
    if squeezed[0] != squeezed[1]:
        raise DataError(
            f"a regression metric needs targets of the shape of the outputs, got {targets.shape} and {outputs.shape}; "
            "give a metric of your own for other tasks"
        )
    if not np.isfinite(wanted).all():
        raise DataError("targets hold NaN or infinite values; leave these examples out")
    return answered, wanted


def _variance_terms(outputs: Any, targets: Array) -> Array:
    """Return, for each example, the sum of squared errors, the sum of squared targets, and each target."""
    answered, wanted = _regression(outputs, targets)
    error = np.square(answered - wanted).sum(axis=1)
    return np.column_stack([error, np.square(wanted).sum(axis=1), wanted])


def _r2(means: Floats) -> Floats:
    spread = means[:, 1] - np.square(means[:, 2:]).sum(axis=1)
    if not (spread > 1e-12 * means[:, 1]).all():
        raise DataError("R2 compares errors with the spread of the targets, but these targets are all equal")
    return 1 - means[:, 0] / spread


def _share(name: str) -> Metric:
    return Metric(name, "fraction", +1)


TOP1: Final = Score(ACCURACY, top1)
TOP5: Final = Score(TOP5_ACCURACY, top5)
CLASSIFICATION: Final = (TOP1, TOP5)
_ALL: Final[tuple[AnyScore, ...]] = (
    TOP1,
    TOP5,
    SetScore(_share("precision_macro"), precision_macro),
    SetScore(_share("precision_weighted"), precision_weighted),
    SetScore(_share("recall_macro"), recall_macro),
    SetScore(_share("recall_weighted"), recall_weighted),
    SetScore(_share("f1_macro"), f1_macro),
    SetScore(_share("f1_weighted"), f1_weighted),
    Score(Metric("mean_absolute_error", "target unit", -1), absolute_error),
    Score(Metric("mean_squared_error", "target unit squared", -1), squared_error),
    MeansScore(
        Metric("root_mean_squared_error", "target unit", -1),
        lambda outputs, targets: squared_error(outputs, targets)[:, None],
        lambda means: np.sqrt(means[:, 0]),
    ),
    MeansScore(Metric("r2", "share of variance", +1), _variance_terms, _r2),
)
SCORES: Final[Mapping[str, AnyScore]] = {score.metric.name: score for score in _ALL}
"""The metrics that need no code of yours, by name."""
