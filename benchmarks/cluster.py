"""This file races one-dimensional k-means against scikit-learn and kmeans1d, on the same weights in one run.

Against scikit-learn: 16 centroids from a linear start on 20.3 M weights, with `KMeans` called as the code of Tian et
al. calls it. Our time includes the assignment of every weight. Against kmeans1d, which is optimal: `near_optimal` on
2 M weights. The printed figures are the worst over the kinds of weights.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import kmeans1d
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from dwindle.core.codebook import Clustering, kmeans_1d

N_CENTROIDS = 16
N_REPEATS = 3


@dataclass(frozen=True)
class Race:
    """One line of the table."""

    weights: str
    peer: str
    seconds: float
    peer_seconds: float
    distortion: float
    peer_distortion: float

    @property
    def speedup(self) -> float:
        """How many times faster than the peer."""
        return self.peer_seconds / self.seconds

    @property
    def distortion_ratio(self) -> float:
        """Our mean squared error over the peer's."""
        return self.distortion / self.peer_distortion


def trained_like(n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return weights as training leaves them: tails heavier than a normal, and each layer its own spread."""
    shares = np.array([0.01, 0.04, 0.15, 0.3, 0.5])
    spreads = np.array([0.12, 0.06, 0.03, 0.015, 0.008])
    sizes = np.diff(np.concatenate([[0], np.round(np.cumsum(shares) * n).astype(int)]))
    layers = [rng.standard_t(6, size) * spread for size, spread in zip(sizes, spreads, strict=True)]
    return np.concatenate(layers).astype(np.float32)


def normal(n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    return (rng.standard_normal(n) * 0.05).astype(np.float32)


def timed(run: Callable[[], Clustering]) -> tuple[Clustering, float]:
    """Return the result and the median of `N_REPEATS` wall times."""
    seconds: list[float] = []
    for _ in range(N_REPEATS):
        start = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - start)
    return result, float(np.median(seconds))


def mean_squared_error(weights: NDArray[np.float32], centroids: NDArray[np.floating], labels: NDArray) -> float:
    """Return the error of the real assignment, in float64."""
    return float(np.mean(np.square(weights.astype(np.float64) - centroids.astype(np.float64)[labels])))


def ours(weights: NDArray[np.float32], init: str) -> tuple[float, float]:
    clustering, seconds = timed(lambda: kmeans_1d(torch.from_numpy(weights), N_CENTROIDS, init=init))
    error = mean_squared_error(weights, clustering.centroids.numpy(), clustering.indices.numpy())
    return seconds, error


def race_sklearn(name: str, weights: NDArray[np.float32]) -> Race:
    seconds, error = ours(weights, "linear")
    space = np.linspace(weights.min(), weights.max(), N_CENTROIDS)
    start = time.perf_counter()
    peer = KMeans(n_clusters=N_CENTROIDS, init=space.reshape(-1, 1), n_init=1, algorithm="lloyd")
    peer.fit(weights.reshape(-1, 1))
    peer_seconds = time.perf_counter() - start
    peer_error = mean_squared_error(weights, peer.cluster_centers_.ravel(), peer.labels_)
    return Race(f"{name}, {weights.size / 1e6:.1f} M", "scikit-learn", seconds, peer_seconds, error, peer_error)


def race_kmeans1d(name: str, weights: NDArray[np.float32]) -> Race:
    seconds, error = ours(weights, "near_optimal")
    start = time.perf_counter()
    labels, centroids = kmeans1d.cluster(weights, N_CENTROIDS)
    peer_seconds = time.perf_counter() - start
    peer_error = mean_squared_error(weights, np.array(centroids), np.array(labels))
    return Race(f"{name}, {weights.size / 1e6:.1f} M", "kmeans1d", seconds, peer_seconds, error, peer_error)


def show(races: list[Race]) -> None:
    print(
        f"{N_CENTROIDS} centroids; ours: one thread, median of {N_REPEATS} runs; peers: their default threads, one run"
    )
    print(f"{'weights':<24}{'peer':<14}{'ours s':>9}{'peer s':>9}{'speedup':>9}{'distortion ours / peer':>24}")
    for race in races:
        print(
            f"{race.weights:<24}{race.peer:<14}{race.seconds:>9.3f}{race.peer_seconds:>9.2f}"
            f"{race.speedup:>9.1f}{race.distortion_ratio:>24.7f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a fraction of the weights: shows that it runs, not the bars"
    )
    n_weights, n_optimal = (1_500_000, 200_000) if parser.parse_args().quick else (20_300_000, 2_000_000)
    makers = {"trained-like": trained_like, "normal": normal}
    against_sklearn = [race_sklearn(n, make(n_weights, np.random.default_rng(0))) for n, make in makers.items()]
    against_optimal = [race_kmeans1d(n, make(n_optimal, np.random.default_rng(1))) for n, make in makers.items()]
    show(against_sklearn + against_optimal)
    figures = {
        "speedup_vs_sklearn": min(race.speedup for race in against_sklearn),
        "distortion_vs_sklearn": max(race.distortion_ratio for race in against_sklearn),
        "optimal_speedup_vs_kmeans1d": min(race.speedup for race in against_optimal),
        "optimal_distortion_vs_kmeans1d": max(race.distortion_ratio for race in against_optimal),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
