"""This file reads and writes the first bytes of a `.dwn` file: the preamble of fixed size, and the header's JSON."""

from __future__ import annotations

import json
import math
import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any, Final, Self, cast

from dwindle.container.limits import Limits
from dwindle.container.plan import Plan, parse_name, parse_tensors
from dwindle.errors import ChecksumError, ContainerError, HeaderError, TruncatedError, VersionError

MAGIC: Final = b"\x89DWN\r\n\x1a\n"
"""A byte that is no text, a name, and line ends that a transfer in text mode would change."""
FORMAT_VERSIONS: Final = (1, 2)
"""Version 2 adds records of kind `half`; a file without one is of version 1, which older readers know."""
_FIELDS: Final = struct.Struct("<HBBIIIIQIII")
PREAMBLE_BYTES: Final = len(MAGIC) + _FIELDS.size + 4
_OTHERS: Final = (
    (re.compile(rb"\x08[\x01-\x1f][\x12\x1a\x22\x2a\x32\x3a\x42]", re.DOTALL), "an ONNX file"),
    (re.compile(rb"....TFL3", re.DOTALL), "a LiteRT file (.tflite)"),
    (re.compile(rb"....ET[0-9][0-9]", re.DOTALL), "an ExecuTorch file (.pte)"),
    (re.compile(rb"PK\x03\x04"), "a zip archive, such as a PyTorch checkpoint or a .npz"),
    (re.compile(rb"\s*<[?a-z]"), "an XML file, such as OpenVINO's"),
)
"""First bytes of what is mistaken for a .dwn file: the field `ir_version` of a model and the key of its next field;
identifiers of flatbuffers behind four bytes of an offset; signatures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preamble:
    """Codecs, lengths in bytes and CRC-32 checksums of the three sections that follow."""

    version: int = FORMAT_VERSIONS[0]
    header_codec: int
    graph_codec: int
    header_stored: int
    header_raw: int
    graph_stored: int
    graph_raw: int
    streams: int
    header_crc: int
    graph_crc: int
    streams_crc: int

    @property
    def file_size(self) -> int:
        """Length of the whole file."""
        return PREAMBLE_BYTES + self.header_stored + self.graph_stored + self.streams

    def pack(self) -> bytes:
        """Return the preamble's bytes, its own checksum last."""
        body = MAGIC + _FIELDS.pack(*astuple(self))
        return body + struct.pack("<I", zlib.crc32(body))

    @classmethod
    def parse(cls, data: bytes, file_size: int, limits: Limits) -> Self:
        """Return the preamble at the front of `data`.

        Raises:
            HeaderError: not a `.dwn` file, more than `limits` allow, or bytes after the end.
            TruncatedError: the file is shorter than it says.
            ChecksumError: the preamble was changed.
            VersionError: written by a later version.
        """
        if not MAGIC.startswith(data[: len(MAGIC)]):
            raise HeaderError(_other_file(data))
        if len(data) < PREAMBLE_BYTES:
            raise TruncatedError(
                f"a .dwn file has at least {PREAMBLE_BYTES} bytes, this one {len(data)}; copy it again"
            )
        if zlib.crc32(data[: PREAMBLE_BYTES - 4]) != struct.unpack_from("<I", data, PREAMBLE_BYTES - 4)[0]:
            raise ChecksumError("the preamble was changed after it was written; copy the file again")
        version, *rest = _FIELDS.unpack_from(data, len(MAGIC))
        if version not in FORMAT_VERSIONS:
            known = " and ".join(map(str, FORMAT_VERSIONS))
            raise VersionError(f"format version {version} is unknown, this reader knows {known}; update dwindle")
        preamble = cls(**dict(zip(cls.__dataclass_fields__, (version, *rest), strict=True)))
        preamble._check_sizes(file_size, limits)
        return preamble

    def _check_sizes(self, file_size: int, limits: Limits) -> None:
        if self.header_raw > limits.header_bytes or self.graph_raw > limits.graph_bytes:
            raise HeaderError(
                f"header of {self.header_raw} and graph of {self.graph_raw} bytes exceed the limits "
                f"{limits.header_bytes} and {limits.graph_bytes}"
            )
        if file_size < self.file_size:
            raise TruncatedError(f"the file has {file_size} of its {self.file_size} bytes; copy it again")
        if file_size > self.file_size:
            raise HeaderError(f"{file_size - self.file_size} bytes follow the end of the file; it was written to")


@dataclass(frozen=True, slots=True)
class Header:
    """What the header's JSON says."""

    plans: Mapping[str, Plan]
    aliases: Mapping[str, str]
    metadata: Mapping[str, Any]


def dump_json(value: object) -> bytes:
    """Return `value` as canonical JSON: ASCII, keys sorted, no spaces.

    Raises:
        ContainerError: it holds something else than JSON values, for example NaN.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise ContainerError(f"metadata must be finite JSON values: {error}") from error


def parse_header(raw: bytes, limits: Limits) -> Header:
    """Return the header behind its decompressed bytes.

    Raises:
        HeaderError: not the JSON that the format asks for, or promises beyond `limits`.
    """
    try:
        value = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        raise HeaderError(f"the header is not the JSON of this format: {error}") from error
    if not isinstance(value, dict) or set(cast("dict[str, Any]", value)) != {"aliases", "metadata", "tensors"}:
        raise HeaderError("the header must have exactly the keys aliases, metadata, tensors")
    value = cast("dict[str, Any]", value)
    if not isinstance(value["metadata"], dict):
        raise HeaderError("metadata must be a JSON object")
    plans = parse_tensors(value["tensors"], limits)
    return Header(plans, _aliases(value["aliases"], plans, limits), cast("dict[str, Any]", value["metadata"]))


def _aliases(value: object, plans: Mapping[str, Plan], limits: Limits) -> dict[str, str]:
    if not isinstance(value, dict) or len(cast("dict[str, Any]", value)) > limits.n_tensors:
        raise HeaderError(f"aliases must be a JSON object of at most {limits.n_tensors} names")
    aliases = cast("dict[str, Any]", value)
    check_aliases(aliases, plans)
    return aliases


def check_aliases(aliases: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
    """Check that every alias is a new name for a tensor.

    Raises:
        HeaderError: one is not.
    """
    for alias, name in aliases.items():
        if parse_name(alias) in tensors or not isinstance(name, str) or name not in tensors:
            raise HeaderError(f"alias {alias!r} must be a new name for a tensor, not {str(name)[:60]!r}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return result


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is not finite")
    return value


def _other_file(data: bytes) -> str:
    """Return what a file seems to be whose first bytes are not those of a .dwn file."""
    if b"DWN" in data[: len(MAGIC)]:  # the other bytes of the signature do not survive such a transfer
        return "this is a .dwn file whose first bytes were changed, as a transfer as text does; copy it as binary"
    known = next((name for start, name in _OTHERS if start.match(data)), None)
    is_other = "this is not a .dwn file (its first bytes are others)" if known is None else f"this is {known}, no .dwn"
    return f"{is_other}; give a .dwn file, which dwindle compress writes"
