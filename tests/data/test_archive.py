"""This file tests that archives give the named files and nothing else, whatever they hold."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile

import pytest

from dwindle.data.archive import member_names, members
from dwindle.errors import DataError

KINDS = ("tar", "zip")


def tar(*entries, mode="w:gz"):
    """Pack (name, content) files and (name, type, link) others."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as packed:
        for name, *rest in entries:
            entry = tarfile.TarInfo(name)
            if len(rest) == 1:
                entry.size = len(rest[0])
                packed.addfile(entry, io.BytesIO(rest[0]))
            else:
                entry.type, entry.linkname = rest
                packed.addfile(entry)
    return buffer.getvalue()


def zipped(files, *, mode=stat.S_IFREG):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (mode | 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(entry, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "packed", [tar(("a", b"1"), ("b/c", b"22"), ("d", b"3")), zipped({"a": "1", "b/c": "22", "d": "3"})], ids=KINDS
)
def test_the_named_members(packed, tmp_path):
    (tmp_path / "x").write_bytes(packed)
    for archive in (packed, tmp_path / "x"):
        assert dict(members(archive, ["b/c", "a"], max_bytes=2)) == {"a": b"1", "b/c": b"22"}


@pytest.mark.parametrize("packed", [tar(("a", b"1")), zipped({"a": "1"})], ids=KINDS)
@pytest.mark.parametrize(
    ("names", "max_bytes", "words"),
    [(["a", "x", "y"], 9, "lacks x, y; it is not the archive"), (["a"], 0, "a unpacks to more than 0 bytes")],
)
def test_what_is_absent_or_too_large(packed, names, max_bytes, words):
    with pytest.raises(DataError, match=words):
        list(members(packed, names, max_bytes=max_bytes))


@pytest.mark.parametrize(
    "packed",
    [
        tar(("a", tarfile.SYMTYPE, "/etc/passwd")),
        tar(("b", b"1"), ("a", tarfile.LNKTYPE, "b")),
        tar(("a", tarfile.DIRTYPE, "")),
        tar(("a", tarfile.FIFOTYPE, "")),
        tar(("a", tarfile.CHRTYPE, "")),
        zipped({"a": "/etc/passwd"}, mode=stat.S_IFLNK),
    ],
    ids=["symlink", "hardlink", "folder", "pipe", "device", "zip symlink"],
)
def test_what_is_no_plain_file_is_refused(packed):
    with pytest.raises(DataError, match="a is not a plain file"):
        list(members(packed, ["a"], max_bytes=99))


def test_names_that_point_outside_are_only_names(tmp_path):
    packed = tar(("../a", b"1"), ("/a", b"2"), ("x/../a", b"3"))
    with pytest.raises(DataError, match="lacks a"):
        list(members(packed, ["a"], max_bytes=9))


def test_a_small_bomb_is_stopped_at_the_limit():
    with pytest.raises(DataError, match="unpacks to more than 1,000 bytes"):
        list(members(zipped({"a": bytes(10**7)}), ["a"], max_bytes=1000))


@pytest.mark.parametrize(
    "packed", [tar(("a", bytes(range(256)) * 40)), zipped({"a": bytes(range(256)) * 40})], ids=KINDS
)
def test_every_truncation_is_an_error_or_loses_padding_alone(packed):
    whole = dict(members(packed, ["a"], max_bytes=10**6))
    n_refused = 0
    for end in range(0, len(packed), 7):
        try:
            assert dict(members(packed[:end], ["a"], max_bytes=10**6)) == whole
        except DataError:
            n_refused += 1
    assert n_refused > len(packed) // 7 * 0.8


def test_an_encrypted_or_absent_archive(tmp_path):
    packed = bytearray(zipped({"a": "1"}))
    packed[6] |= 1
    packed[packed.index(b"PK\1\2") + 8] |= 1
    with pytest.raises(DataError, match="cannot be unpacked"):
        list(members(bytes(packed), ["a"], max_bytes=9))
    with pytest.raises(DataError, match=r"x\.zip cannot be unpacked"):
        list(members(tmp_path / "x.zip", ["a"], max_bytes=9))


def test_names_of_a_zip():
    assert member_names(zipped({"a": "1", "b/c": "2"})) == {"a", "b/c"}
    with pytest.raises(DataError, match="the archive inside is not a zip archive"):
        member_names(b"no zip")
