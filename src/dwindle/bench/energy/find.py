"""This file finds the energy sensors of a machine, the one that sees most of an inference first."""

from __future__ import annotations

from pathlib import Path

from dwindle.bench.energy.hwmon import rails
from dwindle.bench.energy.powercap import rapl
from dwindle.bench.energy.sensor import Sensor
from dwindle.bench.energy.zeus import zeus_sensors
from dwindle.errors import MeasurementError


def find_sensors(root: Path = Path("/")) -> tuple[Sensor, ...]:
    """Return the sensors that can be read: RAPL, what zeus finds, then power rails.

    Rails come last because only their names say what they feed. Looking takes a moment and starts nothing.

    Args:
        root: below which the system's files are read.
    """
    counters = rapl(root)
    return (*((counters,) if counters is not None else ()), *zeus_sensors(), *rails(root))


def first_sensor() -> Sensor:
    """Return the sensor that sees most of an inference here.

    Raises:
        MeasurementError: there is none that can be read.
    """
    sensor = next(iter(find_sensors()), None)
    if sensor is None:
        raise MeasurementError(
            "no energy sensor can be read on this machine; `dwindle doctor` says why: leave energy out, or estimate it "
            "with dwindle bench --energy"
        )
    return sensor
