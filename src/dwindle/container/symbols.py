"""This file decodes symbols piece by piece, so that a tensor of any size takes the memory of one piece besides its own.

Each coder of `coders.py` has its stream here. A stream is read from front to back by `take`; `finish` then checks that
nothing is left over, which would mean that the file or its reader is damaged.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
from constriction import stream  # pyright: ignore[reportAttributeAccessIssue] (a native module without stubs)

from dwindle.container.bits import packed_size, read_varint, symbol_type, symbol_width, unpack
from dwindle.container.frequencies import PRECISION, read_frequencies
from dwindle.container.limits import MAX_ALPHABET
from dwindle.container.window import Payload, part_of
from dwindle.errors import ContainerError

Symbols = npt.NDArray[Any]

PACKED: Final = 0
CONSTANT: Final = 1
ANS: Final = 2
GAPS: Final = 3

PIECE: Final = 1 << 17
"""Symbols that are best taken at once: their temporaries stay in a processor's cache, calls cost next to nothing."""
_LOADED_WORDS: Final = 1 << 18
"""Words of an ANS stream that are in memory at once, 1 MiB."""
_SPARE_WORDS: Final = 4
"""The coder's state is refilled from up to two words; twice that is left, so that only the last block runs empty."""
_GAPS_AT_ONCE: Final = 1 << 14
_VARINT_BYTES: Final = 5
_GAP_FIELDS_BYTES: Final = 1 + 2 * _VARINT_BYTES


class SymbolStream(Protocol):
    """Symbols of one stream, in order."""

    def take(self, n: int) -> Symbols:
        """Return the next `n` symbols, uint8 up to an alphabet of 256, else uint16.

        Raises:
            ContainerError: the payload is not what its coder writes.
        """
        ...

    def finish(self) -> None:
        """Check what can only be checked at the end; every symbol must have been taken.

        Raises:
            ContainerError: something is left over.
        """
        ...


def open_symbols(coder: int, payload: Payload, n_symbols: int, alphabet_size: int) -> SymbolStream:  # ruff: ignore[too-many-positional-arguments] (what a header says of a stream, in its order)
    """Return the stream of `n_symbols` symbols behind `payload`.

    Raises:
        ContainerError: the coder is unknown, or the payload cannot be its.
    """
    if not 0 <= alphabet_size <= MAX_ALPHABET:
        raise ContainerError(
            f"an alphabet of {alphabet_size} symbols is not possible; the format allows {MAX_ALPHABET}"
        )
    match coder:
        case 0:
            return PackedStream(payload, n_symbols, alphabet_size)
        case 1:
            return ConstantStream(payload, n_symbols, alphabet_size)
        case 2:
            return AnsStream(payload, alphabet_size)
        case 3:
            return GapStream(payload, n_symbols, alphabet_size)
        case _:
            raise ContainerError(f"coder {coder} is unknown; this file needs a newer reader")


def take_places(symbols: SymbolStream, n: int) -> Symbols:
    """Return which of the next `n` symbols, all 0 or 1, are 1: ascending, counted from the next symbol.

    Raises:
        ContainerError: as `take`.
    """
    if isinstance(symbols, GapStream):
        return symbols.places(n)
    return np.flatnonzero(symbols.take(n).view(np.bool_))


class PackedStream:
    """Coder 0: the same number of bits for each symbol."""

    def __init__(self, payload: Payload, n_symbols: int, alphabet_size: int) -> None:
        self._width = symbol_width(alphabet_size)
        if len(payload) != packed_size(n_symbols, alphabet_size):
            raise ContainerError(f"{n_symbols} symbols of {self._width} bits do not fit {len(payload)} bytes")
        self._payload, self._alphabet_size = payload, alphabet_size
        self._n_taken = 0

    def take(self, n: int) -> Symbols:
        """Return the next `n` symbols."""
        start = self._n_taken * self._width
        self._n_taken += n
        raw = self._payload[start // 8 : -(-self._n_taken * self._width // 8)]
        return unpack(raw, n, self._alphabet_size, first_bit=start % 8)

    def finish(self) -> None:
        """Check that the padding is zero."""
        n_bits = self._n_taken * self._width
        if n_bits % 8 and self._payload[n_bits // 8 : n_bits // 8 + 1][0] & (0xFF >> n_bits % 8):
            raise ContainerError("the padding after packed symbols is not zero")


class ConstantStream:
    """Coder 1: one symbol that all are."""

    def __init__(self, payload: Payload, n_symbols: int, alphabet_size: int) -> None:
        self._symbol, end = read_varint(payload[:_VARINT_BYTES], 0)
        if end != len(payload) or self._symbol >= alphabet_size or n_symbols == 0:
            raise ContainerError(f"a constant stream of {n_symbols} symbols says {payload[:8].hex()}")
        self._type = symbol_type(alphabet_size)

    def take(self, n: int) -> Symbols:
        """Return the next `n` symbols."""
        return np.full(n, self._symbol, dtype=self._type)

    def finish(self) -> None:
        """Nothing can be left over."""


class AnsStream:
    """Coder 2: a frequency table and words, of which the last is read first.

    A stack of words can be read in blocks from its end: the state of the coder, which `get_compressed` returns as its
    last two words, goes on top of the block before. A symbol takes at most 24 bits, so the words that `n` symbols can
    need are known before they are decoded.
    """

    def __init__(self, payload: Payload, alphabet_size: int) -> None:
        frequencies, start = read_frequencies(payload, alphabet_size)
        if len(payload) > start and payload[len(payload) - 1 :] == b"\0":
            raise ContainerError("a stream ends in a zero byte, which its writer leaves out")
        self._model = frequencies.model()
        kind, n_used = symbol_type(alphabet_size), frequencies.used.size
        self._type = kind
        self._symbols = None if frequencies.used[-1] == n_used - 1 else frequencies.used.astype(kind)
        self._words = part_of(payload, start, len(payload) - start)
        self._n_below = -(-len(self._words) // 4)
        self._coder = stream.stack.AnsCoder()

    def take(self, n: int) -> Symbols:
        """Return the next `n` symbols."""
        n_needed = -(-n * PRECISION // 32) + _SPARE_WORDS
        if self._n_below and int(self._coder.num_words()) < n_needed:
            self._load(max(n_needed, _LOADED_WORDS))
        ranks = self._coder.decode(self._model, n)
        return ranks.astype(self._type) if self._symbols is None else self._symbols[ranks]

    def finish(self) -> None:
        """Check that all words were read and that the state is the one that the encoder started from."""
        if self._n_below or not self._coder.is_empty():
            raise ContainerError("a stream holds more than its symbols: the file or its reader is damaged")

    def _load(self, n_words: int) -> None:
        """Put the block below under what is left of the one above."""
        start = max(self._n_below - n_words, 0)
        raw = self._words[4 * start : 4 * self._n_below]
        raw += bytes(-len(raw) % 4)  # only the last word of a stream can lack bytes
        words, left = np.frombuffer(raw, dtype="<u4"), self._coder.get_compressed()
        self._coder = stream.stack.AnsCoder(np.concatenate([words, left], dtype=np.uint32))
        self._n_below = start


class GapStream:
    """Coder 3: distances between the positions of the rarer of two symbols."""

    def __init__(self, payload: Payload, n_symbols: int, alphabet_size: int) -> None:
        front = payload[:_GAP_FIELDS_BYTES]
        if alphabet_size != 2:
            raise ContainerError(f"gaps code two symbols, not {alphabet_size}")
        if not front:
            raise ContainerError("gaps are never empty")
        coder, self._rare = front[0] >> 1, front[0] & 1
        self._longest, start = read_varint(front, 1)
        self._n_gaps, start = read_varint(front, start)
        if coder >= GAPS or not 0 < self._longest < 256 or self._n_gaps > n_symbols:
            raise ContainerError(
                f"{self._n_gaps} gaps up to {self._longest} by coder {coder} cannot cover {n_symbols} symbols"
            )
        symbols = part_of(payload, start, len(payload) - start)
        self._gaps = open_symbols(coder, symbols, self._n_gaps, self._longest + 1)
        self._n_symbols = n_symbols
        self._n_taken = 0
        self._end = 0
        self._waiting: Symbols = np.zeros(0, dtype=np.int64)

    def take(self, n: int) -> Symbols:
        """Return the next `n` symbols."""
        symbols = np.full(n, 1 - self._rare, dtype=np.uint8)
        symbols[self._rarer(n)] = self._rare
        return symbols

    def places(self, n: int) -> Symbols:
        """Return which of the next `n` symbols are 1; gaps between ones know that without a search."""
        return self._rarer(n) if self._rare else np.flatnonzero(self.take(n))

    def finish(self) -> None:
        """Check that the gaps end inside and that none of them names a place."""
        while self._n_gaps:
            self._decode()
        self._gaps.finish()

    def _rarer(self, n: int) -> Symbols:
        """Return where the rarer symbol is among the next `n`."""
        start, stop = self._n_taken, self._n_taken + n
        parts = [self._waiting]
        while self._n_gaps and self._end < stop:
            parts.append(self._decode())
        places = np.concatenate(parts) if len(parts) > 1 else parts[0]
        n_inside = int(np.searchsorted(places, stop))
        self._waiting, self._n_taken = places[n_inside:], stop
        return places[:n_inside] - start

    def _decode(self) -> Symbols:
        """Return the positions that the next gap symbols lead to."""
        n = min(self._n_gaps, _GAPS_AT_ONCE)
        self._n_gaps -= n
        gaps = self._gaps.take(n)
        is_place = gaps != self._longest
        ends = np.cumsum(gaps + is_place, dtype=np.int64)
        ends += self._end
        self._end = int(ends[-1])
        if self._end > self._n_symbols:
            raise ContainerError(f"gaps reach position {self._end} of {self._n_symbols}")
        return (ends if is_place.all() else ends[is_place]) - 1
