"""This file scores layers by the standard deviation of their weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from dwindle.network.significance.criterion import Evidence, LayerScore


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightDeviation:
    """The standard deviation of a layer's weights, whatever the data."""

    @property
    def needs_inputs(self) -> bool:
        """It looks at weights only."""
        return False

    @property
    def needs_labels(self) -> bool:
        """It looks at weights only."""
        return False

    def scores(self, network: nn.Module, evidence: Evidence, names: Sequence[str]) -> dict[str, LayerScore]:
        """Score `names`; see `Criterion`."""
        raise NotImplementedError
