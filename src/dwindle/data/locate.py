"""This file finds a data set on this machine, or downloads it; files with published checksums are checked either way.

Looked at in this order:

1. the folder that the caller names (`root`): used or refused, nothing else is looked at;
2. `$DWINDLE_DATA/<name>`, where that folder exists: used or refused;
3. the system: `/usr/share/datasets/<name>` (Debian's `dataset-fashion-mnist`), `/usr/share/dwindle/<name>`;
4. the user's cache;
5. the place where the data set is published, unless `DWINDLE_DATA` is set: who says where data are wants no download.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dwindle.errors import DataError

ENVIRONMENT_VARIABLE: Final = "DWINDLE_DATA"
SYSTEM_FOLDERS: Final = (Path("/usr/share/datasets"), Path("/usr/share/dwindle"))

Complaint = Callable[[Path], str]
"""Says what keeps a folder from being the data set, such as `lacks a.txt`; empty where nothing does."""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """One published file that holds a data set's files.

    Attributes:
        url: of the archive, a `.tar.gz`, `.tar` or `.zip`.
        checksum: as published, `md5:...` or `sha256:...`; None where none is published.
        folder: inside the archive, where the files lie.
    """

    url: str
    checksum: str | None
    folder: str = ""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set's folder name, its files with their published checksums, and where they are published.

    Attributes:
        name: of the folder that holds the files.
        files: name to checksum, `md5:...` or `sha256:...`.
        base_url: with a file's name appended, where it is published; unused with `archive`.
        archive: of which exactly `files` are taken.
        is_repacked: distributions compress the same content anew, so a file found here may have another checksum;
            the loader checks the content. A download is checked in any case.
    """

    name: str
    files: Mapping[str, str]
    base_url: str = ""
    archive: Archive | None = None
    is_repacked: bool = False


def locate(source: Source, root: Path | None = None) -> Path:
    """Return the folder that holds every file of `source`, looking in the order above.

    Raises:
        DataError: `root` or `DWINDLE_DATA` names a folder that lacks a file or holds one with another checksum, or the
            download fails.
    """
    found = find_folder(source.name, lambda folder: _complaint(source, folder), root)
    if found is not None:
        return found
    from dwindle.data.download import download_source  # pooch is only needed where nothing is installed

    return download_source(source, cache_folder(source.name))


def find_folder(name: str, complaint: Complaint, root: Path | None = None) -> Path | None:
    """Return the first folder without a complaint in the order above, or None where a download is next.

    Raises:
        DataError: a folder that was named on purpose has a complaint, or `DWINDLE_DATA` is set and nothing was found.
    """
    if root is not None:
        return _require(Path(root).expanduser(), complaint, f"root for {name}")
    value = os.environ.get(ENVIRONMENT_VARIABLE)
    if value and (named := Path(value).expanduser() / name).exists():
        return _require(named, complaint, f"{ENVIRONMENT_VARIABLE}={value}")
    for folder in (*(system / name for system in SYSTEM_FOLDERS), cache_folder(name)):
        if not complaint(folder):
            return folder
    if value:
        raise DataError(
            f"{name} is neither in {ENVIRONMENT_VARIABLE}={value} (which has no such folder) nor elsewhere on this "
            f"machine; put it there, pass root=, or unset {ENVIRONMENT_VARIABLE} to have it downloaded if it can be"
        )
    return None


def cache_folder(name: str) -> Path:
    """Return where downloads of this data set are kept, which need not exist."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("dwindle")) / name


def lacking(folder: Path, names: list[str]) -> str:
    """Return `lacks <names>` for those that are no files of `folder`, or an empty text.

    >>> lacking(Path("/nowhere"), ["a", "b"])
    'does not exist'
    """
    if not folder.is_dir():
        return "is a file, not a folder" if folder.exists() else "does not exist"
    try:
        absent = [name for name in names if not (folder / name).is_file()]
    except OSError as error:  # such as a folder that may not be entered
        return f"cannot be read ({error.strerror})"
    return f"lacks {', '.join(absent)}" if absent else ""


def checksum_complaint(path: Path, published: str) -> str:
    """Return what is wrong with the file's checksum, or an empty text.

    Raises:
        DataError: the file cannot be read.
    """
    algorithm, _, digest = published.partition(":")
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}); make it readable or name another folder") from error
    return "" if found == digest else f"holds a damaged or different {path.name} ({algorithm} {found}, not {digest})"


def _complaint(source: Source, folder: Path) -> str:
    text = lacking(folder, list(source.files))
    if text or source.is_repacked:
        return text
    complaints = (checksum_complaint(folder / name, published) for name, published in source.files.items())
    return next(filter(None, complaints), "")


def _require(folder: Path, complaint: Complaint, origin: str) -> Path:
    if text := complaint(folder):
        raise DataError(f"{folder} ({origin}) {text}; name the folder that holds the published files")
    return folder
