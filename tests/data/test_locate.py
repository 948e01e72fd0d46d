"""This file tests where data are looked for, and that files which differ from the published ones are refused."""

from __future__ import annotations

import hashlib

import pytest

from dwindle.data.locate import Source, cache_folder, checksum_complaint, find_folder, lacking, locate
from dwindle.errors import DataError

SOURCE = Source(name="tiny", files={"a.txt": "md5:" + hashlib.md5(b"hello").hexdigest()})
pytestmark = pytest.mark.usefixtures("nowhere")


def put(folder, content="hello"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.txt").write_text(content)
    return folder


def test_the_folder_given_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("DWINDLE_DATA", "/nowhere")
    put(cache_folder("tiny"))
    assert locate(SOURCE, put(tmp_path / "x")) == tmp_path / "x"


def test_the_environment_comes_next(tmp_path, monkeypatch):
    monkeypatch.setenv("DWINDLE_DATA", str(tmp_path))
    put(cache_folder("tiny"))
    put(tmp_path / "system" / "tiny")
    put(tmp_path / "tiny")
    assert locate(SOURCE) == tmp_path / "tiny"


def test_a_home_folder_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    put(tmp_path / "d" / "tiny")
    assert locate(SOURCE, "~/d/tiny") == tmp_path / "d" / "tiny"
    monkeypatch.setenv("DWINDLE_DATA", "~/d")
    assert locate(SOURCE) == tmp_path / "d" / "tiny"


def test_then_the_system_and_the_cache(tmp_path):
    put(cache_folder("tiny"))
    assert locate(SOURCE) == cache_folder("tiny")
    assert locate(SOURCE) != put(tmp_path / "system" / "tiny", "another text")
    put(tmp_path / "system" / "tiny")
    assert locate(SOURCE) == tmp_path / "system" / "tiny"


def test_an_environment_without_this_data_set_leaves_the_system_and_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DWINDLE_DATA", str(tmp_path / "empty"))
    put(cache_folder("tiny"))
    assert locate(SOURCE) == cache_folder("tiny")


def test_an_environment_without_this_data_set_allows_no_download(tmp_path, monkeypatch):
    monkeypatch.setenv("DWINDLE_DATA", str(tmp_path / "empty"))
    monkeypatch.setattr("dwindle.data.download.download_source", lambda *_: pytest.fail("it is downloaded"))
    with pytest.raises(DataError, match=r"tiny is neither in DWINDLE_DATA=.*/empty .*unset DWINDLE_DATA"):
        locate(SOURCE)


def test_an_empty_environment_is_none(monkeypatch):
    monkeypatch.setenv("DWINDLE_DATA", "")
    assert find_folder("tiny", lambda _: "is absent") is None


def test_a_folder_that_lacks_files_is_an_error_not_a_download(tmp_path, monkeypatch):
    (tmp_path / "tiny").mkdir()
    with pytest.raises(DataError, match=r"tiny \(root for tiny\) lacks a\.txt; name the folder"):
        locate(SOURCE, tmp_path / "tiny")
    monkeypatch.setenv("DWINDLE_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"tiny \(DWINDLE_DATA=.*\) lacks a\.txt"):
        locate(SOURCE)


def test_another_content_is_an_error(tmp_path):
    digest = hashlib.md5(b"hallo").hexdigest()
    with pytest.raises(DataError, match=rf"holds a damaged or different a\.txt \(md5 {digest}, not 5d41402abc4b2a76"):
        locate(SOURCE, put(tmp_path, "hallo"))


def test_a_repacked_source_is_left_to_its_loader(tmp_path):
    source = Source(name="tiny", files=SOURCE.files, is_repacked=True)
    assert locate(source, put(tmp_path, "hallo")) == tmp_path


def test_sha256_is_understood(tmp_path):
    put(tmp_path)
    digest = hashlib.sha256(b"hello").hexdigest()
    assert not checksum_complaint(tmp_path / "a.txt", f"sha256:{digest}")
    assert "sha256" in checksum_complaint(tmp_path / "a.txt", "sha256:00")


def test_what_is_no_folder(tmp_path):
    put(tmp_path)
    assert lacking(tmp_path / "a.txt", ["b"]) == "is a file, not a folder"
    assert lacking(tmp_path / "x", ["b"]) == "does not exist"
    with pytest.raises(DataError, match=r"a\.txt \(root for tiny\) is a file, not a folder"):
        locate(SOURCE, tmp_path / "a.txt")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match=r"x\.txt cannot be read"):
        checksum_complaint(tmp_path / "x.txt", "md5:0")
