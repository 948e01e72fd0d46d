"""This file finds the smallest entries of each row of a large matrix that is given as square tiles.

A symmetric matrix needs half of its tiles: the other half is read down their columns. Groups of entries are compared by
their minima first. The k smallest entries of a row lie in the k groups with the smallest minima, because any other
entry is not below k of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

import torch
from torch import Tensor

GROUP: Final = 16
"""Entries of a group; the side of a tile is a multiple."""


class Smallest(NamedTuple):
    """Entries of s rows, in no order.

    Attributes:
        values: (s, k) of the entries.
        tile: (s, k) place of each one's tile among those that were named.
        offset: (s, k) its place in the row of that tile.
    """

    values: Tensor
    tile: Tensor
    offset: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class TileMinima:
    """Tiles with the minima of the groups of their rows and columns; entry i of s belongs to group i modulo s / GROUP.

    Attributes:
        tiles: (t, s, s), contiguous.
        of_rows: (t, s, s / GROUP).
        of_columns: (t, s / GROUP, s).
    """

    tiles: Tensor
    of_rows: Tensor
    of_columns: Tensor

    @classmethod
    def of(cls, tiles: Tensor) -> Self:
        """Take the minima of `tiles` (t, s, s)."""
        t, s, _ = tiles.shape
        n_groups = s // GROUP
        of_rows = tiles.view(t, s, GROUP, n_groups).amin(2)
        return cls(tiles, of_rows, tiles.view(t, GROUP, n_groups, s).amin(1))

    def smallest(self, n: int, *, across: Sequence[int], down: Sequence[int]) -> Smallest:
        """Return the `n` smallest entries of each row of the tiles `across` and each column of the tiles `down`.

        The tiles `across` lie beside each other, then the transposed tiles `down`. Fewer than `n` come back where there
        are fewer.
        """
        side, n_groups = self.of_rows.shape[1:]
        minima = torch.cat([*self.of_rows[list(across)], *self.of_columns[list(down)].mT], dim=1)
        group = minima.topk(min(n, minima.shape[1]), dim=1, largest=False, sorted=False).indices
        tile, group = group // n_groups, group % n_groups
        row = torch.arange(side, device=group.device)[:, None]
        is_across = tile < len(across)
        number = torch.tensor([*across, *down], device=group.device)[tile]
        # Strides of a tile: (side, 1) for its rows, (1, side) for its columns.
        first = number * side**2 + torch.where(is_across, row * side + group, row + group * side)
        step = torch.where(is_across, n_groups, n_groups * side)
        member = torch.arange(GROUP, device=group.device)
        found = self.tiles.view(-1).take(first[:, :, None] + step[:, :, None] * member).flatten(1)
        values, place = found.topk(min(n, found.shape[1]), dim=1, largest=False, sorted=False)
        offset = group.gather(1, place // GROUP) + n_groups * (place % GROUP)
        return Smallest(values, tile.gather(1, place // GROUP), offset)
