"""This file places the first centroids of k-means."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from dwindle.core.points import Floats, Points


def linear(low: float, high: float, codebook_size: int) -> Floats:
    """Return centroids spread evenly over the range: rare large weights, which matter most, keep theirs.

    Han et al., "Deep Compression", ICLR 2016, section 3.2; Tian et al. eq. 2.

    >>> linear(-1.0, 1.0, 3).tolist()
    [-1.0, 0.0, 1.0]
    """
    return np.linspace(low, high, codebook_size)


def density(points: Points, codebook_size: int) -> Floats:
    """Return the values at evenly spaced heights (i + 1/2) / k of the cumulative distribution (Han et al.)."""
    heights = (np.arange(codebook_size) + 0.5) / codebook_size * points.counts_before[-1]
    return points.values[np.searchsorted(points.counts_before[1:], heights)]


def random(points: Points, codebook_size: int, generator: torch.Generator) -> Floats:
    """Return distinct points drawn by weight without replacement (Forgy).

    An exponential race does this in one go: P. S. Efraimidis and P. G. Spirakis, "Weighted random sampling with a
    reservoir", Information Processing Letters 97, 2006.
    """
    arrivals = -np.log1p(-_uniform(points.values.size, generator)) / points.counts
    return np.sort(points.values[np.argpartition(arrivals, codebook_size - 1)[:codebook_size]])


def plus_plus(points: Points, codebook_size: int, generator: torch.Generator) -> Floats:
    """Return points drawn one by one with probability in proportion to the squared distance to those already drawn.

    D. Arthur and S. Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007.
    """
    draws = _uniform(codebook_size, generator)
    chosen = np.empty(codebook_size)
    weights, distances = points.counts, np.full(points.values.size, np.inf)
    for i, draw in enumerate(draws):
        reached = np.cumsum(weights)
        # The last point with any weight is the largest answer there can be, whatever the rounding of the sums.
        at = min(int(np.searchsorted(reached, draw * reached[-1], side="right")), int(np.flatnonzero(weights)[-1]))
        chosen[i] = points.values[at]
        distances = np.minimum(distances, np.square(points.values - chosen[i]))
        weights = points.counts * distances
    return np.sort(chosen)


def _uniform(n: int, generator: torch.Generator) -> NDArray[np.float64]:
    return torch.rand(n, generator=generator, dtype=torch.float64).numpy()
