"""This file lets a criterion say where weights go: layers that matter more stay denser."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from dwindle.core.allocation import ranked_densities
from dwindle.errors import SettingError
from dwindle.network.significance.catalogue import AnyCriterion
from dwindle.network.significance.criterion import Evidence, LayerScore
from dwindle.network.significance.dimension import TwoNNChange


@dataclass(frozen=True, slots=True, kw_only=True)
class Guide:
    """The layer with the highest score stays `ratio` times as dense as the one with the lowest, in geometric steps.

    Only the order of the scores counts, so criteria of any unit can be compared at the same number of weights. Layers
    that the criterion cannot judge rank in the middle.

    Attributes:
        by: the criterion.
        ratio: at least 1.
        is_reversed: whether the lowest score is denser: the control experiment.
    """

    by: AnyCriterion = field(default_factory=TwoNNChange)
    ratio: float = 8.0
    is_reversed: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.ratio < math.inf:
            raise SettingError(f"Guide: ratio must be at least 1 and finite, got {self.ratio}")

    def share_out(
        self, network: nn.Module, evidence: Evidence, sizes: Mapping[str, int], *, sparsity: float
    ) -> SharedOut:
        """Return the sparsity of each layer, so that `sparsity` of all weights goes.

        Args:
            network: float, stays as it is.
            evidence: what the criterion may look at.
            sizes: weights of each layer by name, in the order of the network.
            sparsity: of all of them together, [0, 1).

        Raises:
            SettingError: a score is NaN.
            DwindleError: whatever the criterion raises.
        """
        scores = self.by.scores(network, evidence, tuple(sizes))
        sign = -1.0 if self.is_reversed else 1.0
        judged = {name: sign * score.value for name, score in scores.items()}
        middle = sorted(judged.values())[len(judged) // 2] if judged else 0.0
        ranked = {name: judged.get(name, middle) for name in sizes}
        densities = ranked_densities(ranked, sizes, density=1 - sparsity, ratio=self.ratio)
        return SharedOut(scores, {name: 1 - density for name, density in densities.items()})


@dataclass(frozen=True, slots=True)
class SharedOut:
    """The scores of layers and the sparsity that each was given for it."""

    scores: Mapping[str, LayerScore]
    sparsity: Mapping[str, float]

    def to_plain(self) -> dict[str, Any]:
        """Return it as JSON values, for the record of a step."""
        return {
            name: {"sparsity": sparsity}
            | ({"score": self.scores[name].value, **self.scores[name].details} if name in self.scores else {})
            for name, sparsity in self.sparsity.items()
        }
