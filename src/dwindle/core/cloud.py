"""This file reads a cloud of points block by block, so that a large one is never copied as a whole."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, Self

import torch
from torch import Tensor

from dwindle.errors import DataError

BLOCK: Final = 2**18
"""Elements of a block: 2 MB in float64, which caches hold."""
_N_TELLING: Final = 32
"""Coordinates that tell most points apart already."""
_LEAST_EXPONENT: Final = -1000
"""Keeps the scale of subnormal numbers a float64."""


@dataclass(frozen=True, slots=True, eq=False)
class Cloud:
    """Points that were checked, with the power of two that brings them into reach of squares in float32.

    Attributes:
        points: (n, d) floats of any width, finite; n, d >= 1.
        exponent: every |coordinate| is at most 2^(exponent - 1).
    """

    points: Tensor
    exponent: int

    @classmethod
    def of(cls, points: Tensor) -> Self:
        """Return the cloud of (n, d) `points`, which are read again whenever they are needed, not copied.

        Raises:
            DataError: they are not a table of floats, there are none, or they are not finite.
        """
        if points.ndim != 2 or not points.is_floating_point() or points.layout != torch.strided:
            raise DataError(
                f"points must be a dense table (n, d) of floats, got shape {tuple(points.shape)} of {points.dtype}, "
                f"{points.layout}; flatten what belongs to one point"
            )
        if points.numel() == 0:
            raise DataError(f"points have shape {tuple(points.shape)}: nothing to measure; give at least one of each")
        points = points.detach()
        largest = 0.0
        for block in _native_blocks(points):
            # Numbers, not tensors, are kept: small tensors between large freed ones would scatter the memory.
            low, high = (float(end) for end in block.aminmax())
            if not (math.isfinite(low) and math.isfinite(high)):
                raise DataError(_where_not_finite(points))
            largest = max(largest, -low, high)
        return cls(points, max(math.frexp(largest)[1] + 1, _LEAST_EXPONENT))

    @property
    def shape(self) -> tuple[int, int]:
        """(number of points, number of coordinates)."""
        return self.points.shape[0], self.points.shape[1]

    def block(self, rows: Tensor | slice, columns: slice = slice(None), *, origin: Tensor | None = None) -> Tensor:
        """Return coordinates / 2^exponent - origin as a new float64 tensor; the quotients are at most 1/2.

        Args:
            rows: indices or a range of points.
            columns: a range of coordinates.
            origin: one number for each of `columns`; None subtracts nothing.
        """
        values, scale = self.points[:, columns][rows].to(torch.float64), 2.0**-self.exponent
        return values * scale if origin is None else torch.add(-origin, values, alpha=scale)

    def distinct(self) -> Tensor:
        """Return the indices (m,) of the first of every group of identical points, ascending.

        Points are told apart by 128-bit digests: of some of their coordinates, and of all where these are the same. -0
        equals 0.
        """
        some = self.points[:, :: -(-self.shape[1] // _N_TELLING)]
        keys = list(_digests(some))
        n_times = Counter(keys)
        alike = [i for i, key in enumerate(keys) if n_times[key] > 1]
        if alike and some.shape[1] < self.shape[1]:
            rows = torch.tensor(alike, device=self.points.device)
            for part in rows.split(max(BLOCK // self.shape[1], 1)):
                for i, digest in zip(part.tolist(), _digests(self.points[part]), strict=True):
                    keys[i] += digest
        first = {key: i for i, key in reversed(list(enumerate(keys)))}
        return torch.tensor(sorted(first.values()), device=self.points.device)


def ranges(n: int, width: int) -> Iterator[slice]:
    """Yield consecutive ranges of at most `width` that cover n.

    >>> list(ranges(5, 3))
    [slice(0, 3, None), slice(3, 5, None)]
    """
    for start in range(0, n, width):
        yield slice(start, min(start + width, n))


def _native_blocks(points: Tensor) -> Iterator[Tensor]:
    """Yield groups of rows, at least float32, which every width below fits into."""
    dtype = torch.float64 if points.dtype == torch.float64 else torch.float32
    for rows in ranges(points.shape[0], max(BLOCK // points.shape[1], 1)):
        yield points[rows].to(dtype).contiguous()


def _digests(points: Tensor) -> Iterator[bytes]:
    """Yield a digest of each row."""
    for block in _native_blocks(points):
        for row in (block + 0.0).cpu().numpy():  # adding zero turns -0 into 0
            yield blake2b(row, digest_size=16).digest()


def _where_not_finite(points: Tensor) -> str:
    n_bad = sum(int((~block.isfinite()).any(1).sum()) for block in _native_blocks(points))
    return (
        f"{n_bad} of {points.shape[0]} points hold NaN or infinity, which have no distance to others; "
        "leave them out or repair what computed them"
    )
