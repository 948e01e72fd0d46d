"""This file gives out the bytes of a file piece by piece, so that a reader never holds more of them than it decodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol, Self

from dwindle.errors import ContainerError, TruncatedError


class Payload(Protocol):
    """Bytes of known length that are read in pieces; plain `bytes` are one."""

    def __len__(self) -> int:
        """Return how many bytes there are."""
        ...

    def __getitem__(self, piece: slice, /) -> bytes:
        """Return the bytes of a slice without steps; cut off at the end, as for `bytes`."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A part of a file or of bytes in memory; nothing is read before a slice is asked for."""

    read: Callable[[int, int], bytes]
    start: int
    length: int

    @classmethod
    def of_bytes(cls, data: bytes) -> Self:
        """Return a window onto the whole of `data`."""
        return cls(lambda start, stop: data[start:stop], 0, len(data))

    @classmethod
    def of_file(cls, file: BinaryIO, size: int) -> Self:
        """Return a window onto the first `size` bytes of `file`, which must stay open.

        Raises (when it is read):
            TruncatedError: the file has become shorter.
            ContainerError: the disk refuses it.
        """

        def read(start: int, stop: int) -> bytes:
            try:
                file.seek(start)
                piece = file.read(stop - start)
            except OSError as error:
                raise ContainerError(f"cannot read the file: {error.strerror or error}") from error
            if len(piece) != stop - start:
                raise TruncatedError(f"the file ended at byte {start + len(piece)} while it was read; copy it again")
            return piece

        return cls(read, 0, size)

    def part(self, start: int, length: int) -> Self:
        """Return a window onto `length` bytes from `start`, which must lie inside."""
        return type(self)(self.read, self.start + start, length)

    def pieces(self, n_bytes: int) -> Iterator[bytes]:
        """Yield everything in pieces of `n_bytes`."""
        for start in range(0, self.length, n_bytes):
            yield self[start : start + n_bytes]

    def __len__(self) -> int:
        """Return how many bytes there are."""
        return self.length

    def __getitem__(self, piece: slice, /) -> bytes:
        """Return the bytes of a slice without steps."""
        start, stop, _ = piece.indices(self.length)
        return self.read(self.start + start, self.start + stop) if start < stop else b""


def part_of(payload: Payload, start: int, length: int) -> Payload:
    """Return `length` bytes of `payload` from `start`, without reading them if they lie in a file."""
    return payload.part(start, length) if isinstance(payload, Window) else payload[start : start + length]
