"""This file shares out work among processes: who holds the lock of an outcome makes it; a killed process holds none.

A lock is an `flock` on a file; the operating system frees those of the dead. A file may be removed once its lock is of
no use any more: who locked a file that has no name by then holds nothing, and tries again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from dwindle.errors import StudyError

LOCK: Final = ".lock"


class Locks:
    """Locks in a folder that all processes of a study share."""

    def __init__(self, folder: Path) -> None:
        self._folder: Final = folder

    @contextmanager
    def take(self, key: str) -> Generator[bool]:
        """Hold the lock called `key` if it is free; yields whether it is ours.

        Raises:
            StudyError: the folder cannot be written, or holds no locks.
        """
        descriptor, is_ours = self._lock(key)
        try:
            yield is_ours
        finally:
            os.close(descriptor)  # which frees the lock

    @contextmanager
    def join(self) -> Generator[None]:
        """Be counted by `n_held` under a name of one's own.

        Raises:
            StudyError: the folder cannot be written, or holds no locks.
        """
        name = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}"
        descriptor, is_ours = self._lock(name)
        while not is_ours:  # somebody who counts holds it for an instant
            os.close(descriptor)
            descriptor, is_ours = self._lock(name)
        try:
            yield
        finally:
            self.forget(name)
            os.close(descriptor)

    def forget(self, key: str) -> None:
        """Remove the file of a lock that nobody needs again; whoever calls this holds it."""
        with contextlib.suppress(OSError):  # it costs nothing where it stays
            self._path(key).unlink()

    def n_held(self) -> int:
        """Return how many locks are held, by this process or another; files of locks that nobody holds are removed."""
        if not self._folder.is_dir():
            return 0
        return sum(self._is_held(path) for path in self._folder.glob(f"*{LOCK}"))

    def _is_held(self, path: Path) -> bool:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # gone by now, or not ours to look at
            return False
        try:
            if not _try_lock(descriptor, path):
                return True
            self.forget(path.name.removesuffix(LOCK))
            return False
        finally:
            os.close(descriptor)

    def _lock(self, key: str) -> tuple[int, bool]:
        """Return an open file and whether we hold the lock on it."""
        path = self._path(key)
        while True:
            descriptor = self._open(path)
            try:
                is_ours = _try_lock(descriptor, path)
            except BaseException:
                os.close(descriptor)
                raise
            if not is_ours or _is_named(descriptor, path):
                return descriptor, is_ours
            os.close(descriptor)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}{LOCK}"

    def _open(self, path: Path) -> int:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StudyError(
                f"{path} cannot be written ({error.strerror}); make room or choose another folder"
            ) from error


def _try_lock(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StudyError(
            f"{path} cannot be locked ({error.strerror}), so processes could not share the work; choose a folder on a "
            "file system that has locks"
        ) from error
    return True


def _is_named(descriptor: int, path: Path) -> bool:
    """Return whether the open file is still the one that others find at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False
