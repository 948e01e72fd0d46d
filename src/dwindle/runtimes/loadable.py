"""This file checks what can be known of a file before an engine opens it: some abort the process where they err."""

from __future__ import annotations

import re
from pathlib import Path

from dwindle.artifact import Artifact
from dwindle.errors import MeasurementError, RuntimeUnavailableError, SettingError
from dwindle.runtimes.protocol import Runtime

_N_BYTES = 64
"""As many as any of the formats needs to tell itself."""


def require_loadable(runtime: Runtime, artifact: Artifact, *, n_threads: int) -> None:
    """Check that `runtime` is installed, knows the format of `artifact`, and is to compute with a thread at least.

    Raises:
        SettingError: fewer than one thread.
        RuntimeUnavailableError: the engine cannot run here.
        MeasurementError: it does not load the format.
    """
    if n_threads < 1:
        raise SettingError(f"n_threads must be at least 1, got {n_threads}")
    if reason := runtime.unavailable():
        raise RuntimeUnavailableError(reason)
    if artifact.format not in runtime.formats:
        known = " and ".join(f".{known}" for known in runtime.formats)
        raise MeasurementError(
            f"{runtime.name.partition(' ')[0]} loads {known} files, not {artifact.format!r} ({artifact.path}); deploy "
            f"as {runtime.formats[0]}"
        )


def require_beginning(path: Path, pattern: bytes, *, kind: str) -> None:
    """Check that the first bytes of the file at `path` match `pattern`, a regular expression.

    What lies behind them is checked by the engine: a file that ends too early is refused there, but a few changed bytes
    may still end the process.

    Raises:
        MeasurementError: they do not, or the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_N_BYTES)
    except OSError as error:
        raise MeasurementError(f"cannot read {path}: {error.strerror or error}; export it again") from error
    if re.match(pattern, start, re.DOTALL) is None:
        told = "is empty" if not start else f"begins with {start[:8]!r}"
        raise MeasurementError(f"{path} is no {kind} file: it {told}; export it again")
