"""The smallest entries of rows of a tiled matrix: equal to those of the whole rows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dwindle.core.tile_minima import GROUP, TileMinima


@given(
    seed=st.integers(0, 10_000),
    n_groups=st.integers(1, 3),
    across=st.lists(st.integers(0, 3), max_size=3),
    down=st.lists(st.integers(0, 3), max_size=3),
    n=st.integers(1, 40),
    n_values=st.sampled_from([2, 50, 10**9]),
)
def test_equal_to_sorting_whole_rows(
    seed: int, n_groups: int, across: list[int], down: list[int], n: int, n_values: int
) -> None:
    if not across and not down:
        across = [0]
    side = n_groups * GROUP
    draw = torch.Generator().manual_seed(seed)
    tiles = torch.randint(n_values, (4, side, side), generator=draw).double()
    tiles[torch.rand(tiles.shape, generator=draw) < 0.1] = torch.inf
    whole = torch.stack([*(tiles[i] for i in across), *(tiles[i].T for i in down)], dim=1)  # (row, tile, offset)
    found = TileMinima.of(tiles).smallest(n, across=across, down=down)
    wanted = whole.flatten(1).sort(1).values[:, :n]
    assert torch.equal(found.values.sort(1).values, wanted)
    assert torch.equal(whole[torch.arange(side)[:, None], found.tile, found.offset], found.values)


@pytest.mark.parametrize("n", [1, 8])
def test_no_entry_is_named_twice(n: int) -> None:
    found = TileMinima.of(torch.zeros(2, 2 * GROUP, 2 * GROUP)).smallest(n, across=[0], down=[1])
    for tiles, offsets in zip(found.tile.tolist(), found.offset.tolist(), strict=True):
        assert len(set(zip(tiles, offsets, strict=True))) == n
