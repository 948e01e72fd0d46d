"""This file reads the small files in which Linux shows its sensors: one number or one word each."""

from __future__ import annotations

import math
from pathlib import Path

from dwindle.errors import MeasurementError


def read_text(path: Path) -> str:
    """Return the text of a file without the space around it; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def read_number(path: Path) -> float:
    """Return the number in a file.

    Raises:
        MeasurementError: it cannot be read, or holds no number.
    """
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise MeasurementError(f"the sensor {path} cannot be read ({error}); `dwindle doctor` says why") from error
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise MeasurementError(f"the sensor {path} says {text[:40]!r} and no number; measure without it")
    return value
