"""This file checks which energy sensors the machine has, and says how to get at those that are closed."""

from __future__ import annotations

from pathlib import Path

from dwindle.bench.energy.find import find_sensors
from dwindle.bench.energy.powercap import zones
from dwindle.bench.energy.zeus import DAEMON, unavailable
from dwindle.doctor.finding import Finding, fine, warning

SUBJECT = "energy sensors"


def check_energy(root: Path) -> Finding:
    """Return the sensors that `dwindle bench --energy` can read, the one that it takes first."""
    sensors, counters = find_sensors(root), zones(root)
    if sensors:
        return fine(SUBJECT, "; ".join(f"{sensor.name} ({sensor.covers})" for sensor in sensors))
    if counters:
        return warning(
            SUBJECT,
            f"{len(counters)} counters of the processor (RAPL) are there, but only an administrator may read them",
            f"sudo chmod a+r {root / 'sys/class/powercap'}/intel-rapl:*/energy_uj (until the next start), or run the "
            f"daemon of zeus and set {DAEMON}",
        )
    more = f"; for a Jetson's rails, {missing}" if (missing := unavailable()) else ""
    return fine(SUBJECT, f"none that can be read: energy is estimated, not measured{more}")
