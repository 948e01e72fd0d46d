"""This file says what a network is for: the loss that it is trained with, and the metrics that its answers get."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from torch.nn import functional

from dwindle.bench import measurement
from dwindle.bench.measurement import ACCURACY, Metric
from dwindle.bench.probes.scores import CLASSIFICATION, AnyScore, SetScore
from dwindle.errors import SettingError
from dwindle.job.losses import threshold_of
from dwindle.network.fabric_trainer import BaseLoss

TAKEN: Final = frozenset(
    metric.name for metric in vars(measurement).values() if isinstance(metric, Metric) and metric.unit != "fraction"
) | {measurement.TOP1_AGREEMENT.name}
"""Names that say something about a file already: its size, its latency and the like."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A task; classification with cross entropy and accuracy unless said otherwise.

    Attributes:
        loss: `loss(output, target)` returns a scalar tensor.
        scores: metrics of the answers; the drop is measured in the first.
    """

    loss: BaseLoss = functional.cross_entropy
    scores: tuple[AnyScore, ...] = CLASSIFICATION

    def __post_init__(self) -> None:
        if not self.scores:
            raise SettingError("a task needs at least one metric; the drop is measured in the first")
        names = [score.metric.name for score in self.scores]
        for name in names:
            if name in TAKEN or name.endswith("_drop"):
                raise SettingError(f"a metric cannot be called {name!r}, which stands for something else; rename it")
            if not name.isidentifier():
                raise SettingError(f"a metric cannot be called {name!r}; use letters, digits and underscores")
            if names.count(name) > 1:
                raise SettingError(f"the metric {name!r} is named twice; keep one")

    @property
    def threshold(self) -> float | None:
        """Above which one output names the second of two classes; None where the loss is not about two classes."""
        return threshold_of(self.loss)

    @property
    def metric(self) -> Metric:
        """The first metric, whose drop is measured."""
        return self.scores[0].metric

    @property
    def is_classification(self) -> bool:
        """Whether the first metric is accuracy."""
        return self.metric == ACCURACY

    @property
    def counts_classes(self) -> bool:
        """Whether a metric compares class numbers."""
        return any(score.metric == ACCURACY or isinstance(score, SetScore) for score in self.scores)

    @property
    def is_default(self) -> bool:
        """Whether nothing was said about metrics."""
        return self.scores is CLASSIFICATION
