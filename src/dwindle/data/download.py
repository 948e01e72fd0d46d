"""This file downloads published files into a folder, checks them, and takes from an archive exactly what is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

from dwindle.data.archive import members
from dwindle.data.locate import ENVIRONMENT_VARIABLE, Source, checksum_complaint
from dwindle.errors import DataError
from dwindle.whole_file import write_whole

MAX_MEMBER_BYTES: Final = 1 << 30
"""Of one file in an archive."""


def download_source(source: Source, folder: Path) -> Path:
    """Put every file of `source` into `folder`, each with its published checksum, and return `folder`.

    Raises:
        DataError: a transfer fails, or what arrives is not what was published.
    """
    if source.archive is None:
        for name, checksum in source.files.items():
            download(source.base_url + name, folder / name, checksum=checksum)
        return folder
    packed = folder / Path(source.archive.url).name
    download(source.archive.url, packed, checksum=source.archive.checksum)
    prefix = f"{source.archive.folder}/" if source.archive.folder else ""
    unpack(packed, {prefix + name: folder / name for name in source.files})
    for name, checksum in source.files.items():
        if text := checksum_complaint(folder / name, checksum):
            (folder / name).unlink()
            raise DataError(f"{packed} {text}; it is not the archive that was published")
    packed.unlink(missing_ok=True)
    return folder


def download(url: str, path: Path, *, checksum: str | None) -> Path:
    """Download `url` to `path`, showing progress; a file that is there with this checksum is not transferred again.

    Raises:
        DataError: the transfer fails or the checksum differs; nothing is left at `path` then.
    """
    import pooch

    progress = _Progress(path.name)
    downloader: Any = pooch.HTTPDownloader(progressbar=cast("Any", progress))  # annotated as bool, documented as this
    try:
        pooch.retrieve(url, known_hash=checksum, fname=path.name, path=path.parent, downloader=downloader)
    except Exception as error:  # pooch passes on whatever its transport raises
        raise DataError(
            f"{path.name} is not on this machine and {url} could not be downloaded ({error}); "
            f"put the files into a folder and name it with {ENVIRONMENT_VARIABLE} or root="
        ) from error
    finally:
        progress.close()
    return path


def unpack(archive: Path, targets: Mapping[str, Path]) -> None:
    """Write each named member of `archive` to its target; targets are ours, so no name in the archive is trusted.

    Raises:
        DataError: the archive is damaged, lacks a member, or a member is a link, a folder or larger than a gibibyte.
    """
    for name, content in members(archive, list(targets), max_bytes=MAX_MEMBER_BYTES):
        keep(targets[name], content)


def keep(path: Path, content: bytes | memoryview) -> None:
    """Write a file whole or not at all.

    Raises:
        DataError: the disk refuses, for example because it is full.
    """
    try:
        write_whole(path, content)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error}); make room or make the folder writable") from error


class _Progress:
    """What pooch asks of a progress bar (`total`, `update`, `reset`, `close`), drawn by rich on standard error."""

    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns: tuple[Any, ...] = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(name, total=None)

    @property
    def total(self) -> float | None:
        return self._progress.tasks[0].total

    @total.setter
    def total(self, value: float) -> None:
        self._progress.update(self._task, total=value or None)  # 0: the server did not say
        self._progress.start()

    def update(self, n_bytes: int) -> None:
        self._progress.advance(self._task, n_bytes)

    def reset(self) -> None:
        self._progress.reset(self._task)

    def close(self) -> None:
        self._progress.stop()
