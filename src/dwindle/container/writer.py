"""This file writes a `.dwn` file: the same bytes for the same contents, and the whole file or none."""

from __future__ import annotations

import zlib
from pathlib import Path

from dwindle.container.blocks import compress
from dwindle.container.contents import Contents
from dwindle.container.header import Preamble, check_aliases, dump_json, parse_header
from dwindle.container.limits import DEFAULT_LIMITS
from dwindle.container.payload import StreamWriter
from dwindle.container.plan import parse_name
from dwindle.container.records import holds_half, shape_of_record
from dwindle.errors import ContainerError, HeaderError
from dwindle.whole_file import write_whole


def write(path: Path, contents: Contents) -> None:
    """Write `contents` to `path`; until the file is complete and on disk, whatever stood there stays.

    Raises:
        ContainerError: the contents cannot be stored, or the disk refuses them (nothing is left behind then).
    """
    data = serialize(contents)
    try:
        write_whole(path, data)
    except OSError as error:
        raise ContainerError(
            f"cannot write the {len(data)} bytes of {path}: {error.strerror or error}; "
            "free space or choose another folder; nothing was left behind"
        ) from error


def serialize(contents: Contents) -> bytes:
    """Return the bytes of the file for `contents`; the order of names does not matter.

    Raises:
        ContainerError: the contents cannot be stored.
    """
    check_aliases(contents.aliases, contents.records)
    streams = StreamWriter()
    tensors: list[dict[str, object]] = []
    for name in sorted(contents.records):
        record = contents.records[name]
        try:
            described = streams.describe(record)
        except ContainerError as error:
            raise ContainerError(f"tensor {name!r}: {error}") from error
        tensors.append({"name": parse_name(name), "shape": list(shape_of_record(record)), "record": described})
    raw_header = dump_json({"aliases": dict(contents.aliases), "metadata": dict(contents.metadata), "tensors": tensors})
    if len(raw_header) > DEFAULT_LIMITS.header_bytes or len(contents.graph) > DEFAULT_LIMITS.graph_bytes:
        raise ContainerError(
            f"header of {len(raw_header)} and graph of {len(contents.graph)} bytes exceed "
            f"{DEFAULT_LIMITS.header_bytes} and {DEFAULT_LIMITS.graph_bytes}; keep weights out of the graph"
        )
    try:
        parse_header(raw_header, DEFAULT_LIMITS)
    except HeaderError as error:  # too many tensors or numbers, most likely: what is written must be readable
        raise ContainerError(f"no reader would accept this file: {error}") from error
    header_codec, header = compress(raw_header)
    graph_codec, graph = compress(contents.graph)
    preamble = Preamble(
        version=2 if any(map(holds_half, contents.records.values())) else 1,
        header_codec=header_codec,
        graph_codec=graph_codec,
        header_stored=len(header),
        header_raw=len(raw_header),
        graph_stored=len(graph),
        graph_raw=len(contents.graph),
        streams=len(streams.section),
        header_crc=zlib.crc32(header),
        graph_crc=zlib.crc32(graph),
        streams_crc=zlib.crc32(streams.section),
    )
    return preamble.pack() + header + graph + bytes(streams.section)
