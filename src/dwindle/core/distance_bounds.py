"""This file bounds the squared distances between points by matrix products, in few operations and any precision.

Coordinates are rounded first; by how far that moves each point is known. Between rounded points x and y,
|x - y|^2 = |x|^2 + |y|^2 - 2 xy. Whatever the order of summation, what rounding does to that is at most a small share,
the slack, of |x|^2 + |y|^2 (N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd edition, 2002, section
3.1). A distance that is small beside the norms is thus known to few digits only: the bounds say so, and points are
centred first.

Points moved by e and f are at most e + f closer than their rounded ones, whose squared distance is S:
(sqrt(S) - e - f)^2 >= (1 - t) S - 2 (e^2 + f^2) / t for any t in (0, 1), by the inequality of the means. So the lower
bound is a sum of what belongs to either point and their product, which one matrix product gives.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Self

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
        which: (m,) which points of the cloud, ascending.
        centre: (d,) near most of the points, and not moved by a few that are far away.
    """

    cloud: Cloud
    which: Tensor
    centre: Tensor

    @classmethod
    def of(cls, cloud: Cloud, which: Tensor) -> Self:
        """Choose the centre: the median of some points, coordinate by coordinate."""
        some = which[:: -(-len(which) // _N_FOR_CENTRE)]
        centre = torch.empty(cloud.shape[1], dtype=torch.float64, device=which.device)
        for columns in ranges(cloud.shape[1], max(BLOCK // len(some), 1)):
            centre[columns] = cloud.block(some, columns).median(0).values
        return cls(cloud, which, centre)

    def read(self, points: Tensor | slice, coordinates: slice) -> Tensor:
        """Return centred coordinates in float64."""
        all_count = len(self.which) == self.cloud.shape[0]
        rows = points if all_count and isinstance(points, slice) else self.which[points]
        return self.cloud.block(rows, coordinates, origin=self.centre[coordinates])


@dataclass(frozen=True, slots=True, eq=False)
class DistanceBounds:
    """Lower and upper bounds of squared distances, computed in one float type.

    Attributes:
        points: between them.
        rounding: the type that coordinates are rounded to: float64, float32, or bfloat16, for whose numbers some
            processors have products that are as exact as those of float32 and several times as fast.
        copy: (m, d) rounded coordinates in the products' type, where they are few; None otherwise.
        norms: (m,) float64, squared distances of the rounded points from the centre.
        moved: (m,) float64, at least the squared distances of the rounded points from the points.
        slack: the largest error of a squared distance between rounded points, as a share of |x|^2 + |y|^2.
        floor: what underflow may add to it.
    """

    points: CentredPoints
    rounding: torch.dtype
    copy: Tensor | None
    norms: Tensor
    moved: Tensor
    slack: float
    floor: float

    @classmethod
    def of(cls, points: CentredPoints, rounding: torch.dtype) -> Self:
        """Return the bounds between coordinates in `rounding`.

        With u the rounding unit of the products, b blocks of w coordinates summed in any order cost (w + b) u; rounding
        norms and the last additions costs at most 16 u; the norms were summed in float64. Coordinates are below 1, so
        where one underflows it costs no more than the least normal number.
        """
        n, d = len(points.which), points.cloud.shape[1]
        dtype = _products_type(rounding)
        norms, moved = torch.empty(2, n, dtype=torch.float64, device=points.which.device)
        copy = torch.empty(n, d, dtype=dtype, device=points.which.device) if n * d <= _COPIED else None
        for rows in ranges(n, max(BLOCK // d, 1)):
            exact = points.read(rows, slice(None))
            rounded = exact.to(rounding)
            if copy is not None:
                copy[rows] = rounded
            rounded = rounded.to(torch.float64)
            norms[rows] = torch.linalg.vector_norm(rounded, dim=1).square_()
            moved[rows] = torch.linalg.vector_norm(exact.sub_(rounded), dim=1).square_()
        width = min(WIDTH, d)
        unit, unit_of_norms = torch.finfo(dtype).eps / 2.0, torch.finfo(torch.float64).eps / 2.0
        slack = 1.1 * ((width + -(-d // width) + 16) * unit + d * unit_of_norms)
        return cls(points, rounding, copy, norms, moved.mul_(1.01), slack, 8.0 * d * torch.finfo(dtype).tiny)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the products and of the lower bounds."""
        return _products_type(self.rounding)

    @property
    def _share(self) -> float:
        """The t of the lower bounds: best for points that are 1/t times as far from each other as they were moved."""
        return 0.0 if self.rounding == torch.float64 else 2.0 * torch.finfo(self.rounding).eps

    def lower(self, tiles: Sequence[tuple[Tensor | slice, slice]], out: Tensor) -> Tensor:
        """Return lower bounds between the points of each tile, infinite from a point to itself.

        Coordinates that several tiles need are read once, where they share the object that names their points.

        Args:
            tiles: which points are the rows and which the columns of each.
            out: (t, s, s), which the result is written to; infinite where a tile has fewer than s rows or columns.
        """
        with _fast_products(self.rounding):
            return self._lower(tiles, out)

    def _lower(self, tiles: Sequence[tuple[Tensor | slice, slice]], out: Tensor) -> Tensor:
        t = self._share
        norms = (1.0 - t) * (1.0 - self.slack) * self.norms - self._given_up()
        norms_of_rows, norms_of_columns = (norms - self.floor).to(self.dtype), norms.to(self.dtype)
        sides = {id(points): points for tile in tiles for points in tile}
        d = self.points.cloud.shape[1]
        for coordinates in ranges(d, WIDTH):
            read = {key: self._read(points, coordinates) for key, points in sides.items()}
            for tile, (rows, columns) in zip(out, tiles, strict=True):
                left, right = read[id(rows)], read[id(columns)]
                products = tile[: len(left), : len(right)]
                products.addmm_(left, right.T, beta=float(coordinates.start > 0), alpha=-2.0 * (1.0 - t))
                if coordinates.stop == d:
                    products.add_(norms_of_rows[rows, None]).add_(norms_of_columns[columns])
                    tile[len(left) :] = torch.inf
                    tile[:, len(right) :] = torch.inf
                    _exclude_own(products, rows, columns)
        return out

    def upper(self, lower: Tensor, rows: Tensor, others: Tensor) -> Tensor:
        """Return upper bounds (r, c), float64, where `lower` (r, c) are those of `rows` (r,) with `others` (r, c)."""
        rows = rows[:, None]
        given_up = self._given_up()
        between = (lower + given_up[rows] + given_up[others]) / (1.0 - self._share)
        between += 2.0 * (self.slack * (self.norms[rows] + self.norms[others]) + self.floor)
        if self.rounding == torch.float64:
            return between
        moved = self.moved.sqrt()
        return (between.clamp_min_(0.0).sqrt_() + moved[rows] + moved[others]).square_()

    def _given_up(self) -> Tensor:
        """Return what each point (m,) lowers its lower bounds by because it was moved."""
        return self.moved * (2.0 / self._share) if self._share else self.moved

    def _read(self, points: Tensor | slice, coordinates: slice) -> Tensor:
        if self.copy is not None:
            return self.copy[points, coordinates]
        return self.points.read(points, coordinates).to(self.rounding).to(self.dtype)


def _products_type(rounding: torch.dtype) -> torch.dtype:
    return torch.float64 if rounding == torch.float64 else torch.float32


@contextmanager
def _fast_products(rounding: torch.dtype) -> Generator[None]:
    """Let the processor multiply float32 numbers as bfloat16, which `rounding` may have made them."""
    setting: Any = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
    before = setting.fp32_precision
    if rounding == torch.bfloat16:
        setting.fp32_precision = "bf16"
    try:
        yield
    finally:
        setting.fp32_precision = before


def _exclude_own(bounds: Tensor, rows: Tensor | slice, columns: slice) -> None:
    """Put infinity where a row and a column are the same point."""
    if isinstance(rows, slice):
        rows = torch.arange(rows.start, rows.stop, device=bounds.device)
    own = (rows >= columns.start) & (rows < columns.stop)
    bounds[own.nonzero().squeeze(1), rows[own] - columns.start] = torch.inf
