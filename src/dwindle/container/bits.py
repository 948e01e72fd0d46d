"""This file reads and writes bits, most significant first: fixed width fields, exponential Golomb numbers, varints."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dwindle.container.window import Payload
from dwindle.errors import ContainerError

_CHUNK_BYTES = 512
_MAX_PREFIX = 32
"""Longest run of leading zeros of a number; more would stand for values beyond 2^32, which no table holds."""


class BitWriter:
    """Collects bits; `payload` pads the last byte with zeros."""

    def __init__(self) -> None:
        self._parts: list[str] = []

    def fixed(self, value: int, n_bits: int) -> None:
        """Append `value` in `n_bits` bits."""
        self._parts.append(format(value, f"0{n_bits}b"))

    def golomb(self, value: int, order: int) -> None:
        """Append `value` >= 0 as an exponential Golomb number: small values take few bits."""
        quotient = (value >> order) + 1
        self._parts.append("0" * (quotient.bit_length() - 1) + format(quotient, "b"))
        if order:
            self.fixed(value & ((1 << order) - 1), order)

    def payload(self) -> bytes:
        """Return everything written so far."""
        bits = np.frombuffer("".join(self._parts).encode("ascii"), dtype=np.uint8) & 1
        return np.packbits(bits).tobytes()


class BitReader:
    """Reads from the front of `payload`, which may go on with other bytes after the bits."""

    def __init__(self, payload: Payload) -> None:
        self._payload = payload
        self._text = ""
        self._n_loaded = 0
        self._position = 0

    def fixed(self, n_bits: int) -> int:
        """Return the next `n_bits` bits as a number.

        Raises:
            ContainerError: the payload ends inside the number.
        """
        end = self._position + n_bits
        while len(self._text) < end:
            self._load()
        value = int(self._text[self._position : end], 2) if n_bits else 0
        self._position = end
        return value

    def golomb(self, order: int) -> int:
        """Return the next exponential Golomb number.

        Raises:
            ContainerError: the payload ends inside the number, or the number is too long.
        """
        n_zeros = 0
        while self.fixed(1) == 0:
            n_zeros += 1
            if n_zeros > _MAX_PREFIX:
                raise ContainerError(f"a number in a frequency table starts with more than {_MAX_PREFIX} zero bits")
        quotient = (1 << n_zeros) | self.fixed(n_zeros)
        return ((quotient - 1) << order) | self.fixed(order)

    def n_bytes_used(self) -> int:
        """Return how many bytes the bits read so far occupy.

        Raises:
            ContainerError: the padding in the last byte is not zero.
        """
        n_bytes = -(-self._position // 8)
        if "1" in self._text[self._position : n_bytes * 8]:
            raise ContainerError("the padding after a frequency table is not zero")
        return n_bytes

    def _load(self) -> None:
        chunk = self._payload[self._n_loaded : self._n_loaded + _CHUNK_BYTES]
        if not chunk:
            raise ContainerError("a frequency table ends too early")
        self._n_loaded += len(chunk)
        self._text += (np.unpackbits(np.frombuffer(chunk, dtype=np.uint8)) + ord("0")).tobytes().decode("ascii")


def golomb_lengths(values: npt.NDArray[Any], orders: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return (n_orders,) how many bits `values` (n,) take in all as exponential Golomb numbers of each order."""
    quotients = (values.astype(np.int64)[None, :] >> orders[:, None]) + 1
    exponents = np.frexp(quotients)[1].astype(np.int64)  # exact below 2^53; frexp returns floor(log2) + 1
    return (2 * exponents - 1).sum(axis=1) + orders * values.size


def symbol_width(alphabet_size: int) -> int:
    """Return the bits that one symbol takes when packed.

    >>> symbol_width(2), symbol_width(17), symbol_width(1)
    (1, 5, 0)
    """
    return max(alphabet_size - 1, 0).bit_length()


def pack(symbols: npt.NDArray[Any], alphabet_size: int) -> bytes:
    """Return `symbols` packed with the same number of bits each, the last byte padded with zeros."""
    width = symbol_width(alphabet_size)
    if width in {8, 16}:
        return symbols.astype(f">u{width // 8}").tobytes()
    columns = np.empty((symbols.size, width), dtype=np.uint8)
    for bit in range(width):
        columns[:, bit] = (symbols >> (width - 1 - bit)) & 1
    return np.packbits(columns).tobytes()


def packed_size(n_symbols: int, alphabet_size: int) -> int:
    """Return the length of `pack`'s answer in bytes."""
    return -(-n_symbols * symbol_width(alphabet_size) // 8)


def unpack(raw: bytes, n_symbols: int, alphabet_size: int, *, first_bit: int = 0) -> npt.NDArray[Any]:
    """Return `n_symbols` symbols of `pack` that start at bit `first_bit` of `raw`; uint8 up to an alphabet of 256.

    Raises:
        ContainerError: a symbol lies outside the alphabet.
    """
    width = symbol_width(alphabet_size)
    kind = symbol_type(alphabet_size)
    if width in {8, 16}:
        symbols = np.frombuffer(raw, dtype=f">u{width // 8}").astype(kind)
    else:
        bits = np.unpackbits(np.frombuffer(raw, dtype=np.uint8))
        columns = bits[first_bit : first_bit + n_symbols * width].reshape(n_symbols, width)
        symbols = np.zeros(n_symbols, dtype=kind)
        for bit in range(width):
            symbols = (symbols << 1) | columns[:, bit]
    if symbols.size and int(symbols.max()) >= alphabet_size:
        raise ContainerError(f"symbol {int(symbols.max())} lies outside an alphabet of {alphabet_size}")
    return symbols


def symbol_type(alphabet_size: int) -> type[np.uint8 | np.uint16]:
    """Return the type of decoded symbols."""
    return np.uint8 if alphabet_size <= 256 else np.uint16


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
