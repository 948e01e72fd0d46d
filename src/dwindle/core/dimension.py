"""This file estimates the intrinsic dimension of a cloud of points: TwoNN, Levina-Bickel, PCA.

`two_nn` and `levina_bickel` see how fast a point's neighbourhood fills with distance, so they follow curved clouds.
Both read high dimensions too low, because the number of points that would fill a space grows as a power of its
dimension: 2,000 points of a ball of dimension 20 read as about 16. Compare such values with each other at an equal
number of points. `pca` counts straight directions: it overstates curved clouds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

import torch
from torch import Tensor

from dwindle.core.cloud import Cloud, ranges
from dwindle.core.neighbours import Neighbours, groups_by_pair, nearest_neighbours
from dwindle.errors import DataError, SettingError

Fit = Literal["likelihood", "linear"]
Average = Literal["harmonic", "mean"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """How an interval is made: the points are drawn again, with replacement, with what was measured at each.

    Points that are each other's nearest neighbours share a distance; they are drawn together.

    Attributes:
        n_resamples: how often; enough that one of them lies beyond each end.
        level: confidence level in (0, 1).
        seed: of the draws.
    """

    n_resamples: int = 1000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.level < 1.0:
            raise SettingError(f"Bootstrap: level must lie in (0, 1), such as 0.95, got {self.level}")
        least = math.ceil(2.0 / (1.0 - self.level) - 1e-6)
        if self.n_resamples < least:
            raise SettingError(
                f"Bootstrap: {self.n_resamples} resamples leave none outside an interval of level {self.level:g}; "
                f"n_resamples must be at least {least}, better ten times as many"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class IntrinsicDimension:
    """An estimate of how many numbers it takes to say where in a cloud a point is.

    Attributes:
        value: the dimension; 0 where all points are identical.
        low: lower end of the interval; None unless one was asked for.
        high: its upper end.
        n_points: points given.
        n_duplicates: of these, repetitions of an earlier one.
        estimator: the function that made it.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n_points: int
    n_duplicates: int
    estimator: str


def two_nn(
    points: Tensor, *, fit: Fit = "likelihood", discarded: float = 0.1, interval: Bootstrap | None = None
) -> IntrinsicDimension:
    """Return the dimension that the ratios mu = r2 / r1 of the distances to the two nearest neighbours speak for.

    Where the density hardly changes between a point and its second neighbour, P(mu > x) = x^-d, whatever the density
    (E. Facco, M. d'Errico, A. Rodriguez, A. Laio, "Estimating the intrinsic dimension of datasets by a minimal
    neighborhood information", Scientific Reports 7, 2017). Identical points count once, or mu would be infinite.

    The likelihood fit is (k - 1) / (sum of the k smallest log mu + (n - k) log mu_k): of the largest ratios it uses
    only that they are larger; k - 1 instead of k takes out the bias of the maximum. The linear fit is the slope,
    through the origin, of -log(1 - i/n) over log mu_i, i = 1..k (Facco et al., eq. 6); the largest ratio of all,
    where the logarithm is infinite, is never in it. The standard error of either is about 1.25 d / sqrt(n): a quarter
    more than that of independent ratios.

    The interval is that of percentiles. It says how sure the estimate is, not how far the cloud is from the assumption:
    the bias in high dimensions is not in it.

    Args:
        points: (n, d) floats of any width.
        fit: how d follows from the ratios.
        discarded: share of the largest ratios, in [0, 1), that is discarded: they come from outliers and borders.
        interval: how to make an interval; None makes none.

    Raises:
        DataError: fewer than three distinct points (one alone has dimension 0), too few ratios left, points that are no
            finite floats, neighbours that are all equally far, as on a lattice, or one group with an interval.
        SettingError: `fit` or `discarded` cannot be.

    >>> square = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0))
    >>> round(two_nn(square).value, 1)
    2.0
    """
    if fit not in get_args(Fit):
        raise SettingError(f"two_nn: fit must be one of {', '.join(get_args(Fit))}, got {fit!r}")
    if not 0.0 <= discarded < 1.0:
        raise SettingError(f"two_nn: discarded is a share in [0, 1), got {discarded}")
    cloud = Cloud.of(points)
    distinct = cloud.distinct()
    if len(distinct) == 1:
        return _estimate(cloud, distinct, 0.0, estimator="two_nn", ends=None if interval is None else (0.0, 0.0))
    found = _neighbours(cloud, distinct, 2, estimator="two_nn")
    logs, order = (found.distances[:, 1] / found.distances[:, 0]).log_().cpu().sort()
    n_kept = _n_kept(len(logs), fit, discarded)
    _require_ratios(logs, n_kept, discarded)
    ends = None
    if interval is not None:
        groups = groups_by_pair(found.indices[:, 0].cpu())[order]
        ends = _ends(logs, groups, interval=interval, fit=fit, discarded=discarded)
    return _estimate(cloud, distinct, _fitted(logs, n_kept, fit), estimator="two_nn", ends=ends)


def levina_bickel(points: Tensor, *, n_neighbours: int = 20, average: Average = "harmonic") -> IntrinsicDimension:
    """Return the maximum likelihood dimension of neighbourhoods of k points, averaged over them.

    With distances T_1 <= ... <= T_k to the k nearest neighbours, S = sum_j log(T_k / T_j) over j < k (E. Levina and
    P. J. Bickel, "Maximum likelihood estimation of intrinsic dimension", NIPS 2004). "mean" is the mean of (k - 2) / S
    over the points, Levina and Bickel's with the factor that takes out its bias; a few small S dominate it. "harmonic"
    is (k - 1) over the mean of S: one likelihood for all points (D. J. C. MacKay and Z. Ghahramani, "Comments on
    'Maximum likelihood estimation of intrinsic dimension'", 2005), steadier where k is small. Identical points count
    once.

    Args:
        points: (n, d) floats of any width.
        n_neighbours: k, at least 3. Larger is steadier, but looks farther, where the cloud bends or ends.
        average: over the points.

    Raises:
        DataError: not more than k distinct points (one alone has dimension 0), points that are no finite floats, or
            neighbours that are all equally far.
        SettingError: `n_neighbours` or `average` cannot be.

    >>> square = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0))
    >>> round(levina_bickel(square).value, 1)
    2.0
    """
    if n_neighbours < 3:
        raise SettingError(f"levina_bickel: n_neighbours must be at least 3, got {n_neighbours}; 20 is usual")
    if average not in get_args(Average):
        raise SettingError(f"levina_bickel: average must be one of {', '.join(get_args(Average))}, got {average!r}")
    cloud = Cloud.of(points)
    distinct = cloud.distinct()
    if len(distinct) == 1:
        return _estimate(cloud, distinct, 0.0, estimator="levina_bickel")
    distances = _neighbours(cloud, distinct, n_neighbours, estimator="levina_bickel").distances
    sums = (distances[:, -1:] / distances).log_().sum(1)
    pooled = float(sums.mean() if average == "harmonic" else sums.min())
    if not pooled > 0.0:
        raise DataError(
            f"levina_bickel: the {n_neighbours} nearest neighbours of a point are all equally far, as on a lattice: "
            "no dimension follows from it; take more neighbours, average='harmonic', or pca"
        )
    value = (n_neighbours - 1) / pooled if average == "harmonic" else float(((n_neighbours - 2) / sums).mean())
    return _estimate(cloud, distinct, value, estimator="levina_bickel")


def pca(points: Tensor, *, explained_variance: float = 0.95) -> IntrinsicDimension:
    """Return how many principal components hold a share of the variance, as in Hybrid-Net.

    I. Chakraborty, D. Roy, I. Garg, A. Ankit, K. Roy, "Constructing energy-efficient mixed-precision neural networks
    through principal component analysis for edge intelligence", Nature Machine Intelligence 2, 2020. Variance is over
    all points: identical ones weigh as many times as they occur, unlike in the other estimators. Components below the
    rounding of float64 count as none, so a share of 1 gives the rank.

    Args:
        points: (n, d) floats of any width. Costs O(n d min(n, d)) time and O(min(n, d)^2) memory.
        explained_variance: the share, in (0, 1].

    Raises:
        DataError: points that are no finite floats, or none.
        SettingError: `explained_variance` is no such share.

    >>> line = torch.arange(4.0)[:, None] * torch.ones(3)
    >>> pca(line).value
    1.0
    """
    if not 0.0 < explained_variance <= 1.0:
        raise SettingError(f"pca: explained_variance is a share in (0, 1], such as 0.95, got {explained_variance}")
    cloud = Cloud.of(points)
    distinct = cloud.distinct()
    if len(distinct) == 1:
        return _estimate(cloud, distinct, 0.0, estimator="pca")
    variances = torch.linalg.eigvalsh(_scatter(cloud)).flip(0).clamp_min_(0.0)
    variances[variances <= _ROUNDING * max(cloud.shape) * variances[0]] = 0.0
    held = variances.cumsum(0)
    value = int((held < (explained_variance - _TIE) * held[-1]).sum()) + 1
    return _estimate(cloud, distinct, float(value), estimator="pca")


_ROUNDING: Final = torch.finfo(torch.float64).eps
_TIE: Final = 1e-12
"""So that four equal variances of which 0.75 is asked for give 3, whatever the last bit."""


_STRIP: Final = 1024
"""Rows or columns that one product adds to the matrix; fewer would pass over it too often."""


def _estimate(
    cloud: Cloud, distinct: Tensor, value: float, *, estimator: str, ends: tuple[float, float] | None = None
) -> IntrinsicDimension:
    n = cloud.shape[0]
    low, high = (None, None) if ends is None else (min(ends[0], value), max(ends[1], value))
    return IntrinsicDimension(
        value=value, low=low, high=high, n_points=n, n_duplicates=n - len(distinct), estimator=estimator
    )


def _neighbours(cloud: Cloud, distinct: Tensor, n_neighbours: int, *, estimator: str) -> Neighbours:
    """Return the neighbours of distinct points; refuse too few of them."""
    if len(distinct) <= n_neighbours:
        raise DataError(
            f"{estimator}: {cloud.shape[0]} points, of which {len(distinct)} are distinct, are too few for "
            f"{n_neighbours} neighbours each; give at least {n_neighbours + 1} distinct points, better hundreds"
        )
    return nearest_neighbours(cloud, distinct, n_neighbours)


def _require_ratios(logs: Tensor, n_kept: int, discarded: float) -> None:
    """Refuse ascending log ratios (n,) of which the first `n_kept` say nothing."""
    if n_kept < 2:
        raise DataError(
            f"two_nn: of {len(logs)} distinct points {n_kept} ratios are left after discarding {discarded:g} of them; "
            "needs 2: give more points, or discard less"
        )
    if not float(logs[n_kept - 1]) > 0.0:
        raise DataError(
            f"two_nn: {n_kept} of {len(logs)} points are as far from their second neighbour as from their first, "
            "as on a lattice: no dimension follows from it; use pca, or points that are not rounded"
        )


def _n_kept(n: int, fit: Fit, discarded: float) -> int:
    """Return how many of n ratios are not discarded."""
    # The product may come out a bit below a whole number.
    return min(math.floor(n * (1.0 - discarded) + 1e-9), n - 1 if fit == "linear" else n)


def _fitted(logs: Tensor, n_kept: int, fit: Fit) -> float:
    """Return the dimension that ascending log ratios (n,) speak for."""
    n = len(logs)
    kept = logs[:n_kept]
    if fit == "likelihood":
        return (n_kept - 1) / float(kept.sum() + (n - n_kept) * kept[-1])
    heights = -torch.log1p(-torch.arange(1, n_kept + 1, dtype=torch.float64, device=logs.device) / n)
    return float(kept @ heights) / float(kept @ kept)


def _ends(logs: Tensor, groups: Tensor, *, interval: Bootstrap, fit: Fit, discarded: float) -> tuple[float, float]:
    """Return the percentiles of the dimension over ascending log ratios (n,) whose groups (n,) are drawn again."""
    generator = torch.Generator(logs.device).manual_seed(interval.seed)
    n_groups = int(groups.max()) + 1
    if n_groups < 2:
        raise DataError(
            f"two_nn: {len(logs)} distinct points fall into {n_groups} group of points that are each other's nearest, "
            "and an interval draws groups again, which needs 2: give more points, or interval=None"
        )
    values: list[float] = []
    for _ in range(interval.n_resamples):
        draws = torch.randint(n_groups, (n_groups,), generator=generator, device=logs.device)
        times = torch.bincount(draws, minlength=n_groups)[groups]
        resample = logs.repeat_interleave(times)
        n_kept = max(_n_kept(len(resample), fit, discarded), 2)
        values.append(_fitted(resample, n_kept, fit) if float(resample[n_kept - 1]) > 0.0 else math.inf)
    values.sort()
    outside = math.floor((1.0 - interval.level) / 2.0 * interval.n_resamples + 1e-6)
    return values[outside], values[-1 - outside]


def _scatter(cloud: Cloud) -> Tensor:
    """Return a matrix (min(n, d), min(n, d)) that has the eigenvalues of the covariance, up to a factor."""
    n, d = cloud.shape
    side = min(n, d)
    scatter = torch.zeros(side, side, dtype=torch.float64, device=cloud.points.device)
    if n <= d:
        for columns in ranges(d, _STRIP):
            block = cloud.block(slice(None), columns)
            block -= block.mean(0)
            scatter.addmm_(block, block.T)
        return scatter
    mean = sum((cloud.block(rows).sum(0) for rows in ranges(n, _STRIP)), start=torch.zeros_like(scatter[0])) / n
    for rows in ranges(n, _STRIP):
        block = cloud.block(rows) - mean
        scatter.addmm_(block.T, block)
    return scatter
