"""This file holds the only thing that may be measured: a file on disk with its hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A deployable file.

    Attributes:
        format: `dwn`, `onnx`, ...
        sha256: hex digest of the bytes on disk.
        origin: `CompressedModel.digest()` of the model it was written from; empty if unknown.
    """

    path: Path
    format: str
    sha256: str
    size_bytes: int
    origin: str = ""

    @classmethod
    def of(cls, path: Path, *, origin: str = "") -> Self:
        """Return the artifact that lies at `path`; the format is the file's suffix."""
        sha = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                sha.update(block)
        size_bytes = path.stat().st_size
        return cls(
            path=path, format=path.suffix.lstrip("."), sha256=sha.hexdigest(), size_bytes=size_bytes, origin=origin
        )
