"""This file tests where data are looked for, and that a download is refused helpfully."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from dwindle.data import locate as module
from dwindle.data.locate import Source, locate
from dwindle.errors import DataError

SOURCE = Source(
    name="tiny", files={"a.txt": "md5:" + hashlib.md5(b"hello").hexdigest()}, base_url="http://127.0.0.1:9/"
)


@pytest.fixture(autouse=True)
def _nowhere(tmp_path, monkeypatch):
    monkeypatch.delenv("DWINDLE_DATA", raising=False)
    monkeypatch.setattr(module, "_cache", lambda source: tmp_path / "cache" / source.name)


def test_the_folder_given_comes_first(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("x")
    monkeypatch.setenv("DWINDLE_DATA", "/nowhere")
    assert locate(SOURCE, tmp_path) == tmp_path


def test_the_environment_comes_next(tmp_path, monkeypatch):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "a.txt").write_text("x")
    monkeypatch.setenv("DWINDLE_DATA", str(tmp_path))
    assert locate(SOURCE) == tmp_path / "tiny"


def test_the_cache_comes_last(tmp_path):
    (tmp_path / "cache" / "tiny").mkdir(parents=True)
    (tmp_path / "cache" / "tiny" / "a.txt").write_text("x")
    assert locate(SOURCE) == tmp_path / "cache" / "tiny"


def test_a_folder_that_lacks_files_is_an_error_not_a_download(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"lacks a\.txt of tiny \(the folder given\)"):
        locate(SOURCE, tmp_path)
    monkeypatch.setenv("DWINDLE_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"lacks a\.txt of tiny \(DWINDLE_DATA="):
        locate(SOURCE)


def test_a_download_that_fails_says_what_to_do():
    with pytest.raises(DataError, match=r"could not be downloaded.*name it with DWINDLE_DATA"):
        locate(SOURCE)


def test_what_is_downloaded_is_checked(tmp_path, monkeypatch):
    pages = tmp_path / "pages"
    pages.mkdir()

    def fetch(content):
        def download(url, output_file, _pooch):
            Path(output_file).write_bytes(content)

        return download

    monkeypatch.setattr("pooch.core.choose_downloader", lambda *_, **__: fetch(b"not hello"))
    with pytest.raises(DataError, match="could not be downloaded"):
        locate(SOURCE)
    monkeypatch.setattr("pooch.core.choose_downloader", lambda *_, **__: fetch(b"hello"))
    assert (locate(SOURCE) / "a.txt").read_bytes() == b"hello"
