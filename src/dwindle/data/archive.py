"""This file reads named members of a tar or zip archive, and nothing that only looks like one of them."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from dwindle.errors import DataError


def members(archive: Path | bytes, names: Sequence[str], *, max_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Yield `(name, content)` of exactly these members, in the order in which the archive holds them.

    Nothing is written, no link is followed, and no name is taken from the archive, so none can point out of a folder.

    Args:
        archive: a `.zip`, `.tar`, `.tar.gz` file, or its bytes.
        names: as they stand in the archive, with `/`.
        max_bytes: the most that one member may hold once unpacked.

    Raises:
        DataError: the archive is damaged or encrypted, or lacks a member, or one is a link, a folder or too large.
    """
    what = str(archive) if isinstance(archive, Path) else "the archive inside"
    wanted = set(names)
    try:
        with _opened(archive) as file:
            read = _zip_members if zipfile.is_zipfile(file) else _tar_members
            file.seek(0)
            for name, content in read(file, wanted, max_bytes):
                wanted.discard(name)
                yield name, content
    except DataError as error:
        raise DataError(f"{what}: {error}") from error
    except Exception as error:  # a damaged archive raises almost anything
        raise DataError(f"{what} cannot be unpacked ({type(error).__name__}: {error}); load it again") from error
    if wanted:
        raise DataError(f"{what} lacks {', '.join(sorted(wanted))}; it is not the archive that was published")


def member_names(archive: Path | bytes) -> frozenset[str]:
    """Return the names in a zip archive.

    Raises:
        DataError: it is not a readable zip archive.
    """
    try:
        with _opened(archive) as file, zipfile.ZipFile(file) as packed:
            return frozenset(packed.namelist())
    except Exception as error:  # a damaged archive raises almost anything
        what = str(archive) if isinstance(archive, Path) else "the archive inside"
        raise DataError(f"{what} is not a zip archive ({error}); load it again") from error


def _opened(archive: Path | bytes) -> IO[bytes]:
    return io.BytesIO(archive) if isinstance(archive, bytes) else archive.open("rb")


def _zip_members(file: IO[bytes], names: set[str], max_bytes: int) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(file) as packed:
        for name in sorted(names & set(packed.namelist())):
            entry = packed.getinfo(name)
            mode = entry.external_attr >> 16
            if entry.is_dir() or (stat.S_IFMT(mode) and not stat.S_ISREG(mode)):
                raise DataError(f"{name} is not a plain file; it is not the archive that was published")
            with packed.open(entry) as content:
                yield name, _bounded(content, name, max_bytes)


def _tar_members(file: IO[bytes], names: set[str], max_bytes: int) -> Iterator[tuple[str, bytes]]:
    remaining = set(names)
    with tarfile.open(fileobj=file, mode="r:*") as packed:
        while remaining and (entry := packed.next()) is not None:
            if entry.name not in remaining:
                continue
            content = packed.extractfile(entry) if entry.isreg() else None
            if content is None:
                raise DataError(f"{entry.name} is not a plain file; it is not the archive that was published")
            remaining.discard(entry.name)
            yield entry.name, _bounded(content, entry.name, max_bytes)


def _bounded(content: IO[bytes], name: str, max_bytes: int) -> bytes:
    """Read what is there, whatever size the archive claims, up to the limit."""
    data = content.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise DataError(f"{name} unpacks to more than {max_bytes:,} bytes; it is not the archive that was published")
    return data
