"""This file finds the exact distances to the nearest neighbours, most of the work done in float32.

Squared distances come from products of rows, |x - y|^2 = |x|^2 + |y|^2 - 2 xy, as lower and upper bounds: whatever the
order of summation, their error is at most `slack` (|x|^2 + |y|^2) (N. J. Higham, "Accuracy and Stability of Numerical
Algorithms", 2nd edition, 2002, section 3.1). Only neighbours whose lower bound is not above the k-th smallest upper
bound can be among the k nearest; their distances are taken again as differences in float64. Points where too many are
in question are bounded once more in float64, and what is then left is compared with every other point.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

import torch
from torch import Tensor

from dwindle.core.cloud import BLOCK, Cloud, ranges

TILE: Final = 2048
"""Points on a side of a tile of products."""
WIDTH: Final = 256
"""Coordinates that are summed by one matrix product; the bound on its error grows with it."""
SPARE: Final = 6
"""Candidates kept for each point beyond the neighbours asked for."""
SAME: Final = 1e-9
"""Distances whose squares differ by less than this share are interchangeable, as on a lattice."""
_N_FOR_CENTRE: Final = 101


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
    view = _View.of(cloud, which, n_neighbours)
    squares = torch.full((view.n, n_neighbours), torch.inf, dtype=torch.float64, device=which.device)
    left = torch.arange(view.n, device=which.device)
    for dtype in (torch.float32, torch.float64):
        found, resolved = view.resolve(left, dtype)
        squares[left[resolved]] = found[resolved]
        left = left[~resolved]
        if not left.numel():
            break
    for i in left.tolist():
        squares[i] = view.against_all(i)
    return squares.sqrt_()


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """Points around a centre.

    Attributes:
        cloud: where they are read.
        which: (m,) which points of the cloud; below, points are numbered by their place in it.
        centre: (d,) what is subtracted before products are taken; near most points, not moved by a few far away.
        norms: (m,) squared distances from the centre.
        n_neighbours: how many are wanted.
    """

    cloud: Cloud
    which: Tensor
    centre: Tensor
    norms: Tensor
    n_neighbours: int

    @classmethod
    def of(cls, cloud: Cloud, which: Tensor, n_neighbours: int) -> Self:
        """Choose the centre: the median of some points, coordinate by coordinate."""
        some = which[:: -(-len(which) // _N_FOR_CENTRE)]
        wide = max(BLOCK // len(some), 1)
        centre = torch.cat([cloud.block(some, c).median(0).values for c in ranges(cloud.shape[1], wide)])
        tall = max(BLOCK // cloud.shape[1], 1)
        norms = torch.cat([(cloud.block(which[r]) - centre).square_().sum(1) for r in ranges(len(which), tall)])
        return cls(cloud, which, centre, norms, n_neighbours)

    @property
    def n(self) -> int:
        """Number of points."""
        return len(self.which)

    @property
    def n_kept(self) -> int:
        """Candidates kept for each point."""
        return min(self.n_neighbours + SPARE, self.n - 1)

    def slack(self, dtype: torch.dtype) -> float:
        """Return the bound on the error of a squared distance, as a share of |x|^2 + |y|^2.

        With u the rounding unit: (w + b) u for the products of b blocks of w coordinates, summed in any order, and 16 u
        for rounding the coordinates, the norms and the last three additions; the norms were summed in float64.
        """
        d = self.cloud.shape[1]
        width = min(WIDTH, d)
        unit = torch.finfo(dtype).eps / 2.0
        return 1.1 * ((width + -(-d // width) + 16) * unit + d * torch.finfo(torch.float64).eps / 2.0)

    def floor(self, dtype: torch.dtype) -> float:
        """Return what underflow may cost besides: coordinates are below 1, so at most a tiny number for each."""
        return 8.0 * self.cloud.shape[1] * torch.finfo(dtype).tiny

    def resolve(self, rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return (squared distances (r, k) of `rows`, which of the rows are settled (r,))."""
        lower, others = self._candidates(rows, dtype)
        lower = lower.to(torch.float64)
        doubt = 2.0 * (self.slack(dtype) * (self.norms[rows, None] + self.norms[others]) + self.floor(dtype))
        upper = lower + doubt
        limit = upper.kthvalue(self.n_neighbours, dim=1, keepdim=True).values
        needed = lower <= limit
        exact = torch.full_like(lower, torch.inf)
        exact[needed] = self._squares(rows[:, None].expand_as(others)[needed], others[needed])
        # Hardware or settings may multiply with fewer bits than float32 has (bfloat16, TF32): then the bounds are none.
        if bool(((exact < lower) | (exact > upper))[needed].any()):
            return exact, torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        same = SAME if dtype == torch.float64 else 0.0
        settled = (lower[:, -1:] > limit * (1.0 - same)).squeeze(1) | (self.n_kept == self.n - 1)
        return exact.sort(dim=1).values[:, : self.n_neighbours], settled

    def against_all(self, i: int) -> Tensor:
        """Return the squared distances of point i to its nearest others from the differences to all of them."""
        others = torch.arange(self.n, device=self.which.device)
        others = others[others != i]
        return self._squares(torch.full_like(others, i), others).sort().values[: self.n_neighbours]

    def _candidates(self, rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return (lower bounds ascending, which points), each (r, n_kept): the smallest of each row."""
        shape = (len(rows), self.n_kept)
        lower = torch.full(shape, torch.inf, dtype=dtype, device=rows.device)
        others = torch.zeros(shape, dtype=torch.int64, device=rows.device)
        for at, columns, tile in self._tiles(rows, dtype):
            bounds, found = tile.topk(min(self.n_kept, tile.shape[1]), dim=1, largest=False, sorted=False)
            bounds = torch.cat([lower[at], bounds], dim=1)
            found = torch.cat([others[at], found + columns.start], dim=1)
            lower[at], best = bounds.topk(self.n_kept, dim=1, largest=False)
            others[at] = found.gather(1, best)
        return lower, others

    def _tiles(self, rows: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yield (range of `rows`, range of points, lower bounds between them); of all rows only half is computed."""
        is_symmetric = len(rows) == self.n
        for at in ranges(len(rows), TILE):
            for columns in ranges(self.n, TILE):
                if is_symmetric and columns.start < at.start:
                    continue
                tile = self._lower_bounds(rows[at], columns, dtype)
                yield at, columns, tile
                if is_symmetric and columns.start > at.start:
                    yield columns, at, tile.T.contiguous()

    def _lower_bounds(self, rows: Tensor, columns: slice, dtype: torch.dtype) -> Tensor:
        others = torch.arange(columns.start, columns.stop, device=rows.device)
        products = torch.zeros(len(rows), len(others), dtype=dtype, device=rows.device)
        for coordinates in ranges(self.cloud.shape[1], WIDTH):
            left, right = (self._centred(points, coordinates).to(dtype) for points in (rows, others))
            products.addmm_(left, right.T)
        norms = (self.norms * (1.0 - self.slack(dtype))).to(dtype)
        bounds = products.mul_(-2.0).add_(norms[rows, None]).add_(norms[others]).sub_(self.floor(dtype))
        own = (rows >= columns.start) & (rows < columns.stop)
        bounds[own.nonzero().squeeze(1), rows[own] - columns.start] = torch.inf
        return bounds

    def _centred(self, points: Tensor, coordinates: slice) -> Tensor:
        return self.cloud.block(self.which[points], coordinates) - self.centre[coordinates]

    def _squares(self, left: Tensor, right: Tensor) -> Tensor:
        """Return squared distances of pairs (p,), from differences; a pair that comes twice is computed once."""
        codes, back = (torch.minimum(left, right) * self.n + torch.maximum(left, right)).unique(return_inverse=True)
        left, right = self.which[codes // self.n], self.which[codes % self.n]
        height = max(BLOCK // self.cloud.shape[1], 1)
        found = torch.empty(len(codes), dtype=torch.float64, device=left.device)
        for pairs in ranges(len(codes), height):
            found[pairs] = _sum_of_squares(self.cloud.block(left[pairs]) - self.cloud.block(right[pairs]))
        return found[back]


def _sum_of_squares(differences: Tensor) -> Tensor:
    """Return the sums (p,) of squares of each row: positive, although squares below 1e-308 vanish."""
    return differences.square_().sum(1).clamp_min_(torch.finfo(torch.float64).tiny)
