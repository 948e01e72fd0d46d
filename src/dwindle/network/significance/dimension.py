"""This file scores layers by how much they change the intrinsic dimension of what passes through them.

Chakraborty et al. (2020, "Constructing energy-efficient mixed-precision neural networks through principal component
analysis for edge intelligence", Hybrid-Net) count principal components of the channels and keep precision where a layer
adds some. Abishek (2022, section 3.3.2) measures the flattened values by TwoNN and counts a fall of the dimension as
much as a rise. The estimators, of Facco et al. (2017) and of Levina and Bickel (2004) among them, are those of
`core/dimension.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from torch import Tensor, nn

from dwindle.core.dimension import Fit, levina_bickel, pca, two_nn
from dwindle.errors import SettingError
from dwindle.network.significance.counts import require_counts
from dwindle.network.significance.criterion import Evidence, LayerScore
from dwindle.network.significance.representations import Measured, Sampling, View, measure_passages


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoNNChange:
    """|ID after - ID before| by two nearest neighbours (Abishek 2022, section 3.3.2; Facco et al. 2017).

    Attributes:
        fit: "likelihood" (maximum likelihood) or "linear" (a line through the origin, as Facco et al. have it).
        discarded: share of the largest ratios that neither fit relies on, in [0, 1); see `core.dimension.two_nn`.
        view: what is one point.
        n_examples: how many inputs are looked at, at most.
        max_points: how many vectors of channels are looked at, at most; drawn at random.
    """

    fit: Fit = "likelihood"
    discarded: float = 0.1
    view: View = "flat"
    n_examples: int = 1000
    max_points: int = 10_000

    def __post_init__(self) -> None:
        if self.fit not in get_args(Fit):
            raise SettingError(f"TwoNNChange: fit must be one of {', '.join(get_args(Fit))}, got {self.fit!r}")
        if not 0 <= self.discarded < 1:
            raise SettingError(f"TwoNNChange: discarded must be in [0, 1), got {self.discarded}")
        _require_view("TwoNNChange", self.view)
        require_counts(self, n_examples=3, max_points=3)

    @property
    def needs_inputs(self) -> bool:
        """It looks at inputs."""
        return True

    @property
    def needs_labels(self) -> bool:
        """It needs no labels."""
        return False

    def scores(self, network: nn.Module, evidence: Evidence, names: Sequence[str]) -> dict[str, LayerScore]:
        """Score `names` in the order given; see `Criterion`.

        Raises:
            DataError: no inputs, or fewer than three.
            NetworkError: the network cannot be captured or run, or a value is NaN or infinite.
        """
        sampling = _sampling(self.view, n_examples=self.n_examples, max_points=self.max_points, n_least=3)

        def estimate(points: Tensor) -> float:
            return two_nn(points, fit=self.fit, discarded=self.discarded).value

        found = measure_passages(network, evidence, names, sampling=sampling, estimate=estimate)
        return _scores(found, is_signed=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PCAChange:
    """ID after - ID before by principal components: Hybrid-Net's criterion (Chakraborty et al. 2020).

    Attributes:
        explained_variance: share of the variance that the counted components explain, in (0, 1].
        view: what is one point.
        is_signed: whether a layer that lowers the dimension counts as insignificant, as published; else |difference|.
        n_examples: how many inputs are looked at, at most.
        max_points: how many vectors of channels are looked at, at most; drawn at random.
    """

    explained_variance: float = 0.95
    view: View = "channels"
    is_signed: bool = True
    n_examples: int = 1000
    max_points: int = 10_000

    def __post_init__(self) -> None:
        if not 0 < self.explained_variance <= 1:
            raise SettingError(f"PCAChange: explained_variance must be in (0, 1], got {self.explained_variance}")
        _require_view("PCAChange", self.view)
        require_counts(self, n_examples=3, max_points=3)

    @property
    def needs_inputs(self) -> bool:
        """It looks at inputs."""
        return True

    @property
    def needs_labels(self) -> bool:
        """It needs no labels."""
        return False

    def scores(self, network: nn.Module, evidence: Evidence, names: Sequence[str]) -> dict[str, LayerScore]:
        """Score `names` in the order given; see `Criterion`.

        Raises:
            DataError: no inputs, or fewer than two.
            NetworkError: the network cannot be captured or run, or a value is NaN or infinite.
        """
        sampling = _sampling(self.view, n_examples=self.n_examples, max_points=self.max_points, n_least=2)

        def estimate(points: Tensor) -> float:
            return pca(points, explained_variance=self.explained_variance).value

        found = measure_passages(network, evidence, names, sampling=sampling, estimate=estimate)
        return _scores(found, is_signed=self.is_signed)


@dataclass(frozen=True, slots=True, kw_only=True)
class LevinaBickelChange:
    """|ID after - ID before| by the likelihood of distances to many neighbours (Levina & Bickel 2004).

    Attributes:
        n_neighbours: how many neighbours of each point count, at least 3.
        view: what is one point.
        n_examples: how many inputs are looked at, at most.
        max_points: how many vectors of channels are looked at, at most; drawn at random.
    """

    n_neighbours: int = 20
    view: View = "flat"
    n_examples: int = 1000
    max_points: int = 10_000

    def __post_init__(self) -> None:
        _require_view("LevinaBickelChange", self.view)
        require_counts(self, n_examples=3, max_points=3, n_neighbours=3)

    @property
    def needs_inputs(self) -> bool:
        """It looks at inputs."""
        return True

    @property
    def needs_labels(self) -> bool:
        """It needs no labels."""
        return False

    def scores(self, network: nn.Module, evidence: Evidence, names: Sequence[str]) -> dict[str, LayerScore]:
        """Score `names` in the order given; see `Criterion`.

        Raises:
            DataError: no inputs, or in the flat view not more than `n_neighbours`.
            NetworkError: the network cannot be captured or run, or a value is NaN or infinite.
        """
        n_least = self.n_neighbours + 1 if self.view == "flat" else 1
        sampling = _sampling(self.view, n_examples=self.n_examples, max_points=self.max_points, n_least=n_least)

        def estimate(points: Tensor) -> float:
            return levina_bickel(points, n_neighbours=self.n_neighbours).value

        found = measure_passages(network, evidence, names, sampling=sampling, estimate=estimate)
        return _scores(found, is_signed=False)


def _sampling(view: View, *, n_examples: int, max_points: int, n_least: int) -> Sampling:
    return Sampling(view=view, n_examples=n_examples, max_points=max_points, n_least=n_least)


def _scores(found: Mapping[str, Sequence[Measured]], *, is_signed: bool) -> dict[str, LayerScore]:
    """Return a score for each layer; of several calls the one that changes the dimension the most counts."""
    scores: dict[str, LayerScore] = {}
    for name, calls in found.items():
        most = max(calls, key=lambda call: abs(call.after - call.before))
        change = most.after - most.before
        scores[name] = LayerScore(
            value=change if is_signed else abs(change),
            details={
                "dimension_before": most.before,
                "dimension_after": most.after,
                "n_points": most.n_points,
                "n_calls": len(calls),
            },
        )
    return scores


def _require_view(who: str, view: View) -> None:
    if view not in get_args(View):
        raise SettingError(f"{who}: view must be one of {', '.join(get_args(View))}, got {view!r}")
