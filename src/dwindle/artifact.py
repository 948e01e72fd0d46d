"""This file holds the only thing that may be measured: a file on disk with its hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

BESIDE: Final = {"xml": ".bin"}
"""Formats of more than one file: the suffix of the one that lies beside the first under the same name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A deployable file, with those beside it that it cannot do without.

    Attributes:
        format: `dwn`, `onnx`, ...
        sha256: hex digest of the bytes on disk, those beside it included.
        size_bytes: of all its files.
        origin: `CompressedModel.digest()` of the model it was written from; empty if unknown.
    """

    path: Path
    format: str
    sha256: str
    size_bytes: int
    origin: str = ""

    @classmethod
    def of(cls, path: Path, *, origin: str = "") -> Self:
        """Return the artifact that lies at `path`; the format is the file's suffix.

        Raises:
            OSError: one of its files is missing or cannot be read; `filename` says which.
        """
        sha = hashlib.sha256()
        name, size_bytes = path.suffix.lstrip("."), 0
        for part in files_of(path):
            with part.open("rb") as file:
                while block := file.read(1 << 20):
                    sha.update(block)
                    size_bytes += len(block)
        return cls(path=path, format=name, sha256=sha.hexdigest(), size_bytes=size_bytes, origin=origin)


def files_of(path: Path) -> tuple[Path, ...]:
    """Return `path` and what must lie beside it.

    >>> [file.name for file in files_of(Path("model.xml"))]
    ['model.xml', 'model.bin']
    """
    beside = BESIDE.get(path.suffix.lstrip("."))
    return (path,) if beside is None else (path, path.with_suffix(beside))
