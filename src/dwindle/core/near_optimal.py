"""This file finds the best one-dimensional clustering of sorted points by dynamic programming.

The best j clusters of the first i points extend the best j - 1 clusters of the first m < i points. The best m never
falls as i rises, so divide and conquer needs O(k n log n): A. Gronlund et al., "Fast exact k-means, k-medians and
Bregman divergence clustering in 1D", 2017. Each level of the recursion is one batch of array operations here.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from dwindle.core.points import Floats, Points

MAX_POINTS: Final = 8192
"""More points than this are joined first; up to here the result is the optimum itself."""

Indices = NDArray[np.intp]


def near_optimal(points: Points, codebook_size: int) -> Floats:
    """Return the centroids (k,) of least mean squared error; optimal over the joined points where there are too many.

    Needs at least `codebook_size` points.
    """
    joined = join(points, max(MAX_POINTS, 4 * codebook_size))
    n = joined.counts.size
    # Least squared error is the largest sum of (cluster sum)^2 / (cluster count); centring keeps the digits.
    centre = joined.sums_before[-1] / joined.counts_before[-1]
    moments = np.stack([joined.counts_before, joined.sums_before - centre * joined.counts_before])
    best = np.full(n + 1, -np.inf)
    best[1:] = np.square(moments[1, 1:]) / moments[0, 1:]
    choices = [np.zeros(n + 1, np.intp)]
    for n_clusters in range(2, codebook_size + 1):
        best, choice = _extend(best, moments, n_clusters=n_clusters)
        choices.append(choice)
    ends = [n]
    for choice in reversed(choices):
        ends.append(int(choice[ends[-1]]))
    ends.reverse()
    return np.diff(joined.sums_before[ends]) / np.diff(joined.counts_before[ends])


def join(points: Points, size: int) -> Points:
    """Return at most `size` points: neighbours are joined so that each holds an equal share of the best point density.

    The density of an optimal fine quantizer follows the cube root of the probability density (P. F. Panter and W. Dite,
    "Quantization distortion in pulse-count modulation with nonuniform spacing of levels", Proc. IRE 39, 1951).
    """
    if points.counts.size <= size:
        return points
    shares = np.cumsum(np.cbrt(points.counts * np.square(np.gradient(points.values))))
    groups = np.minimum((shares / shares[-1] * size).astype(np.intp), size - 1)
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    counts, sums = (np.add.reduceat(each, starts) for each in (points.counts, points.sums))
    return Points.of(counts, sums, ends=(points.low, points.high))


def _extend(best: Floats, moments: Floats, *, n_clusters: int) -> tuple[Floats, Indices]:
    """Return the best gain of `n_clusters` clusters of the first i points and where the last one starts, for all i."""
    n = best.size - 1
    gains, choice = np.full(n + 1, -np.inf), np.zeros(n + 1, np.intp)
    stride = 1 << n.bit_length()
    while stride > 1:
        half = stride // 2
        ends = np.arange(half, n - n_clusters + 2, stride)  # 1 stands for the first i that can hold all the clusters
        # The ends a stride apart are known by now: their choices bound what lies between them.
        lows = np.where(ends > half, choice[np.maximum(ends - half, 1) + n_clusters - 1], n_clusters - 1)
        above = np.minimum(ends + half + n_clusters - 1, n)
        known = ends + half <= n - n_clusters + 1
        ends = ends + n_clusters - 1
        highs = np.minimum(np.where(known, choice[above], n - 1), ends - 1)
        if ends.size:
            gains[ends], choice[ends] = _best_of(best, moments, (ends, lows, highs))
        stride = half
    return gains, choice


def _best_of(best: Floats, moments: Floats, spans: tuple[Indices, Indices, Indices]) -> tuple[Floats, Indices]:
    """Return for each end the best gain and its start, over the starts from its low to its high (inclusive)."""
    ends, lows, highs = spans
    lengths = highs - lows + 1
    firsts = np.cumsum(lengths) - lengths
    owner = np.repeat(np.arange(ends.size), lengths)
    starts = np.arange(owner.size) - (firsts - lows)[owner]
    stops = ends[owner]
    counts, sums = moments[:, stops] - moments[:, starts]
    gains = best[starts] + np.square(sums) / counts
    tops = np.maximum.reduceat(gains, firsts)
    winners = np.flatnonzero(gains == tops[owner])[::-1]
    choice = np.empty(ends.size, np.intp)
    choice[owner[winners]] = starts[winners]  # reversed, so that of equal gains the first start is written last
    return tops, choice
