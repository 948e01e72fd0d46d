"""This file holds the entropy coders: symbols below an alphabet's size into bytes, under ids that never change.

| id | coder | payload |
|---|---|---|
| 0 | packed | the same number of bits for each symbol |
| 1 | constant | one number: the symbol that all are |
| 2 | ans | a frequency table, then 32-bit words of an asymmetric numeral system (Duda 2009) |
| 3 | gaps | two symbols only: distances between the rarer ones, themselves coded by one of the above |
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from constriction import stream  # pyright: ignore[reportAttributeAccessIssue] (a native module without stubs)

from dwindle.container.bits import pack, packed_size, symbol_type, varint
from dwindle.container.frequencies import Frequencies, fit
from dwindle.container.limits import MAX_ALPHABET
from dwindle.container.symbols import ANS, CONSTANT, GAPS, PACKED, PIECE, open_symbols
from dwindle.errors import ContainerError

Symbols = npt.NDArray[Any]

_LONGEST_GAPS: Final = (15, 31, 63, 127, 255)
"""Gap alphabets to choose from: a shorter one has a shorter table, a longer one fewer escapes."""

_SLOWER: Final = 1.0025
"""Gaps may be a quarter percent longer than plain ANS, because at 90 % sparsity they decode three times as fast."""


class Coded(NamedTuple):
    """A payload and the coder that reads it."""

    coder: int
    payload: bytes


def encode(symbols: Symbols, alphabet_size: int) -> Coded:
    """Return flat `symbols` in the shortest of the coders.

    Raises:
        ContainerError: the alphabet is larger than the format allows.
    """
    _require_alphabet(alphabet_size)
    if symbols.size == 0:
        return Coded(PACKED, b"")
    histogram = _histogram(symbols, alphabet_size)
    if np.count_nonzero(histogram) == 1:
        return Coded(CONSTANT, varint(int(symbols[0])))
    frequencies = fit(histogram)
    ans_bytes = frequencies.n_bytes(histogram)
    size = packed_size(symbols.size, alphabet_size)
    if alphabet_size == 2 and symbols.size > _LONGEST_GAPS[0]:
        gaps = _encode_gaps(symbols)
        if len(gaps) < min(size, _SLOWER * ans_bytes):
            return Coded(GAPS, gaps)
    if ans_bytes < size:
        payload = _encode_ans(symbols, frequencies)
        if len(payload) < size:
            return Coded(ANS, payload)
    return Coded(PACKED, pack(symbols, alphabet_size))


def decode(coded: Coded, n_symbols: int, alphabet_size: int) -> Symbols:
    """Return the `n_symbols` symbols behind `encode`: uint8 up to an alphabet of 256, else uint16.

    Raises:
        ContainerError: the payload is not what this coder writes.
    """
    symbols = open_symbols(coded.coder, coded.payload, n_symbols, alphabet_size)
    found = np.empty(n_symbols, dtype=symbol_type(alphabet_size))
    for start in range(0, n_symbols, PIECE):
        found[start : start + PIECE] = symbols.take(min(PIECE, n_symbols - start))
    symbols.finish()
    return found


def _histogram(symbols: Symbols, alphabet_size: int) -> Symbols:
    if alphabet_size == 2:  # a support: sixty times as fast as the general way, which makes int64 of every symbol
        n_ones = int(np.count_nonzero(symbols))
        return np.array([symbols.size - n_ones, n_ones], dtype=np.int64)
    return np.bincount(symbols, minlength=alphabet_size)


def _encode_ans(symbols: Symbols, frequencies: Frequencies) -> bytes:
    ranks = symbols
    if frequencies.used[-1] != frequencies.used.size - 1:
        ranks = np.zeros(int(frequencies.used[-1]) + 1, dtype=np.int32)
        ranks[frequencies.used] = np.arange(frequencies.used.size)
        ranks = ranks[symbols]
    coder = stream.stack.AnsCoder()
    coder.encode_reverse(ranks.astype(np.int32), frequencies.model())
    return frequencies.write() + coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")


def _encode_gaps(symbols: Symbols) -> bytes:
    """Code the distances between the rarer symbol's positions.

    A distance up to `longest` is one gap symbol; the symbol `longest` itself says "go on by `longest`, nothing here".
    """
    rare = int(2 * np.count_nonzero(symbols) <= symbols.size)
    gaps = np.diff(np.flatnonzero(symbols == rare), prepend=-1) - 1
    occurrences = np.bincount(gaps)
    lengths = np.flatnonzero(occurrences)
    occurrences = occurrences[lengths]
    longest = min(_LONGEST_GAPS, key=lambda longest: _estimate_gaps(lengths, occurrences, longest=longest))
    gap_symbols = _with_escapes(gaps, longest)
    coded = encode(gap_symbols, longest + 1)
    return bytes([coded.coder << 1 | rare]) + varint(longest) + varint(gap_symbols.size) + coded.payload


def _estimate_gaps(lengths: Symbols, occurrences: Symbols, *, longest: int) -> float:
    """Return about how many bytes gaps of these lengths, each so often, take with this alphabet."""
    histogram = np.zeros(longest + 1, dtype=np.int64)
    np.add.at(histogram, lengths % longest, occurrences)
    histogram[longest] = int((lengths // longest * occurrences).sum())
    if np.count_nonzero(histogram) == 1:
        return 1.0
    return fit(histogram).n_bytes(histogram)


def _with_escapes(gaps: Symbols, longest: int) -> Symbols:
    n_escapes = gaps // longest  # without `%`, which takes NumPy seven times as long
    rest = (gaps - n_escapes * longest).astype(np.uint8)
    n_escapes += 1
    ends = np.cumsum(n_escapes)
    symbols = np.full(int(ends[-1]), longest, dtype=np.uint8)
    symbols[ends - 1] = rest
    return symbols


def _require_alphabet(alphabet_size: int) -> None:
    if not 0 <= alphabet_size <= MAX_ALPHABET:
        raise ContainerError(
            f"an alphabet of {alphabet_size} symbols is not possible; the format allows {MAX_ALPHABET}"
        )
