"""This file finds the exact distances to the nearest neighbours, most of the work done in few bits.

Matrix products of rounded coordinates bound every squared distance from below and above. Only points whose lower bound
is not above the k-th smallest upper bound can be among the k nearest; their distances are taken again as differences in
float64. Coordinates are rounded to bfloat16 where the processor multiplies these faster; where too many points are in
question, to float32; then, or where there are few points, the bounds are made in float64, which often are narrow enough
to be distances themselves; what is then left is compared with every other point.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

from dwindle.core.cloud import BLOCK, Cloud, ranges
from dwindle.core.distance_bounds import CentredPoints, DistanceBounds
from dwindle.core.tile_minima import GROUP, Smallest, TileMinima

TILE: Final = 640
"""Points on a side of a tile of bounds."""
AT_ONCE: Final = 40
"""Tiles that are computed together, so that coordinates are read less often: 65 MB in float32."""
SPARE: Final = 6
"""Candidates kept for each point beyond the neighbours asked for."""
SAME: Final = 1e-9
"""Squared distances that differ by less than this share are interchangeable, as on a lattice."""

FEW: Final = 64
"""Of so many points for each candidate or fewer, products in float64 cost less than differences of all candidates."""

_VANISHING: Final = 1e-250
"""Sums of squares below it may have lost terms."""


class Neighbours(NamedTuple):
    """The nearest other points of each point, nearest first.

    Attributes:
        distances: (m, k) float64, in units of 2^exponent of the cloud, correct to about 1e-9 of themselves; not zero.
        indices: (m, k) which points, by their place among those that count; of points equally far, any.
    """

    distances: Tensor
    indices: Tensor


def nearest_neighbours(cloud: Cloud, which: Tensor, n_neighbours: int) -> Neighbours:
    """Return the `n_neighbours` nearest of the other points to each point.

    Costs O(m^2 d) time and, beyond the result, memory for a few tiles and blocks whatever m and d are.

    Args:
        cloud: the points.
        which: (m,) indices of the points that count, no two of them identical.
        n_neighbours: at least 1, below m.
    """
    search = _Search(CentredPoints.of(cloud, which), n_neighbours)
    shape = search.n, n_neighbours
    distances = torch.full(shape, torch.inf, dtype=torch.float64, device=which.device)
    indices = torch.zeros(shape, dtype=torch.int64, device=which.device)
    left = torch.arange(search.n, device=which.device)
    few = search.n <= FEW * search.n_kept
    for rounding in (torch.float64,) if few else _roundings(which.device):
        found, settled = search.among_candidates(left, rounding)
        distances[left[settled]], indices[left[settled]] = found.distances[settled], found.indices[settled]
        left = left[~settled]
        if not left.numel():
            break
    for i in left.tolist():
        distances[i], indices[i] = search.among_all(i)
    return Neighbours(distances, indices)


def groups_by_pair(nearest: Tensor) -> Tensor:
    """Return the number (n,) of the group of each point: those that lead to one pair, from neighbour to neighbour.

    No step to a nearest neighbour is longer than the one before, so the way ends in two points that are each other's
    nearest.

    Args:
        nearest: (n,) the index of each point's nearest other.

    >>> groups_by_pair(torch.tensor([1, 0, 1, 4, 3])).tolist()
    [0, 0, 0, 1, 1]
    """
    reached = nearest
    for _ in range(len(nearest).bit_length()):  # 1, 2, 4, ... steps
        reached = reached[reached]
    return torch.minimum(reached, nearest[reached]).unique(return_inverse=True)[1]


def _roundings(device: torch.device) -> tuple[torch.dtype, ...]:
    """Return the types to round coordinates to, one after the other."""
    has = getattr(torch.cpu, "get_capabilities", dict[str, object])()
    fast = (torch.bfloat16,) if device.type == "cpu" and has.get("avx512_bf16") else ()
    return *fast, torch.float32, torch.float64


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

    def among_candidates(self, rows: Tensor, rounding: torch.dtype) -> tuple[Neighbours, Tensor]:
        """Return (neighbours of the points `rows`, whether these are surely the nearest (r,))."""
        bounds = DistanceBounds.of(self.points, rounding)
        lower, others = self._candidates(rows, bounds)
        lower = lower.to(torch.float64)
        upper = bounds.upper(lower, rows, others)
        limit = upper.kthvalue(self.n_neighbours, dim=1, keepdim=True).values
        needed = lower <= limit
        same = SAME if rounding == torch.float64 else 0.0
        exact = torch.full_like(lower, torch.inf)
        # Where bounds are that narrow their middle is as good as differences, unless neighbours may be equally far.
        ties = (lower[:, 1:] - lower[:, :-1] <= 4.0 * same * lower[:, 1:]).any(1, keepdim=True)
        known = needed & ~ties & (upper - lower <= same * lower)
        exact[known] = (0.5 * (lower + upper))[known].sqrt()
        unknown = needed & ~known
        exact[unknown] = self._distances(rows[:, None].expand_as(others)[unknown], others[unknown])
        settled = (lower[:, -1] > limit.squeeze(1) * (1.0 - same)) | (self.n_kept == self.n - 1)
        # Settings may let matrix products use fewer bits than float32 has (bfloat16, TF32): then the bounds are none.
        settled &= not bool(((exact.square() < lower) | (exact.square() > upper))[needed].any())
        return self._nearest(exact, others), settled

    def among_all(self, i: int) -> Neighbours:
        """Return the neighbours (k,) of point i from its differences to all others."""
        others = torch.arange(self.n, device=self.points.which.device)
        others = others[others != i]
        return self._nearest(self._distances(torch.full_like(others, i), others), others)

    def _nearest(self, distances: Tensor, others: Tensor) -> Neighbours:
        ascending = distances.sort(dim=-1)
        nearest = slice(self.n_neighbours)
        return Neighbours(ascending.values[..., nearest], others.gather(-1, ascending.indices[..., nearest]))

    def _candidates(self, rows: Tensor, bounds: DistanceBounds) -> tuple[Tensor, Tensor]:
        """Return (lower bounds ascending, of which points), each (r, n_kept): the smallest of each row."""
        shape = (len(rows), self.n_kept)
        lower = torch.full(shape, torch.inf, dtype=bounds.dtype, device=rows.device)
        others = torch.zeros(shape, dtype=torch.int64, device=rows.device)
        for at, starts, found in self._smallest(rows, bounds):
            height = len(lower[at])
            values = torch.cat([lower[at], found.values[:height]], dim=1)
            columns = torch.cat([others[at], (starts[found.tile] + found.offset)[:height]], dim=1)
            lower[at], best = values.topk(self.n_kept, dim=1, largest=False)
            others[at] = columns.gather(1, best)
        return lower, others

    def _smallest(self, rows: Tensor, bounds: DistanceBounds) -> Iterator[tuple[slice, Tensor, Smallest]]:
        """Yield (range of `rows`, first points of tiles, smallest bounds in these); of all rows half is computed."""
        is_symmetric = len(rows) == self.n
        side = min(TILE, -(-self.n // GROUP) * GROUP)
        sides = list(ranges(self.n, side))
        heights = sides if is_symmetric else list(ranges(len(rows), side))
        numbers = {at.start: at if is_symmetric else rows[at] for at in heights}
        wanted = [(at, columns) for at in heights for columns in sides if not is_symmetric or columns.start >= at.start]
        buffer = torch.empty(min(AT_ONCE, len(wanted)), side, side, dtype=bounds.dtype, device=rows.device)
        for part in ranges(len(wanted), AT_ONCE):
            tiles = wanted[part]
            minima = TileMinima.of(
                bounds.lower([(numbers[at.start], columns) for at, columns in tiles], buffer[: len(tiles)])
            )
            for at in heights:
                across = [i for i, (row, _) in enumerate(tiles) if row == at]
                down = [i for i, (row, column) in enumerate(tiles) if is_symmetric and column == at != row]
                if across or down:
                    starts = [tiles[i][1].start for i in across] + [tiles[i][0].start for i in down]
                    found = minima.smallest(self.n_kept, across=across, down=down)
                    yield at, torch.tensor(starts, device=rows.device), found

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
