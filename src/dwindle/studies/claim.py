"""This file shares out work among processes: who holds the lock of an outcome makes it; a killed process holds none."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from dwindle.errors import StudyError


class Claims:
    """Locks in a folder that all processes of a study share; the operating system frees those of the dead."""

    def __init__(self, folder: Path) -> None:
        self._folder: Final = folder

    @contextmanager
    def take(self, key: str) -> Iterator[bool]:
        """Hold the lock called `key` if it is free; yields whether it is ours.

        Raises:
            StudyError: the folder cannot be written.
        """
        descriptor = self._open(key)
        try:
            yield _try_lock(descriptor)
        finally:
            os.close(descriptor)  # which frees the lock

    def n_held(self) -> int:
        """Return how many locks are held, by this process or another."""
        if not self._folder.is_dir():
            return 0
        return sum(self._is_held(path.stem) for path in self._folder.glob("*.lock"))

    def _is_held(self, key: str) -> bool:
        with self.take(key) as is_ours:
            return not is_ours

    def _open(self, key: str) -> int:
        path = self._folder / f"{key}.lock"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StudyError(
                f"{path} cannot be written ({error.strerror}); make room or choose another folder"
            ) from error


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
