"""This file reads a `.dwn` file with NumPy and constriction alone; all that is wrong raises a ContainerError."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

from dwindle.container.blocks import decompress
from dwindle.container.contents import Contents
from dwindle.container.header import PREAMBLE_BYTES, Header, Preamble, parse_header
from dwindle.container.limits import DEFAULT_LIMITS, Limits
from dwindle.container.payload import StreamReader
from dwindle.container.plan import streams_of
from dwindle.container.records import Record
from dwindle.errors import ChecksumError, ContainerError, HeaderError


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """A file whose checksums and promises hold; nothing is decoded yet."""

    preamble: Preamble
    header: Header
    graph: bytes
    streams: bytes

    def records(self) -> dict[str, Record]:
        """Return every tensor's record.

        Raises:
            ContainerError: a stream is not what its coder writes, or the memory does not suffice.
        """
        streams = StreamReader(self.streams)
        records: dict[str, Record] = {}
        for name, plan in self.header.plans.items():
            try:
                records[name] = streams.record(plan)
            except ContainerError as error:
                raise ContainerError(f"tensor {name!r}: {error}") from error
            except MemoryError as error:
                raise ContainerError(f"tensor {name!r} of shape {plan.shape} does not fit the memory") from error
        return records


def read(path: Path, *, limits: Limits = DEFAULT_LIMITS) -> Contents:
    """Return what the file at `path` contains.

    Raises:
        ContainerError: the file is absent, truncated, changed, or promises more than `limits`.
    """
    return parse(_load(path, limits), limits=limits)


def parse(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Contents:
    """Return what the bytes of a `.dwn` file contain.

    Raises:
        ContainerError: they are truncated, changed, or promise more than `limits`.
    """
    opened = open_bytes(data, limits=limits)
    return Contents(opened.records(), opened.header.aliases, opened.graph, opened.header.metadata)


def open_file(path: Path, *, limits: Limits = DEFAULT_LIMITS) -> Opened:
    """Return the file at `path` with everything checked that can be checked without decoding.

    Raises:
        ContainerError: as `read`.
    """
    return open_bytes(_load(path, limits), limits=limits)


def open_bytes(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Opened:
    """Return the bytes of a file with everything checked that can be checked without decoding.

    Raises:
        ContainerError: as `parse`.
    """
    preamble = Preamble.parse(data[:PREAMBLE_BYTES], len(data), limits)
    graph_start = PREAMBLE_BYTES + preamble.header_stored
    streams_start = graph_start + preamble.graph_stored
    stored_header = _checked(data[PREAMBLE_BYTES:graph_start], preamble.header_crc, "header")
    stored_graph = _checked(data[graph_start:streams_start], preamble.graph_crc, "graph")
    streams = _checked(data[streams_start:], preamble.streams_crc, "streams")
    header = parse_header(decompress(preamble.header_codec, stored_header, preamble.header_raw), limits)
    n_promised = sum(stream.n_bytes for plan in header.plans.values() for stream in streams_of(plan))
    if n_promised != len(streams):
        raise HeaderError(f"the header describes {n_promised} bytes of streams, the file holds {len(streams)}")
    return Opened(preamble, header, decompress(preamble.graph_codec, stored_graph, preamble.graph_raw), streams)


def _load(path: Path, limits: Limits) -> bytes:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            front = file.read(PREAMBLE_BYTES)
            Preamble.parse(front, size, limits)  # refuses before the rest is read
            return front + file.read()
    except OSError as error:
        raise ContainerError(f"cannot read {path}: {error.strerror or error}") from error


def _checked(section: bytes, checksum: int, what: str) -> bytes:
    if zlib.crc32(section) != checksum:
        raise ChecksumError(f"the {what} was changed after it was written; copy the file again")
    return section
