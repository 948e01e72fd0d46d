"""This file tests downloads, from a server on this machine: what arrives is checked, and only the wanted stays."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dwindle.data.download import download
from dwindle.data.locate import Archive, Source, cache_folder, locate
from dwindle.errors import DataError

pytestmark = pytest.mark.usefixtures("nowhere")


def md5(content):
    return "md5:" + hashlib.md5(content).hexdigest()


@pytest.fixture
def server(tmp_path):
    """Serve the folder `pages`; yield it, its address and the paths that were asked for."""
    pages, asked = tmp_path / "pages", []
    pages.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(pages))

        def log_message(self, *_):
            asked.append(self.path)

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield pages, f"http://127.0.0.1:{http.server_port}/", asked
    http.shutdown()
    thread.join()
    http.server_close()


def tar(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            packed.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def test_files_are_downloaded_into_the_cache_once(server):
    pages, address, asked = server
    (pages / "a.txt").write_bytes(b"hello")
    source = Source(name="tiny", files={"a.txt": md5(b"hello")}, base_url=address)
    folder = locate(source)
    assert folder == cache_folder("tiny")
    assert (folder / "a.txt").read_bytes() == b"hello"
    assert locate(source) == folder
    assert asked == ["/a.txt"]


def test_a_damaged_file_in_the_cache_is_downloaded_again(server):
    pages, address, asked = server
    (pages / "a.txt").write_bytes(b"hello")
    source = Source(name="tiny", files={"a.txt": md5(b"hello")}, base_url=address)
    (locate(source) / "a.txt").write_bytes(b"hell")
    assert (locate(source) / "a.txt").read_bytes() == b"hello"
    assert len(asked) == 2


def test_what_differs_from_the_published_is_refused_and_not_kept(server):
    pages, address, _ = server
    (pages / "a.txt").write_bytes(b"not hello")
    with pytest.raises(DataError, match=r"a\.txt is not on this machine and .* could not be downloaded.*DWINDLE_DATA"):
        locate(Source(name="tiny", files={"a.txt": md5(b"hello")}, base_url=address))
    assert not list(cache_folder("tiny").iterdir())


def test_a_page_that_is_gone(server, tmp_path):
    with pytest.raises(DataError, match="404"):
        download(server[1] + "x", tmp_path / "x", checksum=None)


def test_a_server_that_is_gone(tmp_path):
    with pytest.raises(DataError, match="could not be downloaded"):
        download("http://127.0.0.1:9/x", tmp_path / "x", checksum=None)


def test_of_an_archive_exactly_the_wanted_files_stay(server):
    pages, address, asked = server
    content = tar({"in/a": b"1", "in/b": b"22", "in/other": b"3", "../evil": b"4", "/evil": b"5"})
    (pages / "x.tar.gz").write_bytes(content)
    archive = Archive(url=address + "x.tar.gz", checksum=md5(content), folder="in")
    source = Source(name="tiny", files={"a": md5(b"1"), "b": md5(b"22")}, archive=archive)
    folder = locate(source)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"a": b"1", "b": b"22"}
    assert {path.name for path in folder.parent.iterdir()} == {"tiny"}
    (folder / "a").unlink()
    assert locate(source) == folder
    assert asked == ["/x.tar.gz"] * 2


def test_a_file_of_the_archive_that_differs_is_refused_and_not_kept(server):
    pages, address, _ = server
    content = tar({"a": b"1"})
    (pages / "x.tar.gz").write_bytes(content)
    archive = Archive(url=address + "x.tar.gz", checksum=md5(content))
    with pytest.raises(DataError, match=r"x\.tar\.gz holds a damaged or different a .*not the archive"):
        locate(Source(name="tiny", files={"a": md5(b"2")}, archive=archive))
    assert not (cache_folder("tiny") / "a").exists()


def test_a_disk_that_refuses_is_one_error(server, monkeypatch):
    pages, address, _ = server
    content = tar({"a": b"1"})
    (pages / "x.tar.gz").write_bytes(content)

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dwindle.data.download.write_whole", refuse)
    archive = Archive(url=address + "x.tar.gz", checksum=md5(content))
    with pytest.raises(DataError, match=r"tiny/a cannot be written .*No space left"):
        locate(Source(name="tiny", files={"a": md5(b"1")}, archive=archive))


def test_a_cache_that_cannot_be_made_is_one_error(server, tmp_path, monkeypatch):
    (server[0] / "a.txt").write_bytes(b"hello")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"could not be downloaded"):
        locate(Source(name="tiny", files={"a.txt": md5(b"hello")}, base_url=server[1]))


def test_progress_is_drawn_on_a_terminal(server, tmp_path, monkeypatch, capfd):
    (server[0] / "a.txt").write_bytes(bytes(10**6))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    download(server[1] + "a.txt", tmp_path / "a.txt", checksum=None)
    out, err = capfd.readouterr()
    assert not out
    assert "1.0/1.0 MB" in err
