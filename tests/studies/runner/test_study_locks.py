"""Locks that processes share: one holder, none for the dead, nothing left behind."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dwindle.errors import StudyError
from dwindle.studies.locks import Locks


def test_a_lock_has_one_holder_and_is_free_again(tmp_path: Path) -> None:
    locks, others = Locks(tmp_path), Locks(tmp_path)
    with locks.take("a") as is_ours:
        assert is_ours
        with others.take("a") as is_theirs:
            assert not is_theirs
        with others.take("b") as is_theirs:
            assert is_theirs
    with others.take("a") as is_theirs:
        assert is_theirs


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from dwindle.studies.locks import Locks\n"
        "with Locks(Path(sys.argv[1])).take('a'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -9
    assert (tmp_path / "a.lock").exists()
    with Locks(tmp_path).take("a") as is_ours:
        assert is_ours


def test_a_lock_on_a_file_that_was_removed_meanwhile_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between our open and our lock, its holder may remove the file; others would then lock a new one."""
    real, n_removed = fcntl.flock, 0

    def remove_first(descriptor: int, operation: int) -> None:
        nonlocal n_removed
        if n_removed == 0:
            n_removed += 1
            (tmp_path / "a.lock").unlink()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with Locks(tmp_path).take("a") as is_ours:
        assert is_ours
        with Locks(tmp_path).take("a") as is_theirs:
            assert not is_theirs


def test_those_who_joined_are_counted_and_the_dead_are_swept_away(tmp_path: Path) -> None:
    locks = Locks(tmp_path / "workers")
    assert locks.n_held() == 0
    with locks.join(), locks.join():
        (tmp_path / "workers/dead-1.lock").touch()
        assert locks.n_held() == 2
        assert locks.n_held() == 2
    assert locks.n_held() == 0
    assert not list((tmp_path / "workers").iterdir())


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StudyError, match="cannot be written"), Locks(tmp_path / "file").take("a"):
        pass


def n_open_files() -> int:
    """Return how many files this process has open; 0 where that cannot be seen."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def test_a_file_system_without_locks_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    n_open = n_open_files()
    with pytest.raises(StudyError, match="cannot be locked"), Locks(tmp_path).take("a"):
        pass
    assert n_open_files() == n_open
