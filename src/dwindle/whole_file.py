"""This file writes a file whole or not at all: beside its place first, onto the disk, then into place by one rename."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to `path`, making its folder; until that is complete and on the disk, whatever stood there stays.

    Raises:
        OSError: the disk refuses, for example because it is full, or `path` is a folder, a device or a pipe, which a
            rename would replace; nothing is left behind then.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "a folder, a device or a pipe, not a file", str(path))
    path = path.resolve()  # through a link, which a rename would replace, too
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # some file systems cannot sync a folder; the file itself is safe
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
