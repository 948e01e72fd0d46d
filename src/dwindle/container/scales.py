"""This file says which scale belongs to which weight, for any run of weights or any choice of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from dwindle.container.records import row_shape

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleMap:
    """The weight at flat position p has scale ((p // row) * per_row + (p % row) // run) % n_scales.

    Attributes:
        run: consecutive weights that share a scale; the last run of a row may be shorter.
        row: weights until runs start anew.
        per_row: scales in a row.
    """

    run: int
    row: int
    per_row: int
    n_scales: int

    @classmethod
    def of(cls, shape: tuple[int, ...], granularity: tuple[str] | tuple[str, int]) -> Self:
        """Return the map of a tensor of `shape`."""
        match granularity:
            case ("channel", int(axis)):
                inner = max(math.prod(shape[axis + 1 :]), 1)
                return cls(run=inner, row=inner, per_row=1, n_scales=max(shape[axis], 1))
            case ("group", int(size)):
                n_rows, n_columns = row_shape(shape)
                run, row = min(size, max(n_columns, 1)), max(n_columns, 1)
                per_row = math.ceil(row / run)
                return cls(run=run, row=row, per_row=per_row, n_scales=max(n_rows * per_row, 1))
            case _:
                n_weights = max(math.prod(shape), 1)
                return cls(run=n_weights, row=n_weights, per_row=1, n_scales=1)

    def at(self, values: Array, places: slice | Array) -> Array:
        """Return the entry of `values` (n_scales,) for each of `places`: a range of flat positions, or any positions.

        One scale for all comes as (1,), which broadcasts.
        """
        if self.n_scales == 1:
            return values
        if isinstance(places, slice):
            return self._along(values, places.start, places.stop)
        rows, columns = (places // self.row, 0) if self.per_row == 1 else np.divmod(places, self.row)
        return values[(rows * self.per_row + columns // self.run) % self.n_scales]

    def _along(self, values: Array, start: int, stop: int) -> Array:
        """Repeat each scale as often as it occurs in [start, stop)."""
        runs = np.arange(self._run_of(start), self._run_of(stop - 1) + 1)
        found = values[runs % self.n_scales]
        if self.row == 1:
            return found
        rows, numbers = runs // self.per_row, runs % self.per_row
        starts = rows * self.row + numbers * self.run
        ends = np.minimum(starts + self.run, (rows + 1) * self.row)
        return np.repeat(found, np.minimum(ends, stop) - np.maximum(starts, start))

    def _run_of(self, place: int) -> int:
        return place // self.row * self.per_row + place % self.row // self.run
