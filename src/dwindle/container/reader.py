"""This file reads a `.dwn` file with NumPy and constriction alone; all that is wrong raises a ContainerError."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

from dwindle.container.blocks import decompress
from dwindle.container.contents import Contents
from dwindle.container.decode import Decoder
from dwindle.container.header import PREAMBLE_BYTES, Header, Preamble, parse_header
from dwindle.container.limits import DEFAULT_LIMITS, Limits
from dwindle.container.plan import Plan, streams_of, version_of
from dwindle.container.records import Array, Record
from dwindle.container.window import Window
from dwindle.errors import ChecksumError, ContainerError, HeaderError

_Decoded = TypeVar("_Decoded")
_PIECE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """A file whose checksums and promises hold; nothing is decoded yet, and the streams are not in memory."""

    preamble: Preamble
    header: Header
    graph: bytes
    streams: Window
    starts: Mapping[str, int]

    @property
    def metadata(self) -> Mapping[str, Any]:
        """JSON values that travel inside the file."""
        return self.header.metadata

    def __contains__(self, name: object) -> bool:
        """Return whether `name` is a tensor or another name of one."""
        return name in self.header.plans or name in self.header.aliases

    def array(self, name: str) -> Array:
        """Return the decoded tensor `name` (aliases count), written piece by piece into its array.

        Raises:
            ContainerError: a stream is not what its coder writes, or the memory does not suffice.
        """
        return self._decoded(name, Decoder.array)

    def record(self, name: str) -> Record:
        """Return the record of tensor `name` (aliases count).

        Raises:
            ContainerError: as `array`.
        """
        return self._decoded(name, Decoder.record)

    def state_dict(self) -> dict[str, Array]:
        """Return every tensor by name, decoded one after the other; tied names share one array.

        Raises:
            ContainerError: as `array`.
        """
        tensors = {name: self.array(name) for name in self.header.plans}
        return tensors | {alias: tensors[name] for alias, name in self.header.aliases.items()}

    def records(self) -> dict[str, Record]:
        """Return every tensor's record.

        Raises:
            ContainerError: as `array`.
        """
        return {name: self.record(name) for name in self.header.plans}

    def _decoded(self, name: str, decode: Callable[[Decoder, Plan], _Decoded]) -> _Decoded:
        name = self.header.aliases.get(name, name)
        plan = self.header.plans[name]
        try:
            return decode(Decoder(self.streams, self.starts[name]), plan)
        except ContainerError as error:
            raise ContainerError(f"tensor {name!r}: {error}") from error
        except MemoryError as error:
            raise ContainerError(f"tensor {name!r} of shape {plan.shape} does not fit the memory") from error


def read(path: Path, *, limits: Limits = DEFAULT_LIMITS) -> Contents:
    """Return what the file at `path` contains.

    Raises:
        ContainerError: the file is absent, truncated, changed, or promises more than `limits`.
    """
    with open_file(path, limits=limits) as opened:
        return _contents(opened)


def read_weights(path: Path, *, limits: Limits = DEFAULT_LIMITS) -> dict[str, Array]:
    """Return the decoded tensors of the file at `path` by name: what `read(path).state_dict()` returns, in less memory.

    Each tensor is decoded piece by piece into its array and the file is never in memory as a whole, so that little more
    than the result is needed (`benchmarks/decode_memory.py` measures it).

    Raises:
        ContainerError: as `read`.
    """
    with open_file(path, limits=limits) as opened:
        return opened.state_dict()


def parse(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Contents:
    """Return what the bytes of a `.dwn` file contain.

    Raises:
        ContainerError: they are truncated, changed, or promise more than `limits`.
    """
    return _contents(open_bytes(data, limits=limits))


def _contents(opened: Opened) -> Contents:
    return Contents(opened.records(), opened.header.aliases, opened.graph, opened.header.metadata)


@contextmanager
def open_file(path: Path, *, limits: Limits = DEFAULT_LIMITS) -> Generator[Opened]:
    """Open the file at `path`, with everything checked that can be checked without decoding; leaving closes it.

    Raises:
        ContainerError: as `read`.
    """
    with _open(path) as file:
        try:
            yield _opened(Window.of_file(file, os.fstat(file.fileno()).st_size), limits)
        except ContainerError as error:  # of several files, the message must say which
            raise type(error)(f"{path}: {error}") from error


def open_bytes(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Opened:
    """Return the bytes of a file with everything checked that can be checked without decoding.

    Raises:
        ContainerError: as `parse`.
    """
    return _opened(Window.of_bytes(data), limits)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise ContainerError(f"cannot read {path}: {error.strerror or error}") from error


def _opened(data: Window, limits: Limits) -> Opened:
    preamble = Preamble.parse(data[:PREAMBLE_BYTES], len(data), limits)
    graph_start = PREAMBLE_BYTES + preamble.header_stored
    streams_start = graph_start + preamble.graph_stored
    stored_header = _checked(data[PREAMBLE_BYTES:graph_start], preamble.header_crc, "header")
    stored_graph = _checked(data[graph_start:streams_start], preamble.graph_crc, "graph")
    streams = data.part(streams_start, preamble.streams)
    checksum = 0
    for piece in streams.pieces(_PIECE_BYTES):
        checksum = zlib.crc32(piece, checksum)
    _require(checksum == preamble.streams_crc, "streams")
    header = parse_header(decompress(preamble.header_codec, stored_header, preamble.header_raw), limits)
    if preamble.version != version_of(header.plans.values()):
        raise HeaderError(
            f"the file says version {preamble.version}, its records are of version {version_of(header.plans.values())}"
        )
    graph = decompress(preamble.graph_codec, stored_graph, preamble.graph_raw)
    return Opened(preamble, header, graph, streams, _starts(header, len(streams)))


def _starts(header: Header, n_bytes: int) -> dict[str, int]:
    """Return where in the section the streams of each tensor start."""
    starts: dict[str, int] = {}
    n_promised = 0
    for name, plan in header.plans.items():
        starts[name] = n_promised
        n_promised += sum(stream.n_bytes for stream in streams_of(plan))
    if n_promised != n_bytes:
        raise HeaderError(f"the header describes {n_promised} bytes of streams, the file holds {n_bytes}")
    return starts


def _checked(section: bytes, checksum: int, what: str) -> bytes:
    _require(zlib.crc32(section) == checksum, what)
    return section


def _require(is_unchanged: bool, what: str) -> None:  # ruff: ignore[boolean-type-hint-positional-argument] (a condition)
    if not is_unchanged:
        raise ChecksumError(f"the {what} section was changed after it was written; copy the file again")
