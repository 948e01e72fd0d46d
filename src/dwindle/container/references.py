"""This file finds the names of the weights that lie outside an ONNX model, in its bytes, without the onnx package.

Of Protocol Buffers only what the walk needs is read: ModelProto.graph = 7, GraphProto.initializer = 5,
TensorProto.name = 8, TensorProto.data_location = 14 with EXTERNAL = 1 (onnx.proto, versions 3 to 13 of the IR).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dwindle.errors import ContainerError

_GRAPH: Final = 7
_INITIALIZER: Final = 5
_NAME: Final = 8
_DATA_LOCATION: Final = 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT: Final = 10


def external_names(graph: bytes) -> tuple[str, ...]:
    """Return the names of initializers without data, in the order of the graph.

    Raises:
        ContainerError: the bytes are not a Protocol Buffers message.
    """
    names: list[str] = []
    for field, value in _fields(memoryview(graph)):
        if field != _GRAPH or isinstance(value, int):
            continue
        for inner, tensor in _fields(value):
            if inner == _INITIALIZER and not isinstance(tensor, int):
                name, is_external = _tensor(tensor)
                if is_external:
                    names.append(name)
    return tuple(names)


def _tensor(message: memoryview) -> tuple[str, bool]:
    name, is_external = "", False
    for field, value in _fields(message):
        if field == _NAME and not isinstance(value, int):
            name = bytes(value).decode("utf-8", "replace")
        elif field == _DATA_LOCATION:
            is_external = value == 1
    return name, is_external


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, number or bytes) of one message."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        kind = key & 7
        if kind == _VARINT:
            value, position = _varint(message, position)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            length, position = _varint(message, position)
        else:
            length = {_FIXED64: 8, _FIXED32: 4}.get(kind, len(message) + 1)
        if position + length > len(message):
            raise ContainerError("the graph is not an ONNX model: a field is cut off")
        yield key >> 3, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for i, byte in enumerate(message[position : position + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, position + i + 1
    raise ContainerError("the graph is not an ONNX model: a number is cut off")
