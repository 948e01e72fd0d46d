"""This file lays tensors into one arena of memory: which offset each one gets, and how large the arena is.

An engine without an allocator (on a microcontroller there is none) plans before it runs: each tensor has a size and the
steps of the program between which it lives, and tensors that never live at once may lie at the same place. Finding the
smallest arena is NP-hard, so engines are greedy. Two ways of theirs stand here; both take the largest tensor first.

- `by_offset`: a tensor goes into the smallest gap between those tensors that live at the same time and are laid
  already; where no gap holds it, behind them. "Greedy by Size for Offset Calculation" of Y. Pisarchyk and J. Lee,
  "Efficient Memory Management for Deep Neural Net Inference" (2020), arXiv:2001.03288; TensorFlow Lite plans so.
- `by_objects`: a tensor goes into the first object of which nothing lives at the same time, else into the first with
  room behind all that does; where there is none, a new object of its size is made at the end of the arena. ExecuTorch
  plans so, of equal tensors the last one first. Objects share no bytes, so this arena is often larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from dwindle.errors import SettingError

LARGEST_ALIGNMENT: Final = 1 << 12
"""A page: nothing asks for more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Memory that something takes for a while.

    Attributes:
        name: of the tensor.
        n_bytes: how much.
        birth: first step at which it is there.
        death: last step at which it is there.
    """

    name: str
    n_bytes: int
    birth: int
    death: int

    def __post_init__(self) -> None:
        if self.n_bytes < 0 or self.birth > self.death:
            raise SettingError(
                f"{self.name!r} has {self.n_bytes} bytes from step {self.birth} to {self.death}; a size is 0 or more, "
                "and nothing ends before it begins"
            )

    def meets(self, other: Block) -> bool:
        """Return whether both are there at some step."""
        return self.birth <= other.death and other.birth <= self.death


@dataclass(frozen=True, slots=True, kw_only=True)
class Arena:
    """Blocks with their places.

    Attributes:
        offsets: of each block, in the order in which they were given.
        n_bytes: of the arena.
    """

    offsets: tuple[int, ...]
    n_bytes: int


def living_bytes(blocks: Sequence[Block]) -> int:
    """Return the largest sum of blocks that are there at once: no arena is smaller.

    >>> living_bytes([Block(name="a", n_bytes=6, birth=0, death=1), Block(name="b", n_bytes=4, birth=1, death=2)])
    10
    """
    changes: dict[int, int] = {}
    for block in blocks:
        changes[block.birth] = changes.get(block.birth, 0) + block.n_bytes
        changes[block.death + 1] = changes.get(block.death + 1, 0) - block.n_bytes
    total = peak = 0
    for _, change in sorted(changes.items()):
        total += change
        peak = max(peak, total)
    return peak


def by_offset(blocks: Sequence[Block], *, alignment: int = 16) -> Arena:
    """Return an arena in which each block lies in the smallest gap that holds it, the largest block first.

    Args:
        blocks: what has to be laid.
        alignment: every offset is a multiple of it, in bytes.

    Raises:
        SettingError: `alignment` is no power of two of up to 4,096.

    >>> a, b, c = (Block(name=n, n_bytes=s, birth=f, death=t) for n, s, f, t in [("a", 64, 0, 1), ("b", 32, 1, 2),
    ...                                                                          ("c", 48, 2, 3)])
    >>> by_offset([a, b, c])
    Arena(offsets=(0, 64, 0), n_bytes=96)
    """
    _require_alignment(alignment)
    offsets = [0] * len(blocks)
    order = _largest_first(blocks)
    births, deaths = (np.array([life[i] for i in order], dtype=np.int64) for life in _lives(blocks))
    for place, index in enumerate(order):
        block = blocks[index]
        meets = (births[:place] <= block.death) & (deaths[:place] >= block.birth)
        laid = [order[i] for i in np.flatnonzero(meets)]
        met = sorted((offsets[i], offsets[i] + blocks[i].n_bytes) for i in laid)
        offsets[index] = _smallest_gap(met, block.n_bytes, alignment) if block.n_bytes else 0
    return Arena(offsets=tuple(offsets), n_bytes=_end(blocks, offsets))


@dataclass(slots=True)
class _Object:
    """A part of the arena that blocks share; `blocks` are those in it, with their ends, counted from its start."""

    start: int
    n_bytes: int
    blocks: list[tuple[Block, int]] = field(default_factory=list[tuple[Block, int]])

    def place_for(self, block: Block) -> int:
        """Return the first byte behind all blocks here that meet `block`."""
        return max((end for other, end in self.blocks if other.meets(block)), default=0)


def by_objects(blocks: Sequence[Block], *, alignment: int = 16) -> Arena:
    """Return an arena of objects that blocks share: each in the first object with room, the largest block first.

    Args:
        blocks: what has to be laid.
        alignment: every size is rounded up to a multiple of it, in bytes.

    Raises:
        SettingError: `alignment` is no power of two of up to 4,096.

    >>> a, b, c = (Block(name=n, n_bytes=s, birth=f, death=t) for n, s, f, t in [("a", 64, 0, 0), ("b", 32, 1, 2),
    ...                                                                          ("c", 48, 2, 3)])
    >>> by_objects([a, b, c])
    Arena(offsets=(0, 64, 0), n_bytes=96)
    """
    _require_alignment(alignment)
    offsets = [0] * len(blocks)
    objects: list[_Object] = []
    n_bytes = 0
    for index in sorted(range(len(blocks)), key=lambda i: (-blocks[i].n_bytes, -blocks[i].birth)):
        block, size = blocks[index], _rounded(blocks[index].n_bytes, alignment)
        empty = (o for o in objects if o.place_for(block) == 0)
        behind = (o for o in objects if o.place_for(block) + size <= o.n_bytes)
        target = next(empty, None) or next(behind, None)
        if target is None:
            target = _Object(start=n_bytes, n_bytes=size)
            objects.append(target)
            n_bytes += size
        place = target.place_for(block)
        target.blocks.append((block, place + size))
        offsets[index] = target.start + place
    return Arena(offsets=tuple(offsets), n_bytes=n_bytes)


def _lives(blocks: Sequence[Block]) -> tuple[list[int], list[int]]:
    return [block.birth for block in blocks], [block.death for block in blocks]


def _largest_first(blocks: Sequence[Block]) -> list[int]:
    return sorted(range(len(blocks)), key=lambda i: (-blocks[i].n_bytes, blocks[i].birth))


def _smallest_gap(met: Sequence[tuple[int, int]], n_bytes: int, alignment: int) -> int:
    """Return where `n_bytes` fit most tightly between the spans `met`, which are sorted; else behind them all."""
    best, tightest, end = -1, -1, 0
    for start, stop in met:
        room = start - end
        if room >= n_bytes and (best < 0 or room < tightest):
            best, tightest = end, room
        end = max(end, _rounded(stop, alignment))
    return end if best < 0 else best


def _end(blocks: Sequence[Block], offsets: Sequence[int]) -> int:
    return max((offset + block.n_bytes for block, offset in zip(blocks, offsets, strict=True)), default=0)


def _rounded(n_bytes: int, alignment: int) -> int:
    return -(-n_bytes // alignment) * alignment


def _require_alignment(alignment: int) -> None:
    if not 1 <= alignment <= LARGEST_ALIGNMENT or alignment & (alignment - 1):
        raise SettingError(f"alignment must be a power of two from 1 to {LARGEST_ALIGNMENT}, got {alignment}")
