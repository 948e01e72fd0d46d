"""This file runs Lloyd's algorithm on sorted weighted points, where one iteration costs O(k log n).

In one dimension the members of a cluster lie side by side, so prefix sums give every mean from the k - 1 cuts alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Sorted weighted points: single values, or bins of a histogram that stand at the mean of their members.

    Attributes:
        values: (n,) ascending.
        counts: (n,) how many weights each point stands for, positive.
        sums: (n,) sum of the weights each point stands for.
        counts_before: (n + 1,) prefix sums of `counts`.
        sums_before: (n + 1,) prefix sums of `sums`.
        low: the smallest weight, which may lie below the mean of the first group.
        high: the largest weight.
    """

    values: Floats
    counts: Floats
    sums: Floats
    counts_before: Floats
    sums_before: Floats
    low: float
    high: float

    @classmethod
    def of(cls, counts: Floats, sums: Floats, *, ends: tuple[float, float]) -> Self:
        """Return the points of sorted non-empty groups of weights, given by count and sum.

        `ends` are the smallest and the largest weight.
        """
        # Means of neighbouring groups can swap by one unit in the last place; searches need them ascending.
        values = np.maximum.accumulate(sums / counts) if counts.size else counts
        before = [np.concatenate([[0.0], np.cumsum(each)]) for each in (counts, sums)]
        return cls(values, counts, sums, before[0], before[1], *ends)

    @classmethod
    def of_values(cls, values: NDArray[np.float32]) -> Self:
        """Return one point for each distinct value."""
        distinct, counts = np.unique(values, return_counts=True)
        weights = counts.astype(np.float64)
        ends = (float(distinct[0]), float(distinct[-1])) if distinct.size else (0.0, 0.0)
        return cls.of(weights, distinct.astype(np.float64) * weights, ends=ends)


def midpoints(centroids: Floats) -> Floats:
    """Return the (k - 1) borders between the clusters of ascending `centroids`; a value on one belongs below it."""
    return centroids[:-1] + (centroids[1:] - centroids[:-1]) / 2.0


def lloyd(points: Points, centroids: Floats, *, n_iterations: int) -> Floats:
    """Move ascending `centroids` (k,) to the means of their clusters until no point changes sides, and return them.

    An empty cluster keeps its centroid, as in S. P. Lloyd, "Least squares quantization in PCM", IEEE Transactions on
    Information Theory 28, 1982.
    """
    cuts: NDArray[np.intp] | None = None
    for _ in range(n_iterations):
        inner = np.searchsorted(points.values, midpoints(centroids), side="right")
        if cuts is not None and np.array_equal(inner, cuts):
            break
        cuts = inner
        ends = np.concatenate([[0], cuts, [points.values.size]])
        counts = np.diff(points.counts_before[ends])
        sums = np.diff(points.sums_before[ends])
        centroids = np.sort(np.divide(sums, counts, out=centroids.copy(), where=counts > 0.0))
    return centroids
