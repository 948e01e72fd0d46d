"""This file scores layers by the standard deviation of their weights.

Han et al. (2015, "Learning both weights and connections") and Tian et al. prune below a multiple of it, so that the
spread of a layer says how large its weights have to be to count; it looks at no data at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from dwindle.network.significance.criterion import Evidence, LayerScore
from dwindle.network.significance.weights import weights_of


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightDeviation:
    """The standard deviation (of the population) of a layer's weights, whatever the data."""

    @property
    def needs_inputs(self) -> bool:
        """It looks at weights only."""
        return False

    @property
    def needs_labels(self) -> bool:
        """It looks at weights only."""
        return False

    def scores(self, network: nn.Module, evidence: Evidence, names: Sequence[str]) -> dict[str, LayerScore]:
        """Score `names` in the order given; see `Criterion`. It never leaves a layer out.

        Raises:
            NetworkError: a weight is NaN or infinite.
        """
        return {name: _score(weight) for name, weight in weights_of(network, names).items()}


def _score(weight: Tensor) -> LayerScore:
    values = weight.detach().double()
    deviation = float(values.std(correction=0)) if values.numel() else 0.0
    return LayerScore(value=deviation, details={"n_weights": float(values.numel())})
