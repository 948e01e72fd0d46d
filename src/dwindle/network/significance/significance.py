"""This file says which layers are significant: a criterion, and where to cut its scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from torch import nn

from dwindle.errors import SelectionError, SettingError
from dwindle.network.first_use import in_order_of_use
from dwindle.network.significance.catalogue import AnyCriterion
from dwindle.network.significance.criterion import Evidence, LayerScore
from dwindle.network.significance.dimension import TwoNNChange

Side = Literal["significant", "insignificant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Significance:
    """Layers whose score is above a threshold, or the highest share of them, are significant (Abishek 2022, 3.3.2).

    Exactly one of `threshold`, `share` is given.

    Attributes:
        by: the criterion.
        threshold: a layer is significant where its score is greater; in the unit of the criterion.
        share: the share of the judged layers, in [0, 1], that is significant: the highest scores, rounded to a count,
            halves to the even one.
        side: which of the two sides a selection takes.
        keeps_ends: whether the first and the last selected layer, in the order in which the network uses them, are on
            neither side, as the literature has it.
    """

    by: AnyCriterion = field(default_factory=TwoNNChange)
    threshold: float | None = None
    share: float | None = None
    side: Side = "significant"
    keeps_ends: bool = True

    def __post_init__(self) -> None:
        if (self.threshold is None) == (self.share is None):
            raise SettingError(
                f"Significance: give either threshold or share, got threshold={self.threshold} and share={self.share}"
            )
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise SettingError(f"Significance: threshold must be a finite number, got {self.threshold}")
        if self.share is not None and not 0 <= self.share <= 1:
            raise SettingError(f"Significance: share must be in [0, 1], got {self.share}")
        if self.side not in get_args(Side):
            raise SettingError(f"Significance: side must be one of {', '.join(get_args(Side))}, got {self.side!r}")

    def judge(self, network: nn.Module, evidence: Evidence, names: Sequence[str]) -> Judged:
        """Return which of `names`, weights in the order of the network, are significant.

        Layers that a run on the example does not use are on neither side.

        Raises:
            SelectionError: fewer layers are left to judge than one.
            DwindleError: whatever the criterion raises.
        """
        used = _in_order(network, evidence, names)
        sided = set(used[1:-1] if self.keeps_ends else used)
        judged = [name for name in names if name in sided]
        scores = self.by.scores(network, evidence, judged) if judged else {}
        if not scores:
            raise SelectionError(
                f"Significance: of {len(names)} selected weights, {len(used)} of them in use, none is left to judge by "
                f"{type(self.by).__name__}"
                + ("; the first and the last are left out, unless keeps_ends=False" if self.keeps_ends else "")
            )
        return Judged(scores, self._significant(scores))

    def _significant(self, scores: Mapping[str, LayerScore]) -> tuple[str, ...]:
        if self.threshold is not None:
            return tuple(name for name, score in scores.items() if score.value > self.threshold)
        n = round((self.share or 0.0) * len(scores))
        highest = sorted(scores, key=lambda name: scores[name].value, reverse=True)[:n]
        return tuple(name for name in scores if name in highest)


def _in_order(network: nn.Module, evidence: Evidence, names: Sequence[str]) -> tuple[str, ...]:
    """Return those of `names` that the network uses, in the order of use; all as they are where it does not run."""
    try:
        return in_order_of_use(network, names, evidence.example) or tuple(names)
    except Exception:  # ruff: ignore[blind-except] - a user's own code; a criterion that runs the network will say why
        return tuple(names)


@dataclass(frozen=True, slots=True)
class Judged:
    """The scores of layers, and which of them are significant, both in the order of the network."""

    scores: Mapping[str, LayerScore]
    significant: tuple[str, ...]

    def on(self, side: Side) -> tuple[str, ...]:
        """Return the names on one side."""
        return tuple(name for name in self.scores if (name in self.significant) == (side == "significant"))

    def to_plain(self) -> dict[str, Any]:
        """Return it as JSON values, for the record of a step."""
        return {
            "significant": list(self.significant),
            "scores": {name: {"value": score.value, **score.details} for name, score in self.scores.items()},
        }
