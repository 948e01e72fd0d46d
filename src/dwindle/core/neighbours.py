"""This file finds the exact distances to the nearest neighbours, most of the work done in float32.

Matrix products in float32 bound every squared distance from below and above. Only points whose lower bound is not above
the k-th smallest upper bound can be among the k nearest; their distances are taken again as differences in float64.
Where too many are in question, the bounds are made in float64; what is then left is compared with every other point.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from dwindle.core.cloud import BLOCK, Cloud, ranges
from dwindle.core.distance_bounds import CentredPoints, DistanceBounds

TILE: Final = 1024
"""Points on a side of a tile of bounds."""
SPARE: Final = 6
"""Candidates kept for each point beyond the neighbours asked for."""
SAME: Final = 1e-9
"""Squared distances that differ by less than this share are interchangeable, as on a lattice."""

_VANISHING: Final = 1e-250
"""Sums of squares below it may have lost terms."""


def neighbour_distances(cloud: Cloud, which: Tensor, n_neighbours: int) -> Tensor:
    """Return each point's distances to its nearest others, (m, n_neighbours) float64, ascending.

    Costs O(m^2 d) time and, beyond the result, memory for a few tiles and blocks whatever m and d are.

    Args:
        cloud: the points.
        which: (m,) indices of the points that count, no two of them identical.
        n_neighbours: at least 1, below m.

    Returns:
        Distances in units of 2^cloud.exponent, correct to about 1e-9 of themselves.
    """
    search = _Search(CentredPoints.of(cloud, which), n_neighbours)
    distances = torch.full((search.n, n_neighbours), torch.inf, dtype=torch.float64, device=which.device)
    left = torch.arange(search.n, device=which.device)
    for dtype in (torch.float32, torch.float64):
        found, settled = search.among_candidates(left, dtype)
        distances[left[settled]] = found[settled]
        left = left[~settled]
        if not left.numel():
            break
    for i in left.tolist():
        distances[i] = search.among_all(i)
    return distances


@dataclass(frozen=True, slots=True, eq=False)
class _Search:
    """The search for `n_neighbours` of each of `points`, which are numbered 0..n-1."""

    points: CentredPoints
    n_neighbours: int

    @property
    def n(self) -> int:
        """Number of points."""
        return len(self.points.which)

    @property
    def n_kept(self) -> int:
        """Candidates kept for each point."""
        return min(self.n_neighbours + SPARE, self.n - 1)

    def among_candidates(self, rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return (distances (r, k) of the points `rows`, whether these are surely the smallest (r,))."""
        bounds = DistanceBounds.of(self.points, dtype)
        lower, others = self._candidates(rows, bounds)
        lower = lower.to(torch.float64)
        upper = lower + bounds.width(rows, others)
        limit = upper.kthvalue(self.n_neighbours, dim=1, keepdim=True).values
        needed = lower <= limit
        exact = torch.full_like(lower, torch.inf)
        exact[needed] = self._distances(rows[:, None].expand_as(others)[needed], others[needed])
        same = SAME if dtype == torch.float64 else 0.0
        settled = (lower[:, -1] > limit.squeeze(1) * (1.0 - same)) | (self.n_kept == self.n - 1)
        # Settings may let matrix products use fewer bits than `dtype` has (bfloat16, TF32): then the bounds are none.
        settled &= not bool(((exact.square() < lower) | (exact.square() > upper))[needed].any())
        return exact.sort(dim=1).values[:, : self.n_neighbours], settled

    def among_all(self, i: int) -> Tensor:
        """Return the distances of point i to its nearest others from the differences to all of them."""
        others = torch.arange(self.n, device=self.points.which.device)
        others = others[others != i]
        return self._distances(torch.full_like(others, i), others).sort().values[: self.n_neighbours]

    def _candidates(self, rows: Tensor, bounds: DistanceBounds) -> tuple[Tensor, Tensor]:
        """Return (lower bounds ascending, of which points), each (r, n_kept): the smallest of each row."""
        shape = (len(rows), self.n_kept)
        lower = torch.full(shape, torch.inf, dtype=bounds.dtype, device=rows.device)
        others = torch.zeros(shape, dtype=torch.int64, device=rows.device)
        for at, columns, tile in self._tiles(rows, bounds):
            values, found = tile.topk(min(self.n_kept, tile.shape[1]), dim=1, largest=False, sorted=False)
            values = torch.cat([lower[at], values], dim=1)
            found = torch.cat([others[at], found + columns.start], dim=1)
            lower[at], best = values.topk(self.n_kept, dim=1, largest=False)
            others[at] = found.gather(1, best)
        return lower, others

    def _tiles(self, rows: Tensor, bounds: DistanceBounds) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yield (range of `rows`, range of points, lower bounds between them); of all rows only half is computed."""
        is_symmetric = len(rows) == self.n
        for at in ranges(len(rows), TILE):
            for columns in ranges(self.n, TILE):
                if is_symmetric and columns.start < at.start:
                    continue
                tile = bounds.lower(rows[at], columns)
                yield at, columns, tile
                if is_symmetric and columns.start > at.start:
                    yield columns, at, tile.T.contiguous()

    def _distances(self, left: Tensor, right: Tensor) -> Tensor:
        """Return distances of pairs (p,), from differences; a pair that comes twice is computed once."""
        codes, back = (torch.minimum(left, right) * self.n + torch.maximum(left, right)).unique(return_inverse=True)
        cloud, which = self.points.cloud, self.points.which
        left, right = which[codes // self.n], which[codes % self.n]
        found = torch.empty(len(codes), dtype=torch.float64, device=left.device)
        for pairs in ranges(len(codes), max(BLOCK // cloud.shape[1], 1)):
            found[pairs] = _norms(cloud.block(left[pairs]).sub_(cloud.block(right[pairs])))
        return found[back]


def _norms(rows: Tensor) -> Tensor:
    """Return the lengths (r,) of rows, not zero: also of those whose squares vanish."""
    squares = rows.square().sum(1)
    small = squares < _VANISHING
    if bool(small.any()):
        largest = rows[small].abs().amax(1).clamp_min_(torch.finfo(torch.float64).tiny)
        lengths = squares.sqrt()
        lengths[small] = ((rows[small] / largest[:, None]).square_().sum(1).sqrt_() * largest).clamp_min_(
            torch.finfo(torch.float64).tiny
        )
        return lengths
    return squares.sqrt_()
