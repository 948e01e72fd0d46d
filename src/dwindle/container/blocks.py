"""This file compresses the header and the graph, and decompresses them under a limit.

| id | codec |
|---|---|
| 0 | stored |
| 1 | zlib (RFC 1950) |
| 2 | raw LZMA2, dictionary 1 MiB |
"""

from __future__ import annotations

import lzma
import zlib
from typing import Any, Final

from dwindle.errors import ContainerError, HeaderError

STORED: Final = 0
ZLIB: Final = 1
LZMA: Final = 2

_FILTERS: list[dict[str, Any]] = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 1 << 20}]


def compress(raw: bytes) -> tuple[int, bytes]:
    """Return (codec, `raw` in it), the shortest of the codecs."""
    choices = [
        (STORED, raw),
        (ZLIB, zlib.compress(raw, 9)),
        (LZMA, lzma.compress(raw, format=lzma.FORMAT_RAW, filters=_FILTERS)),
    ]
    return min(choices, key=lambda choice: len(choice[1]))


def decompress(codec: int, stored: bytes, raw_length: int) -> bytes:
    """Return the block, which must be `raw_length` bytes long; never more than that is allocated.

    Raises:
        ContainerError: the codec is unknown, or the bytes are not a block of this length.
    """
    if codec not in {STORED, ZLIB, LZMA}:
        raise HeaderError(f"codec {codec} is unknown; this file needs a newer reader")
    try:
        raw, is_complete = _decompress(codec, stored, raw_length)
    except (zlib.error, lzma.LZMAError) as error:
        raise ContainerError(f"a block cannot be decompressed: {error}") from error
    if not is_complete or len(raw) != raw_length:
        raise ContainerError(f"a block does not decompress to its {raw_length} bytes")
    return raw


def _decompress(codec: int, stored: bytes, raw_length: int) -> tuple[bytes, bool]:
    if codec == STORED:
        return stored, True
    # One byte more than promised is asked for, so that the end marker is reached and an overlong block shows.
    if codec == ZLIB:
        inflater = zlib.decompressobj()
        raw = inflater.decompress(stored, raw_length + 1)
        return raw, inflater.eof and not inflater.unused_data
    decoder = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=_FILTERS)
    raw = decoder.decompress(stored, raw_length + 1)
    return raw, decoder.eof and not decoder.unused_data
