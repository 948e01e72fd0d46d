"""This file shares weights: one-dimensional k-means, exact on the weights themselves, in a fraction of a second.

Up to 2^18 weights are sorted; more go through a histogram with an exact finish (`core/histogram.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from dwindle.core import starts
from dwindle.core.finite import require_finite
from dwindle.core.histogram import HEAVY_SHARE, Assigned, Histogram, Values, assign, assign_sorted, settle
from dwindle.core.near_optimal import near_optimal
from dwindle.core.points import Floats, Points, lloyd
from dwindle.errors import SettingError

Init = Literal["linear", "kmeans++", "random", "density", "near_optimal"]
"""Where the centroids start; `near_optimal` starts at the best clustering of (joined) points."""

MAX_SORTED: Final = 1 << 18
"""Up to this many weights, sorting them costs less than a histogram."""


@dataclass(frozen=True, slots=True, eq=False)
class Clustering:
    """Shared values and who shares them.

    Attributes:
        centroids: float32 (k,), ascending.
        indices: of the nearest centroid (the lower of two that are equally near): uint8 if k <= 256, else int32; the
            shape of the values.
        distortion: mean squared error of `centroids[indices]`.
    """

    centroids: Tensor
    indices: Tensor
    distortion: float


def kmeans_1d(
    values: Tensor,
    codebook_size: int,
    *,
    init: Init = "linear",
    generator: torch.Generator | None = None,
    n_iterations: int = 1000,
) -> Clustering:
    """Cluster `values` with Lloyd's algorithm, run until no weight changes sides.

    Args:
        values: finite floats of any shape.
        codebook_size: the largest number of centroids; there are fewer where there are fewer distinct values.
        init: where the centroids start. An empty cluster keeps its centroid.
        generator: source of randomness for `kmeans++` and `random`; the other starts use none.
        n_iterations: the most iterations; 0 keeps the start.

    Raises:
        SettingError: values that are not finite, no centroid asked for, or a random start without a generator.

    >>> clustering = kmeans_1d(torch.tensor([0.0, 0.25, 4.0, 4.25]), 2)
    >>> clustering.centroids.tolist(), clustering.indices.tolist(), clustering.distortion
    ([0.125, 4.125], [0, 0, 1, 1], 0.015625)
    """
    low, high = require_finite(values, "kmeans_1d")
    _require_settings(codebook_size, n_iterations)
    start = _start(init, codebook_size, generator)
    flat = values.detach().to("cpu", torch.float32).contiguous().flatten().numpy()
    # Beyond these ranges the arithmetic of the bins would leave float32; sorting has no such limits.
    if flat.size > MAX_SORTED and 1e-30 < high - low < 1e30:
        histogram = Histogram.of(flat, low, high)
        if np.count_nonzero(histogram.counts) > codebook_size:
            points = histogram.points(histogram.counts > HEAVY_SHARE * flat.size)
            found = settle(histogram, start(points), n_iterations=n_iterations).astype(np.float32)
            return _clustering(values.shape, found, assign(histogram, found))
    points = Points.of_values(flat)
    if points.values.size > codebook_size:
        points_found = lloyd(points, start(points), n_iterations=n_iterations)
    else:
        points_found = points.values
    found = points_found.astype(np.float32)
    return _clustering(values.shape, found, assign_sorted(flat, found))


def _clustering(shape: torch.Size, centroids: Values, assigned: Assigned) -> Clustering:
    indices, distortion = assigned
    return Clustering(torch.from_numpy(centroids), torch.from_numpy(indices).reshape(shape), distortion)


def _start(init: Init, codebook_size: int, generator: torch.Generator | None) -> Callable[[Points], Floats]:
    """Return how to place the first centroids among points, of which there are more than centroids."""
    match init:
        case "linear":
            return lambda points: starts.linear(points.low, points.high, codebook_size)
        case "density":
            return lambda points: starts.density(points, codebook_size)
        case "near_optimal":
            return lambda points: near_optimal(points, codebook_size)
        case "random" | "kmeans++":
            if generator is None:
                raise SettingError(
                    f"kmeans_1d: init {init!r} draws at random; pass generator=torch.Generator().manual_seed(seed)"
                )
            draw = starts.random if init == "random" else starts.plus_plus
            return lambda points: draw(points, codebook_size, generator)
        case _:
            raise SettingError(f"kmeans_1d: unknown init {init!r}; choose one of {', '.join(get_args(Init))}")


def _require_settings(codebook_size: int, n_iterations: int) -> None:
    if codebook_size < 1:
        raise SettingError(f"kmeans_1d: codebook_size must be at least 1, got {codebook_size}")
    if n_iterations < 0:
        raise SettingError(f"kmeans_1d: n_iterations must not be negative, got {n_iterations}")
