"""This file tests arenas: nothing that lives at once overlaps, and small ones are as small as can be."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwindle.bench.arena import Arena, Block, by_objects, by_offset, living_bytes
from dwindle.errors import SettingError

LAYERS = [by_offset, by_objects]
BLOCKS = st.lists(
    st.tuples(st.integers(0, 300), st.integers(0, 12), st.integers(0, 5)).map(
        lambda t: Block(name="t", n_bytes=t[0], birth=t[1], death=t[1] + t[2])
    ),
    max_size=14,
)
ALIGNMENTS = st.sampled_from([1, 4, 16, 64])


def block(n_bytes: int, birth: int, death: int) -> Block:
    return Block(name=f"{n_bytes}", n_bytes=n_bytes, birth=birth, death=death)


def require_sound(blocks: Sequence[Block], arena: Arena, alignment: int) -> None:
    spans = [(o, o + b.n_bytes) for b, o in zip(blocks, arena.offsets, strict=True)]
    for (a, one), (b, other) in itertools.combinations(zip(blocks, spans, strict=True), 2):
        assert not a.meets(b) or one[1] <= other[0] or other[1] <= one[0], (a, b)
    assert all(o % alignment == 0 and o >= 0 for o in arena.offsets)
    assert all(stop <= arena.n_bytes for _, stop in spans)


@pytest.mark.parametrize("lay", LAYERS)
@given(blocks=BLOCKS, alignment=ALIGNMENTS)
def test_what_lives_at_once_never_overlaps(lay: object, blocks: list[Block], alignment: int) -> None:
    arena = lay(blocks, alignment=alignment)  # type: ignore[operator]
    require_sound(blocks, arena, alignment)
    rounded = [-(-b.n_bytes // alignment) * alignment for b in blocks]
    assert living_bytes(blocks) <= arena.n_bytes <= sum(rounded)


@given(BLOCKS)
def test_the_largest_sum_is_that_of_some_step(blocks: list[Block]) -> None:
    steps = {step for b in blocks for step in (b.birth, b.death)}
    sums = [sum(b.n_bytes for b in blocks if b.birth <= step <= b.death) for step in steps]
    assert living_bytes(blocks) == max(sums, default=0)


@pytest.mark.parametrize("lay", LAYERS)
def test_a_chain_takes_its_two_largest_neighbours(lay: object) -> None:
    chain = [block(64, 0, 1), block(128, 1, 2), block(96, 2, 3), block(16, 3, 4)]
    assert lay(chain).n_bytes == 128 + 96  # type: ignore[operator]


def test_a_tensor_goes_into_the_smallest_gap_that_holds_it() -> None:
    # At step 1 the first three lie one behind the other; two of them go, and leave gaps of 48 and of 32 bytes.
    blocks = [block(64, 0, 9), block(48, 0, 1), block(40, 0, 9), block(32, 0, 1), block(24, 0, 9), block(20, 5, 6)]
    arena = by_offset(blocks, alignment=8)
    assert arena.offsets[5] == arena.offsets[3]
    assert arena.n_bytes == living_bytes(blocks)


def test_objects_share_no_bytes_and_equal_tensors_are_laid_last_one_first() -> None:
    # Three live at once at most; but who is laid from the end needs a fourth place, as ExecuTorch does for ResNet-20.
    residual = [block(16, 0, 3), block(16, 1, 2), block(16, 2, 3), block(16, 3, 6), block(16, 4, 5), block(16, 5, 6)]
    assert by_offset(residual).n_bytes == living_bytes(residual) == 48
    assert by_objects(residual).n_bytes == 64
    smaller = [block(100, 0, 1), block(60, 2, 3), block(30, 3, 4)]
    assert by_objects(smaller, alignment=1).offsets == (0, 0, 60)  # inside an object that is large enough for both


def test_nothing_takes_nothing() -> None:
    for lay in LAYERS:
        assert lay([]) == Arena(offsets=(), n_bytes=0)
        assert lay([block(0, 0, 5), block(0, 0, 5)]).n_bytes == 0


@pytest.mark.parametrize("alignment", [0, -16, 3, 8192])
def test_alignments_that_cannot_be_are_refused(alignment: int) -> None:
    for lay in LAYERS:
        with pytest.raises(SettingError, match="alignment must be a power of two"):
            lay([block(1, 0, 0)], alignment=alignment)


def test_blocks_that_cannot_be_are_refused() -> None:
    with pytest.raises(SettingError, match="a size is 0 or more"):
        block(-1, 0, 0)
    with pytest.raises(SettingError, match="nothing ends before it begins"):
        block(1, 2, 1)
