"""This file measures what zip makes of a file: the bytes of an archive that holds nothing else."""

from __future__ import annotations

import io
import zipfile
from typing import Final

from dwindle.artifact import Artifact
from dwindle.bench.measurement import ZIPPED_SIZE, Measurement, exactly
from dwindle.bench.probes.size import of_file, require_unchanged

PROTOCOL: Final = "zip archive"
LEVEL: Final = 6
"""Of the deflate algorithm: what zip programs use unless told otherwise."""


def measure_zipped_size(artifact: Artifact) -> Measurement:
    """Return the bytes of a zip archive of `artifact` alone, deflated, names and directory included.

    Raises:
        MeasurementError: the file is gone or is not the one that was exported.
    """
    require_unchanged(artifact)
    n_bytes = zipped_bytes(artifact.path.read_bytes())
    return of_file(artifact).measured(ZIPPED_SIZE, exactly(float(n_bytes)), protocol=PROTOCOL)


def zipped_bytes(content: bytes) -> int:
    """Return the bytes of a zip archive that holds one file with this content.

    >>> zipped_bytes(b"again " * 1000) < 200
    True
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=LEVEL) as archive:
        archive.writestr(zipfile.ZipInfo("model"), content, zipfile.ZIP_DEFLATED, LEVEL)
    return buffer.tell()
