"""This file tests how a file is replaced."""

from __future__ import annotations

import os

import pytest

from dwindle.container import atomic


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_permissions_are_those_of_new_files(tmp_path):
    before = os.umask(0o027)
    try:
        atomic.replace_file(tmp_path / "file", b"data")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "file").read_bytes() == b"data"


def test_where_folders_cannot_be_synced(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic.os, "name", "nt")
    atomic._sync_folder(tmp_path / "absent")
    atomic.replace_file(tmp_path / "file", b"data")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
