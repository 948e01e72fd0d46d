"""This file finds a data set on this machine, or downloads it and checks it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dwindle.errors import DataError

ENVIRONMENT_VARIABLE: Final = "DWINDLE_DATA"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set's folder name, its files with their published checksums, and where they are published."""

    name: str
    files: Mapping[str, str]
    base_url: str


def locate(source: Source, root: Path | None = None) -> Path:
    """Return the folder that holds every file of `source`.

    Looked at in this order: `root` itself, `$DWINDLE_DATA/<name>`, `/usr/share/dwindle/<name>`, `/usr/share/<name>` and
    the user's cache; then the files are downloaded into the cache, each checked against its published checksum.

    Raises:
        DataError: `root` or `DWINDLE_DATA` is given but lacks a file, or the download fails.
    """
    if root is not None:
        return _require(source, Path(root), "the folder given")
    if value := os.environ.get(ENVIRONMENT_VARIABLE):
        return _require(source, Path(value) / source.name, f"{ENVIRONMENT_VARIABLE}={value}")
    for folder in (Path("/usr/share/dwindle") / source.name, Path("/usr/share") / source.name, _cache(source)):
        if not _missing(source, folder):
            return folder
    return _download(source, _cache(source))


def _missing(source: Source, folder: Path) -> list[str]:
    return [name for name in source.files if not (folder / name).is_file()]


def _require(source: Source, folder: Path, origin: str) -> Path:
    if missing := _missing(source, folder):
        raise DataError(
            f"{folder} lacks {', '.join(missing)} of {source.name} ({origin}); name the folder that holds them"
        )
    return folder


def _cache(source: Source) -> Path:
    import platformdirs  # only needed where nothing is installed

    return Path(platformdirs.user_cache_dir("dwindle")) / source.name


def _download(source: Source, folder: Path) -> Path:
    import pooch  # only needed for a download

    for name, checksum in source.files.items():
        try:
            pooch.retrieve(source.base_url + name, known_hash=checksum, fname=name, path=folder, progressbar=True)
        except Exception as error:  # pooch passes on whatever its transport raises
            raise DataError(
                f"{source.name} is not on this machine and {source.base_url}{name} could not be downloaded ({error}); "
                f"put the files into a folder and name it with {ENVIRONMENT_VARIABLE} or root="
            ) from error
    return folder
