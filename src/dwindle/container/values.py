"""This file stores plain numbers (biases, scales, batch norms) without loss: bytes, one repeated, or byte planes.

| id | coder | payload |
|---|---|---|
| 16 | stored | the numbers, little-endian |
| 17 | repeated | one number that all are |
| 18 | planes | byte 0 of every number, then byte 1, ...: each a coder id, a length, and symbols of an alphabet of 256 |
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from dwindle.container import coders
from dwindle.container.bits import read_varint, varint
from dwindle.container.coders import Coded
from dwindle.container.symbols import PIECE, SymbolStream, open_symbols
from dwindle.container.window import Payload, part_of
from dwindle.errors import ContainerError

Array = npt.NDArray[Any]

STORED: Final = 16
REPEATED: Final = 17
PLANES: Final = 18
_PLANE_FIELDS_BYTES: Final = 6

DTYPES: Final = {
    name: np.dtype(name).newbyteorder("<")
    for name in (
        *("float16", "float32", "float64", "bool"),
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    )
}
"""Types of plain numbers by the names they have in a header."""


def encode_values(values: Array) -> Coded:
    """Return `values` (any shape) in the shortest of the coders.

    Raises:
        ContainerError: the type is not one the format knows.
    """
    if values.dtype.name not in DTYPES:
        known = ", ".join(DTYPES)
        raise ContainerError(f"numbers of type {values.dtype} cannot be stored; convert them to one of {known}")
    stored = np.ascontiguousarray(values).astype(DTYPES[values.dtype.name], copy=False).tobytes()
    itemsize = values.dtype.itemsize
    if values.size == 0:
        return Coded(STORED, b"")
    if stored == stored[:itemsize] * values.size:
        return Coded(REPEATED, stored[:itemsize])
    parts = bytearray()
    for plane in np.frombuffer(stored, dtype=np.uint8).reshape(-1, itemsize).T:
        coded = coders.encode(np.ascontiguousarray(plane), 256)
        parts += bytes([coded.coder]) + varint(len(coded.payload)) + coded.payload
    return Coded(PLANES, bytes(parts)) if len(parts) < len(stored) else Coded(STORED, stored)


def decode_values(coded: Coded, n_values: int, dtype: str) -> Array:
    """Return the flat numbers behind `encode_values`; `dtype` is a key of DTYPES.

    Raises:
        ContainerError: the payload is not what this coder writes.
    """
    numbers = open_numbers(coded.coder, coded.payload, n_values, dtype)
    values = np.empty(n_values, dtype=dtype)
    for start in range(0, n_values, PIECE):
        values[start : start + PIECE] = numbers.take(min(PIECE, n_values - start))
    numbers.finish()
    return values


def open_numbers(coder: int, payload: Payload, n_values: int, dtype: str) -> NumberStream:  # ruff: ignore[too-many-positional-arguments] (what a header says of a stream, in its order)
    """Return the stream of `n_values` numbers behind `payload`; `dtype` is a key of DTYPES.

    Raises:
        ContainerError: the coder is unknown, or the payload cannot be its.
    """
    itemsize = DTYPES[dtype].itemsize
    if coder == PLANES:
        return NumberStream(_Planes(payload, n_values, itemsize), dtype)
    if coder not in {STORED, REPEATED}:
        raise ContainerError(f"coder {coder} for plain numbers is unknown; this file needs a newer reader")
    n_bytes = itemsize * (1 if coder == REPEATED else n_values)
    if len(payload) != n_bytes or (coder == REPEATED and n_values == 0):
        raise ContainerError(f"{n_values} numbers of type {dtype} do not fit {len(payload)} bytes")
    return NumberStream(_Repeated(payload[:n_bytes]) if coder == REPEATED else _Stored(payload, itemsize), dtype)


class NumberStream:
    """Plain numbers of one stream, in order: `take` reads on, `finish` checks that nothing is left over."""

    def __init__(self, raw: _Raw, dtype: str) -> None:
        self._raw, self._kind = raw, DTYPES[dtype]

    def take(self, n: int) -> Array:
        """Return the next `n` numbers, in the byte order of this machine.

        Raises:
            ContainerError: the payload is not what its coder writes.
        """
        raw = self._raw.take(n)
        if self._kind.kind == "b" and raw.translate(None, b"\0\1"):
            raise ContainerError("a truth value is neither 0 nor 1")
        return np.frombuffer(raw, dtype=self._kind).astype(self._kind.newbyteorder("="), copy=False)

    def finish(self) -> None:
        """Check that nothing is left over.

        Raises:
            ContainerError: something is.
        """
        self._raw.finish()


class _Raw(Protocol):
    """Little-endian bytes of numbers."""

    def take(self, n: int) -> bytes: ...

    def finish(self) -> None: ...


class _Stored:
    """Coder 16: the bytes themselves."""

    def __init__(self, payload: Payload, itemsize: int) -> None:
        self._payload, self._itemsize, self._position = payload, itemsize, 0

    def take(self, n: int) -> bytes:
        start, self._position = self._position, self._position + n * self._itemsize
        return self._payload[start : self._position]

    def finish(self) -> None:
        pass


class _Repeated:
    """Coder 17: the bytes of one number."""

    def __init__(self, number: bytes) -> None:
        self._number = number

    def take(self, n: int) -> bytes:
        return self._number * n

    def finish(self) -> None:
        pass


class _Planes:
    """Coder 18: a stream of symbols for each byte of the numbers."""

    def __init__(self, payload: Payload, n_values: int, itemsize: int) -> None:
        self._planes: list[SymbolStream] = []
        position = 0
        for plane in range(itemsize):
            front = payload[position : position + _PLANE_FIELDS_BYTES]
            coder = front[0] if front else -1
            length, n_used = read_varint(front, 1)
            position += n_used
            if position + length > len(payload):
                raise ContainerError(f"byte plane {plane} of {itemsize} is cut off")
            self._planes.append(open_symbols(coder, part_of(payload, position, length), n_values, 256))
            position += length
        if position != len(payload):
            raise ContainerError(f"{len(payload) - position} bytes follow the last byte plane")

    def take(self, n: int) -> bytes:
        joined = np.empty((n, len(self._planes)), dtype=np.uint8)
        for plane, symbols in enumerate(self._planes):
            joined[:, plane] = symbols.take(n)
        return joined.tobytes()

    def finish(self) -> None:
        for symbols in self._planes:
            symbols.finish()
