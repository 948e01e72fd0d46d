"""This file reads sensors through the library zeus: NVIDIA's counters (NVML), the rails of a Jetson, and its daemon.

Zeus: https://ml.energy/zeus, You, Chung and Chowdhury, NSDI 2023. Its daemon (zeusd) reads RAPL for users who may not.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

from dwindle.bench.energy.sensor import Joules
from dwindle.errors import MeasurementError

PACKAGE: Final = "zeus"
INSTALL: Final = "pip install 'dwindle[energy]'"
DAEMON: Final = "ZEUSD_SOCK_PATH"
_GPU_SECONDS: Final = 0.1
_JETSON_SECONDS: Final = 0.1
_RAPL_SECONDS: Final = 0.001
_MILLI: Final = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeusSensor:
    """A counter of zeus.

    Attributes:
        name: of the sensor.
        covers: what it measures.
        update_seconds: time between two updates.
        millijoules: returns a function that reads it.
    """

    name: str
    covers: str
    update_seconds: float
    millijoules: Callable[[], Callable[[], float]]

    @contextmanager
    def opened(self) -> Generator[Joules]:
        """Read the counter from now on.

        Raises:
            MeasurementError: zeus cannot read it.
        """
        try:
            read = self.millijoules()
            read()
        except Exception as error:  # zeus and the libraries below it have errors of their own
            raise MeasurementError(
                f"{self.name} cannot be read: {error}; `dwindle doctor` lists the sensors"
            ) from error
        yield lambda: read() * _MILLI


def unavailable() -> str | None:
    """Return why zeus cannot be used here, with the command that installs it; None if it can."""
    return None if importlib.util.find_spec(PACKAGE) is not None else f"the package zeus is missing: {INSTALL}"


def zeus_sensors(*, with_gpus: bool = False) -> tuple[ZeusSensor, ...]:
    """Return the sensors that zeus finds: a Jetson's rails, the daemon's RAPL, and graphics cards where asked for.

    Every engine here computes on the processor, and a card's energy says nothing about that.
    """
    if unavailable() is not None:
        return ()
    looked_for = (_jetson, _daemon, *((_gpus,) if with_gpus else ()))
    found: list[ZeusSensor] = []
    for look in looked_for:
        try:
            found += look()
        except Exception:  # ruff: ignore[blind-except] (on a machine without them)
            continue
    return tuple(found)


def _jetson() -> list[ZeusSensor]:
    jetson: Any = import_module("zeus.device.soc.jetson")
    if not jetson.jetson_is_available():
        return []

    def reader() -> Callable[[], float]:
        board = jetson.Jetson()
        return lambda: float(board.get_total_energy_consumption().total_energy_mj)

    return [
        ZeusSensor(name="Jetson total", covers="the whole module", update_seconds=_JETSON_SECONDS, millijoules=reader)
    ]


def _daemon() -> list[ZeusSensor]:
    if not os.environ.get(DAEMON):
        return []

    def reader() -> Callable[[], float]:
        packages: Any = import_module("zeus.device.cpu").get_cpus()

        def read() -> float:
            parts = [packages.get_total_energy_consumption(index) for index in range(len(packages))]
            return float(sum(part.cpu_mj + (part.dram_mj or 0.0) for part in parts))

        return read

    reader()()
    return [
        ZeusSensor(
            name="RAPL through zeusd",
            covers="the processor packages and memory where it is counted",
            update_seconds=_RAPL_SECONDS,
            millijoules=reader,
        )
    ]


def _gpus() -> list[ZeusSensor]:
    cards: Any = import_module("zeus.device.gpu").get_gpus()

    def sensor(index: int) -> ZeusSensor:
        return ZeusSensor(
            name=f"NVML card {index}",
            covers=f"graphics card {index}",
            update_seconds=_GPU_SECONDS,
            millijoules=lambda: lambda: float(cards.get_total_energy_consumption(index)),
        )

    return [sensor(i) for i in range(len(cards)) if cards.supports_get_total_energy_consumption(i)]
