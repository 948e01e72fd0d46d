"""This file shares out what may be kept among layers: denser where it matters more, the same number in all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from dwindle.errors import SettingError

N_HALVINGS: Final = 200


def ranked_densities(
    scores: Mapping[str, float], sizes: Mapping[str, int], *, density: float, ratio: float
) -> dict[str, float]:
    """Return the fraction of each layer's weights to keep, so that `density` of all of them is kept.

    Only the order of the scores counts, because the units of criteria differ: the layer that matters most gets `ratio`
    times the density of the one that matters least, those between get geometric steps, equal scores get equal ones. No
    density exceeds 1; what a full layer cannot take goes to the others.

    Args:
        scores: larger matters more; names as in `sizes`.
        sizes: weights of each layer.
        density: fraction of all weights to keep, (0, 1].
        ratio: at least 1; 1 gives every layer the same density.

    Raises:
        SettingError: an argument is out of range, a score is NaN, or names differ.

    >>> ranked_densities({"a": 0.1, "b": 5.0}, {"a": 100, "b": 100}, density=0.25, ratio=4.0)
    {'a': 0.1, 'b': 0.4}
    """
    _require(scores, sizes, density=density, ratio=ratio)
    total = sum(sizes.values())
    weights = {name: ratio**rank for name, rank in _ranks(scores).items()}
    low, high = 0.0, 1.0
    while _kept(weights, sizes, high) < density * total and high < 1 / min(weights.values(), default=1.0):
        high *= 2
    for _ in range(N_HALVINGS):
        middle = (low + high) / 2
        if _kept(weights, sizes, middle) < density * total:
            low = middle
        else:
            high = middle
    return {name: float(f"{min(1.0, high * weight):.12g}") for name, weight in weights.items()}


def _kept(weights: Mapping[str, float], sizes: Mapping[str, int], factor: float) -> float:
    return sum(sizes[name] * min(1.0, factor * weight) for name, weight in weights.items())


def _ranks(scores: Mapping[str, float]) -> dict[str, float]:
    """Return the rank of each score in [0, 1], the highest 1; equal scores share the mean of their ranks."""
    in_order = sorted(scores.values())
    n = max(1, len(in_order) - 1)
    return {
        name: sum(i for i, other in enumerate(in_order) if other == score) / in_order.count(score) / n
        for name, score in scores.items()
    }


def _require(scores: Mapping[str, float], sizes: Mapping[str, int], *, density: float, ratio: float) -> None:
    if scores.keys() != sizes.keys():
        raise SettingError(f"scores of {sorted(scores)} and sizes of {sorted(sizes)}; give both for the same layers")
    if not 0 < density <= 1:
        raise SettingError(f"density is the fraction of weights to keep, in (0, 1], got {density}")
    if not 1 <= ratio < math.inf:
        raise SettingError(f"ratio must be at least 1 and finite, got {ratio}")
    for name, score in scores.items():
        if math.isnan(score):
            raise SettingError(f"the score of {name!r} is NaN, which has no rank; look at the data it was taken from")
