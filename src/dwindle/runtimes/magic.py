"""This file looks whether a file begins as its format says: some engines abort the process where it does not."""

from __future__ import annotations

import re
from pathlib import Path

from dwindle.errors import MeasurementError

_N_BYTES = 64
"""As many as any of the formats needs to tell itself."""


def require_beginning(path: Path, pattern: bytes, *, kind: str) -> None:
    """Check that the first bytes of the file at `path` match `pattern`, a regular expression.

    What lies behind them is checked by the engine; a file that was changed on purpose may still end the process.

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
