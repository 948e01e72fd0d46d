"""This file builds `.dwn` files whose checksums hold and whose contents lie: what an attacker would send."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from typing import Any

from dwindle.container.header import PREAMBLE_BYTES, Preamble
from dwindle.container.limits import Limits
from dwindle.errors import ContainerError

_ANY = Limits(header_bytes=1 << 40, graph_bytes=1 << 40)


def forge(header: dict[str, Any] | bytes, payload: bytes = b"", **promises: int) -> bytes:
    """Return a file with this header (JSON or its bytes) and no graph; `promises` override fields of the preamble."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    fields = {
        "header_codec": 0,
        "graph_codec": 0,
        "header_stored": len(raw),
        "header_raw": len(raw),
        "graph_stored": 0,
        "graph_raw": 0,
        "streams": len(payload),
        "header_crc": zlib.crc32(raw),
        "graph_crc": 0,
        "streams_crc": zlib.crc32(payload),
    }
    return Preamble(**{**fields, **promises}).pack() + raw + payload


def header(*tensors: object, **other: Any) -> dict[str, Any]:
    """Return a header that lists `tensors`."""
    return {"aliases": {}, "metadata": {}, "tensors": list(tensors), **other}


def tensor(record: object, *, name: str = "w", shape: object = (4,)) -> dict[str, Any]:
    """Return one entry of the list of tensors."""
    return {"name": name, "shape": shape, "record": record}


def dense(coder: int = 16, n_bytes: int = 16, dtype: str = "float32") -> dict[str, Any]:
    """Return a record of plain numbers."""
    return {"kind": "dense", "dtype": dtype, "values": [coder, n_bytes]}


def affine(**fields: object) -> dict[str, Any]:
    """Return a record of four 8-bit codes with one scale."""
    return {
        "kind": "affine",
        "n_bits": 8,
        "signed": True,
        "granularity": ["tensor"],
        "codes": [0, 4],
        "scale": [16, 4],
        "zero_point": [16, 4],
        **fields,
    }


def resealed(data: bytes) -> bytes:
    """Return mutated bytes of a file with every checksum made right again, so that the mutation reaches the decoder."""
    try:
        preamble = Preamble.parse(_sealed(data[:PREAMBLE_BYTES]), len(data), _ANY)
    except ContainerError:  # a preamble that no longer parses is a test of its own
        return data
    graph = PREAMBLE_BYTES + preamble.header_stored
    streams = graph + preamble.graph_stored
    sections = data[PREAMBLE_BYTES:graph], data[graph:streams], data[streams:]
    checksums = dict(zip(("header_crc", "graph_crc", "streams_crc"), map(zlib.crc32, sections), strict=True))
    return replace(preamble, **checksums).pack() + data[PREAMBLE_BYTES:]


def _sealed(front: bytes) -> bytes:
    return front[:-4] + zlib.crc32(front[:-4]).to_bytes(4, "little")
