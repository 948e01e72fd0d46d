"""This file finds the energy sensors of a machine, the one that sees most of an inference first."""

from __future__ import annotations

from pathlib import Path

from dwindle.bench.energy.hwmon import rails
from dwindle.bench.energy.powercap import rapl
from dwindle.bench.energy.sensor import Sensor
from dwindle.bench.energy.zeus import zeus_sensors


def find_sensors(root: Path = Path("/")) -> tuple[Sensor, ...]:
    """Return the sensors that can be read: RAPL, what zeus finds, then power rails.

    Rails come last because only their names say what they feed. Looking takes a moment and starts nothing.

    Args:
        root: below which the system's files are read.
    """
    counters = rapl(root)
    return (*((counters,) if counters is not None else ()), *zeus_sensors(), *rails(root))
