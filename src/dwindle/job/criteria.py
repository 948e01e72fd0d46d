"""This file names the criteria that layers are analyzed by, and says how many examples each can afford."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dwindle.errors import SettingError
from dwindle.network.layer_costs import LayerCost
from dwindle.network.significance.catalogue import AnyCriterion
from dwindle.network.significance.change import Binary, Pruned, Rounded
from dwindle.network.significance.curvature import FisherTrace, HessianTrace
from dwindle.network.significance.deviation import WeightDeviation
from dwindle.network.significance.dimension import LevinaBickelChange, PCAChange, TwoNNChange
from dwindle.network.significance.sensitivity import LossSensitivity
from dwindle.settings import nearest

WORK: Final = 5e10
"""Multiplications that one criterion may take: some seconds of one core."""
COMPARED: Final = 4
"""Multiplications that one number costs in the distance of two examples: some distances are taken twice."""
MOST: Final = 1_000
MAX_VECTORS: Final = 4_096
"""Vectors of channels that components are taken of."""
N_VECTORS: Final = 4
"""Random vectors for the trace of a Hessian."""
BINARIZING: Final = "binary"
EFFECTS: Final = ("prune", "4_bits", "2_bits", BINARIZING)
"""Names of the sensitivities."""
DIMENSIONS: Final = ("two_nn", "pca", "levina_bickel")


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A criterion that has a name.

    Attributes:
        title: in words.
        unit: of its scores.
        make: the criterion for a number of examples.
        passes: how much work one example is, in forward passes, for a number of layers.
        least: examples without which its scores say nothing.
        most: examples beyond which it only takes longer.
        compares: whether every example is compared with every other one, layer by layer.
    """

    title: str
    unit: str
    make: Callable[[int], AnyCriterion]
    passes: Callable[[int], int]
    least: int
    most: int = MOST
    compares: bool = False

    def n_affordable(self, costs: Collection[LayerCost]) -> int:
        """Return how many examples it can afford; of heavy networks fewer, but never fewer than say something.

        Of n examples it multiplies n a + n^2 b times, with a in the layers and b in distances; that is to be `WORK`.
        """
        a = self.passes(len(costs)) * sum(cost.macs or 0 for cost in costs) or 1
        b = COMPARED * sum(cost.n_answered or 0 for cost in costs) if self.compares else 0
        n = (math.sqrt(a * a + 4 * b * WORK) - a) / (2 * b) if b else WORK / a
        return max(self.least, min(self.most, int(n)))


def _once(_: int) -> int:
    return 1


def _each_layer(n_layers: int) -> int:
    return n_layers + 1


NAMED: Final[Mapping[str, Named]] = {
    "two_nn": Named(
        title="TwoNN dimension",
        unit="dimensions",
        make=lambda n: TwoNNChange(n_examples=n),
        passes=_once,
        least=48,
        compares=True,
    ),
    "pca": Named(
        title="PCA dimension",
        unit="components",
        make=lambda n: PCAChange(n_examples=n, max_points=MAX_VECTORS),
        passes=lambda _: 2,
        least=64,
    ),
    "levina_bickel": Named(
        title="Levina-Bickel dimension",
        unit="dimensions",
        make=lambda n: LevinaBickelChange(n_examples=n, n_neighbours=max(3, min(20, n // 6))),
        passes=_once,
        least=48,
        compares=True,
    ),
    "prune": Named(
        title="loss when pruned by half",
        unit="loss",
        make=lambda n: LossSensitivity(change=Pruned(), n_examples=n),
        passes=_each_layer,
        least=6,
    ),
    "4_bits": Named(
        title="loss at 4 bits",
        unit="loss",
        make=lambda n: LossSensitivity(change=Rounded(n_bits=4), n_examples=n),
        passes=_each_layer,
        least=6,
    ),
    "2_bits": Named(
        title="loss at 2 bits",
        unit="loss",
        make=lambda n: LossSensitivity(change=Rounded(n_bits=2), n_examples=n),
        passes=_each_layer,
        least=6,
    ),
    BINARIZING: Named(
        title="loss when binary",
        unit="loss",
        make=lambda n: LossSensitivity(change=Binary(), n_examples=n),
        passes=_each_layer,
        least=6,
    ),
    "fisher": Named(
        title="Fisher trace",
        unit="loss",
        make=lambda n: FisherTrace(n_examples=n),
        passes=lambda _: 4,
        least=16,
        most=256,
    ),
    "hessian": Named(
        title="Hessian trace",
        unit="loss",
        make=lambda n: HessianTrace(n_examples=n, n_samples=N_VECTORS),
        passes=lambda _: 6 * N_VECTORS,
        least=6,
        most=128,
    ),
    "deviation": Named(
        title="deviation of weights",
        unit="weight",
        make=lambda _: WeightDeviation(),
        passes=_once,
        least=1,
    ),
}
"""By the name that the command line takes."""
DEFAULT: Final = (BINARIZING, "two_nn", "pca", "levina_bickel", "prune", "2_bits", "fisher", "hessian", "deviation")
"""The first decides: what a change costs; on QuantNet TwoNN is a worse guide than none (studies/guides.toml)."""


def require_known(names: Sequence[str]) -> tuple[str, ...]:
    """Return `names`, each once.

    Raises:
        SettingError: there is none, or one that is unknown (the nearest is named).
    """
    if not names:
        raise SettingError(f"name at least one criterion; known are {', '.join(NAMED)}")
    for name in names:
        if name not in NAMED:
            raise SettingError(f"unknown criterion {name!r}; {nearest(name, NAMED)}")
    return tuple(dict.fromkeys(names))
