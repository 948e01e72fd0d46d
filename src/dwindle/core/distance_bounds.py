"""This file bounds the squared distances between points by matrix products, in few operations and any precision.

|x - y|^2 = |x|^2 + |y|^2 - 2 xy. Whatever the order of summation, what rounding does to it is at most a small share,
the slack, of |x|^2 + |y|^2 (N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd edition, 2002, section
3.1). A distance that is small beside the norms is thus known to few digits only: the bounds say so, and points are
centred first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import torch
from torch import Tensor

from dwindle.core.cloud import BLOCK, Cloud, ranges

WIDTH: Final = 512
"""Coordinates that are summed by one matrix product; the slack grows with it."""
_N_FOR_CENTRE: Final = 101
_COPIED: Final = 2**22
"""Clouds of at most so many coordinates are converted once; larger ones whenever a block is read."""


@dataclass(frozen=True, slots=True, eq=False)
class CentredPoints:
    """Points of a cloud around a centre, numbered anew.

    Attributes:
        cloud: where they are read.
        which: (m,) which points of the cloud.
        centre: (d,) near most of the points, and not moved by a few that are far away.
        norms: (m,) float64, squared distances from the centre.
    """

    cloud: Cloud
    which: Tensor
    centre: Tensor
    norms: Tensor

    @classmethod
    def of(cls, cloud: Cloud, which: Tensor) -> Self:
        """Choose the centre: the median of some points, coordinate by coordinate."""
        some = which[:: -(-len(which) // _N_FOR_CENTRE)]
        centre = torch.empty(cloud.shape[1], dtype=torch.float64, device=which.device)
        for columns in ranges(cloud.shape[1], max(BLOCK // len(some), 1)):
            centre[columns] = cloud.block(some, columns).median(0).values
        norms = torch.empty(len(which), dtype=torch.float64, device=which.device)
        for rows in ranges(len(which), max(BLOCK // cloud.shape[1], 1)):
            norms[rows] = (cloud.block(which[rows]) - centre).square_().sum(1)
        return cls(cloud, which, centre, norms)

    def read(self, points: Tensor | slice, coordinates: slice) -> Tensor:
        """Return centred coordinates in float64."""
        return self.cloud.block(self.which[points], coordinates).sub_(self.centre[coordinates])


@dataclass(frozen=True, slots=True, eq=False)
class DistanceBounds:
    """Lower and upper bounds of squared distances, computed in one float type.

    Attributes:
        points: between them.
        dtype: of the products.
        copy: (m, d) centred coordinates in `dtype`, where they are few; None otherwise.
        slack: the largest error of a squared distance, as a share of |x|^2 + |y|^2.
        floor: what underflow may add to it.
    """

    points: CentredPoints
    dtype: torch.dtype
    copy: Tensor | None
    slack: float
    floor: float

    @classmethod
    def of(cls, points: CentredPoints, dtype: torch.dtype) -> Self:
        """Return the bounds in `dtype`.

        With u its rounding unit, b blocks of w coordinates summed in any order cost (w + b) u; rounding coordinates,
        norms and the last additions costs at most 16 u; the norms were summed in float64. Coordinates are below 1, so
        where one underflows it costs no more than the least normal number.
        """
        d = points.cloud.shape[1]
        width = min(WIDTH, d)
        unit, unit_of_norms = torch.finfo(dtype).eps / 2.0, torch.finfo(torch.float64).eps / 2.0
        slack = 1.1 * ((width + -(-d // width) + 16) * unit + d * unit_of_norms)
        copied = len(points.which) * d <= _COPIED
        copy = points.read(slice(None), slice(None)).to(dtype) if copied else None
        return cls(points, dtype, copy, slack, 8.0 * d * torch.finfo(dtype).tiny)

    def lower(self, tiles: Sequence[tuple[Tensor | slice, slice]]) -> list[Tensor]:
        """Return lower bounds (rows, columns) of each tile, infinite from a point to itself.

        Coordinates that several tiles need are read once, where they share the object that names their points.
        """
        norms = self.points.norms * (1.0 - self.slack)
        found = [norms.new_zeros(len(norms[rows]), len(norms[columns]), dtype=self.dtype) for rows, columns in tiles]
        sides = {id(points): points for tile in tiles for points in tile}
        for coordinates in ranges(self.points.cloud.shape[1], WIDTH):
            read = {key: self._read(points, coordinates) for key, points in sides.items()}
            for products, (rows, columns) in zip(found, tiles, strict=True):
                products.addmm_(read[id(rows)], read[id(columns)].T)
        for products, (rows, columns) in zip(found, tiles, strict=True):
            products.mul_(-2.0).add_((norms[rows] - self.floor).to(self.dtype)[:, None])
            products.add_(norms[columns].to(self.dtype))
            _exclude_own(products, rows, columns)
        return found

    def width(self, rows: Tensor, others: Tensor) -> Tensor:
        """Return upper minus lower bounds (r, c), float64, of `rows` (r,) with `others` (r, c)."""
        norms = self.points.norms
        return 2.0 * (self.slack * (norms[rows, None] + norms[others]) + self.floor)

    def _read(self, points: Tensor | slice, coordinates: slice) -> Tensor:
        if self.copy is not None:
            return self.copy[points, coordinates]
        return self.points.read(points, coordinates).to(self.dtype)


def _exclude_own(bounds: Tensor, rows: Tensor | slice, columns: slice) -> None:
    """Put infinity where a row and a column are the same point."""
    if isinstance(rows, slice):
        rows = torch.arange(rows.start, rows.stop, device=bounds.device)
    own = (rows >= columns.start) & (rows < columns.stop)
    bounds[own.nonzero().squeeze(1), rows[own] - columns.start] = torch.inf
