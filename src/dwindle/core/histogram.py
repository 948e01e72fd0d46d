"""This file lets k-means touch millions of weights only three times: histogram, exact edges, assignment.

Lloyd on 2^16 bins (exact counts and sums in each) differs from Lloyd on the weights only in the few bins that a border
between two clusters crosses. First such a bin is split in proportion, so that steps shorter than a bin still count;
once the borders rest, those bins are opened into their single weights and Lloyd ends on these. Everything works on
pieces that stay in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from dwindle.core.points import Floats, Points, lloyd, midpoints

N_BINS: Final = 1 << 16
PIECE: Final = 1 << 18
MAX_ROUNDS: Final = 4
"""Rounds of opening bins, each a pass over the weights; borders at rest seldom need a second."""
RESTING: Final = 1e-4
"""Steps, in bins, below which the borders count as resting."""
HEAVY_SHARE: Final = 1.0 / 256.0
"""A bin that holds more than this share of all weights is opened from the start, or one outlier would blur the rest."""

Values = NDArray[np.float32]
Assigned = tuple[NDArray[np.uint8 | np.int32], float]
"""Indices (n,) of the nearest centroid, and the mean squared error."""


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """Equal bins over the range of `values` (n,), with the exact count and sum of each bin (N_BINS,)."""

    values: Values
    low: np.float32
    high: np.float32
    per_unit: np.float32
    counts: Floats
    sums: Floats

    @classmethod
    def of(cls, values: Values, low: float, high: float) -> Self:
        """Return the histogram of `values`, all of which lie in [low, high]; the range must be a normal float32."""
        per_unit = np.float32((N_BINS - 0.5) / (high - low))
        histogram = cls(values, np.float32(low), np.float32(high), per_unit, np.zeros(N_BINS), np.zeros(N_BINS))
        for _, piece, keys in histogram.pieces():
            histogram.counts[:] += np.bincount(keys, minlength=N_BINS)
            histogram.sums[:] += np.bincount(keys, weights=piece, minlength=N_BINS)
        return histogram

    def keys(self, values: Values) -> NDArray[np.intp]:
        """Return the bin of each value; never falling as values rise, because each float operation is monotone."""
        return np.clip((values - self.low) * self.per_unit, 0.0, N_BINS - 1.0).astype(np.intp)

    def pieces(self) -> Iterator[tuple[slice, Values, NDArray[np.intp]]]:
        """Yield (where, values, bins) of consecutive pieces; the bins are overwritten by the next piece."""
        scaled, keys = np.empty(PIECE, np.float32), np.empty(PIECE, np.intp)
        for start in range(0, self.values.size, PIECE):
            piece = self.values[start : start + PIECE]
            np.subtract(piece, self.low, out=scaled[: piece.size])
            np.multiply(scaled[: piece.size], self.per_unit, out=scaled[: piece.size])
            keys[: piece.size] = scaled[: piece.size]
            yield slice(start, start + piece.size), piece, keys[: piece.size]

    def points(self, opened: NDArray[np.bool_]) -> Points:
        """Return the bins as points, those in `opened` (N_BINS,) as one point for each distinct weight in them."""
        ends = (float(self.low), float(self.high))
        closed = (self.counts > 0.0) & ~opened
        if not opened.any():
            return Points.of(self.counts[closed], self.sums[closed], ends=ends)
        inside = Points.of_values(np.concatenate([piece[opened[keys]] for _, piece, keys in self.pieces()]))
        counts = np.concatenate([self.counts[closed], inside.counts])
        sums = np.concatenate([self.sums[closed], inside.sums])
        order = np.argsort(sums / counts, kind="stable")
        return Points.of(counts[order], sums[order], ends=ends)


def settle(histogram: Histogram, centroids: Floats, *, n_iterations: int) -> Floats:
    """Run Lloyd from ascending `centroids` (k,) on the bins, then on the weights of the bins that a border crosses."""
    if n_iterations == 0:
        return centroids
    opened = np.zeros(N_BINS, np.bool_)
    centroids = _glide(histogram, centroids, n_iterations=n_iterations)
    for _ in range(MAX_ROUNDS):
        crossed = np.unique(histogram.keys(float_borders(centroids)))
        if opened[crossed].all():
            break
        opened[np.clip(np.concatenate([crossed - 1, crossed, crossed + 1]), 0, N_BINS - 1)] = True
        centroids = lloyd(histogram.points(opened), centroids, n_iterations=n_iterations)
    return centroids


def _glide(histogram: Histogram, centroids: Floats, *, n_iterations: int) -> Floats:
    """Run Lloyd on the bins; a border splits the count and the sum of its bin in proportion to its place in it."""
    moments = np.stack([histogram.counts, histogram.sums])
    before = np.concatenate([np.zeros((2, 1)), np.cumsum(moments, axis=1)], axis=1)
    low, per_unit = float(histogram.low), float(histogram.per_unit)
    for _ in range(n_iterations):
        places = np.clip((midpoints(centroids) - low) * per_unit, 0.0, N_BINS - 0.5)
        bins = places.astype(np.intp)
        inner = before[:, bins] + (places - bins) * moments[:, bins]
        counts, sums = np.diff(inner, axis=1, prepend=0.0, append=before[:, -1:])
        moved = np.divide(sums, counts, out=centroids.copy(), where=counts > 0.0)
        step = float(np.abs(moved - centroids).max()) * per_unit
        centroids = np.sort(moved)
        if step < RESTING:
            break
    return centroids


def float_borders(centroids: Floats) -> Values:
    """Return the largest float32 not above each midpoint, so that comparing float32 weights with it is exact."""
    exact = midpoints(centroids)
    rounded = exact.astype(np.float32)
    return np.where(rounded > exact, np.nextafter(rounded, np.float32(-np.inf)), rounded)


def assign(histogram: Histogram, centroids: Values) -> Assigned:
    """Assign the values of `histogram` to the nearest of ascending `centroids` (k,).

    A table maps bins to clusters; only weights in a bin that a border crosses are compared with the borders.
    """
    borders = float_borders(centroids.astype(np.float64))
    crossed = histogram.keys(borders)
    table = np.searchsorted(crossed, np.arange(N_BINS)).astype(np.int16 if centroids.size < 1 << 15 else np.int32)
    table[crossed] = -1
    indices = np.empty(histogram.values.size, _index_dtype(centroids.size))
    squared_error = 0.0
    for where, piece, keys in histogram.pieces():
        labels = table[keys]
        unsure = np.flatnonzero(labels < 0)
        labels[unsure] = np.searchsorted(borders, piece[unsure])
        indices[where] = labels
        residuals = (piece - centroids[labels]).astype(np.float64)
        squared_error += float(residuals @ residuals)
    return indices, squared_error / histogram.values.size


def assign_sorted(values: Values, centroids: Values) -> Assigned:
    """Assign `values` (n,) to the nearest of ascending `centroids` (k,) by binary search."""
    borders = float_borders(centroids.astype(np.float64))
    indices = np.searchsorted(borders, values).astype(_index_dtype(centroids.size))
    residuals = values.astype(np.float64) - centroids[indices]
    return indices, float(residuals @ residuals) / max(values.size, 1)


def _index_dtype(codebook_size: int) -> type[np.uint8] | type[np.int32]:
    return np.uint8 if codebook_size <= 256 else np.int32
