"""This file measures size: bytes on disk, and how many times fewer they are than the dense fp32 weights."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from dwindle.artifact import Artifact
from dwindle.bench.machine import this_machine
from dwindle.bench.measurement import COMPRESSION_RATIO, NO_ENGINE, SIZE, Measurement, Subject, exactly
from dwindle.errors import MeasurementError

BYTES_PER_DENSE_WEIGHT: Final = 4


def measure_size(artifact: Artifact, *, n_dense_weights: int | None = None) -> tuple[Measurement, ...]:
    """Return the size of the file and, where `n_dense_weights` is known, its compression ratio.

    The ratio is 4 bytes for each parameter of the dense network ÷ all bytes of the file, graph and metadata included.

    Raises:
        MeasurementError: the file is gone or is not the one that was exported.
    """
    size_bytes = require_unchanged(artifact)
    subject = of_file(artifact)
    size = subject.measured(SIZE, exactly(float(size_bytes)), protocol="bytes on disk")
    if n_dense_weights is None:
        return (size,)
    dense_bytes = BYTES_PER_DENSE_WEIGHT * n_dense_weights
    ratio = subject.measured(
        COMPRESSION_RATIO,
        exactly(dense_bytes / size_bytes),
        protocol="bytes on disk",
        conditions={"dense_bytes": float(dense_bytes)},
    )
    return (size, ratio)


def of_file(artifact: Artifact) -> Subject:
    """Return what is measured where no engine runs the file."""
    return Subject(artifact=artifact.sha256, runtime=NO_ENGINE, machine=this_machine().summary())


def file_at(path: Path) -> Artifact:
    """Return the file at `path`, whoever wrote it.

    Raises:
        MeasurementError: there is none, it is empty, or a file that it needs is missing or outside its folder.
    """
    try:
        artifact = Artifact.of(path)
    except OSError as error:
        missing = Path(error.filename or path)
        remedy = "name an existing file" if missing == path else f"put it back, {path.name} keeps its weights there"
        raise MeasurementError(f"{missing} cannot be read ({error.strerror}); {remedy}") from error
    if artifact.size_bytes == 0:
        raise MeasurementError(f"{path} is empty; export it again")
    return artifact


def require_unchanged(artifact: Artifact) -> int:
    """Return the bytes on disk of `artifact`.

    Raises:
        MeasurementError: the file is gone, empty, or not the one that was exported.
    """
    try:
        found = Artifact.of(artifact.path)
    except OSError as error:
        raise MeasurementError(
            f"{error.filename or artifact.path} cannot be read ({error.strerror}); only a file on disk can be "
            "measured, export it again"
        ) from error
    if found.sha256 != artifact.sha256:
        raise MeasurementError(
            f"{artifact.path} has changed since it was exported (sha256 {found.sha256[:12]}, expected "
            f"{artifact.sha256[:12]}); export it again"
        )
    if found.size_bytes == 0:
        raise MeasurementError(f"{artifact.path} is empty; export it again")
    return found.size_bytes
