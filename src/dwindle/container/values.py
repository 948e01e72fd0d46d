"""This file stores plain numbers (biases, scales, batch norms) without loss: bytes, one repeated, or byte planes.

| id | coder | payload |
|---|---|---|
| 16 | stored | the numbers, little-endian |
| 17 | repeated | one number that all are |
| 18 | planes | byte 0 of every number, then byte 1, ...: each a coder id, a length, and symbols of an alphabet of 256 |
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dwindle.container import coders
from dwindle.container.coders import Coded
from dwindle.errors import ContainerError

Array = npt.NDArray[Any]

STORED: Final = 16
REPEATED: Final = 17
PLANES: Final = 18

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
        parts += bytes([coded.coder]) + coders.varint(len(coded.payload)) + coded.payload
    return Coded(PLANES, bytes(parts)) if len(parts) < len(stored) else Coded(STORED, stored)


def decode_values(coded: Coded, n_values: int, dtype: str) -> Array:
    """Return the flat numbers behind `encode_values`; `dtype` is a key of DTYPES.

    Raises:
        ContainerError: the payload is not what this coder writes.
    """
    kind = DTYPES[dtype]
    match coded.coder:
        case 16:
            raw, expected = coded.payload, n_values * kind.itemsize
        case 17:
            raw, expected = coded.payload, kind.itemsize
        case 18:
            raw, expected = _join_planes(coded.payload, n_values, kind.itemsize), n_values * kind.itemsize
        case _:
            raise ContainerError(f"coder {coded.coder} for plain numbers is unknown; this file needs a newer reader")
    if len(raw) != expected or (coded.coder == REPEATED and n_values == 0):
        raise ContainerError(f"{n_values} numbers of type {dtype} do not fit {len(raw)} bytes")
    if dtype == "bool" and raw.translate(None, b"\0\1"):
        raise ContainerError("a truth value is neither 0 nor 1")
    values = np.frombuffer(raw, dtype=kind).astype(kind.newbyteorder("="))
    return np.full(n_values, values[0]) if coded.coder == REPEATED else values


def _join_planes(payload: bytes, n_values: int, itemsize: int) -> bytes:
    joined = np.empty((n_values, itemsize), dtype=np.uint8)
    position = 0
    for plane in range(itemsize):
        coder = payload[position] if position < len(payload) else -1
        length, start = coders.read_varint(payload, position + 1)
        position = start + length
        if position > len(payload):
            raise ContainerError(f"byte plane {plane} of {itemsize} is cut off")
        joined[:, plane] = coders.decode(Coded(coder, payload[start:position]), n_values, 256)
    if position != len(payload):
        raise ContainerError(f"{len(payload) - position} bytes follow the last byte plane")
    return joined.tobytes()
