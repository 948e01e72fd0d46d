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

from dwindle.container.bits import pack, packed_size, symbol_type, unpack
from dwindle.container.frequencies import Frequencies, fit, read_frequencies
from dwindle.container.limits import MAX_ALPHABET
from dwindle.errors import ContainerError

Symbols = npt.NDArray[Any]

PACKED: Final = 0
CONSTANT: Final = 1
ANS: Final = 2
GAPS: Final = 3

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
    histogram = np.bincount(symbols, minlength=alphabet_size)
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
    _require_alphabet(alphabet_size)
    match coded.coder:
        case 0:
            return unpack(coded.payload, n_symbols, alphabet_size)
        case 1:
            return _decode_constant(coded.payload, n_symbols, alphabet_size)
        case 2:
            return _decode_ans(coded.payload, n_symbols, alphabet_size)
        case 3:
            if alphabet_size != 2:
                raise ContainerError(f"gaps code two symbols, not {alphabet_size}")
            return _decode_gaps(coded.payload, n_symbols)[0]
        case _:
            raise ContainerError(f"coder {coded.coder} is unknown; this file needs a newer reader")


def decode_support(coded: Coded, n_symbols: int) -> tuple[npt.NDArray[np.bool_], Symbols]:
    """Return a support (n_symbols,) and the positions where it is True; gaps know them without a search.

    Raises:
        ContainerError: as `decode`.
    """
    if coded.coder == GAPS:
        symbols, places, rare = _decode_gaps(coded.payload, n_symbols)
        if rare:
            return symbols.view(np.bool_), places
    else:
        symbols = decode(coded, n_symbols, 2)
    return symbols.view(np.bool_), np.flatnonzero(symbols)


def varint(value: int) -> bytes:
    """Return `value` >= 0 in groups of seven bits, the lowest first; the top bit says that more follow.

    >>> varint(300).hex()
    'ac02'
    """
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def read_varint(payload: bytes, start: int) -> tuple[int, int]:
    """Return the number at `start` and the position behind it.

    Raises:
        ContainerError: the number is cut off, longer than five bytes, or longer than it needs to be.
    """
    value = 0
    for i, byte in enumerate(payload[start : start + 5]):
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            if byte == 0 and i > 0:
                break
            return value, start + i + 1
    raise ContainerError("a number is cut off, or longer than it needs to be")


def _decode_constant(payload: bytes, n_symbols: int, alphabet_size: int) -> Symbols:
    symbol, end = read_varint(payload, 0)
    if end != len(payload) or symbol >= alphabet_size or n_symbols == 0:
        raise ContainerError(f"a constant stream of {n_symbols} symbols says {payload[:8].hex()}")
    return np.full(n_symbols, symbol, dtype=symbol_type(alphabet_size))


def _encode_ans(symbols: Symbols, frequencies: Frequencies) -> bytes:
    ranks = symbols
    if frequencies.used[-1] != frequencies.used.size - 1:
        ranks = np.zeros(int(frequencies.used[-1]) + 1, dtype=np.int32)
        ranks[frequencies.used] = np.arange(frequencies.used.size)
        ranks = ranks[symbols]
    coder = stream.stack.AnsCoder()
    coder.encode_reverse(ranks.astype(np.int32), frequencies.model())
    return frequencies.write() + coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")


def _decode_ans(payload: bytes, n_symbols: int, alphabet_size: int) -> Symbols:
    frequencies, start = read_frequencies(payload, alphabet_size)
    if payload[start:].endswith(b"\0"):
        raise ContainerError("a stream ends in a zero byte, which its writer leaves out")
    words = payload[start:] + bytes(-(len(payload) - start) % 4)
    coder = stream.stack.AnsCoder(np.frombuffer(words, dtype="<u4").astype(np.uint32))
    ranks = coder.decode(frequencies.model(), n_symbols)
    if not coder.is_empty():
        raise ContainerError("a stream holds more than its symbols: the file or its reader is damaged")
    if frequencies.used[-1] == frequencies.used.size - 1:
        return ranks.astype(symbol_type(alphabet_size))
    return frequencies.used.astype(symbol_type(alphabet_size))[ranks]


def _encode_gaps(symbols: Symbols) -> bytes:
    """Code the distances between the rarer symbol's positions.

    A distance up to `longest` is one gap symbol; the symbol `longest` itself says "go on by `longest`, nothing here".
    """
    rare = int(2 * np.count_nonzero(symbols) <= symbols.size)
    gaps = np.diff(np.flatnonzero(symbols == rare), prepend=-1) - 1
    longest = min(_LONGEST_GAPS, key=lambda longest: _estimate_gaps(gaps, longest))
    gap_symbols = _with_escapes(gaps, longest)
    coded = encode(gap_symbols, longest + 1)
    return bytes([coded.coder << 1 | rare]) + varint(longest) + varint(gap_symbols.size) + coded.payload


def _estimate_gaps(gaps: Symbols, longest: int) -> float:
    """Return about how many bytes the gaps take with this alphabet."""
    histogram = np.bincount(gaps % longest, minlength=longest + 1)
    histogram[longest] = int((gaps // longest).sum())
    if np.count_nonzero(histogram) == 1:
        return 1.0
    return fit(histogram).n_bytes(histogram)


def _with_escapes(gaps: Symbols, longest: int) -> Symbols:
    n_escapes = gaps // longest
    symbols = np.full(int((n_escapes + 1).sum()), longest, dtype=np.uint8)
    symbols[np.cumsum(n_escapes + 1) - 1] = gaps % longest
    return symbols


def _decode_gaps(payload: bytes, n_symbols: int) -> tuple[Symbols, Symbols, int]:
    """Return the symbols, the positions of the rarer one, and which one that is."""
    if not payload:
        raise ContainerError("gaps are never empty")
    coder, rare = payload[0] >> 1, payload[0] & 1
    longest, start = read_varint(payload, 1)
    n_gap_symbols, start = read_varint(payload, start)
    if coder >= GAPS or not 0 < longest < 256 or n_gap_symbols > n_symbols:
        raise ContainerError(f"{n_gap_symbols} gaps up to {longest} by coder {coder} cannot cover {n_symbols} symbols")
    gaps = decode(Coded(coder, payload[start:]), n_gap_symbols, longest + 1)
    is_place = gaps != longest
    ends = np.cumsum(gaps + is_place, dtype=np.int64)
    if n_gap_symbols and int(ends[-1]) > n_symbols:
        raise ContainerError(f"gaps reach position {int(ends[-1])} of {n_symbols}")
    places = (ends if is_place.all() else ends[is_place]) - 1
    symbols = np.full(n_symbols, 1 - rare, dtype=np.uint8)
    symbols[places] = rare
    return symbols, places, rare


def _require_alphabet(alphabet_size: int) -> None:
    if not 0 <= alphabet_size <= MAX_ALPHABET:
        raise ContainerError(
            f"an alphabet of {alphabet_size} symbols is not possible; the format allows {MAX_ALPHABET}"
        )
