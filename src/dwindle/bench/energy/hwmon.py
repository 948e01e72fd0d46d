"""This file reads power rails that Linux shows as hwmon sensors: INA219 and INA226 on boards, and counters of energy.

A rail has an energy counter (`energy1_input`, microjoules), or tells its power (`power1_input`, microwatts), or voltage
and current (`in1_input`, millivolts; `curr1_input`, milliamperes). Power is summed up over time by a thread that reads
it at every update; between two readings it is taken as a straight line. A reading that fails is tried again at the next
updates; where it keeps failing, the joules are not known, and whoever reads them next is told.

Reference: https://docs.kernel.org/hwmon/sysfs-interface.html
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dwindle.bench.energy.files import read_number, read_text
from dwindle.bench.energy.sensor import Joules
from dwindle.bench.protocol import Clock
from dwindle.errors import MeasurementError

FOLDER: Final = "sys/class/hwmon"
CHIPS: Final = re.compile(r"ina\d+x?|ltc29\w+|max34\w+|adm1\w+|pac19\w+|isl28\w+")
"""Chips that are built to measure power; a battery or a graphics card tells its power, too, and is no rail of ours."""
GRAPHICS: Final = frozenset({"amdgpu", "i915", "nouveau", "radeon", "xe"})
"""Drivers of graphics cards, which count energy as well: that of a card, where no engine here computes."""
_PROCESSOR: Final = "amd_energy"
_SOCKET: Final = "Esocket"
"""What that driver calls a counter of a whole socket; those of its cores are a part of it."""
_UPDATE_SECONDS: Final = 0.05
_MICRO: Final = 1e-6
_FASTEST: Final = 0.001
_RETRIES: Final = 3
"""Readings in a row that may fail after the first: a bus that is busy answers the next time."""


class Integral:
    """Joules, summed up from readings of a power."""

    def __init__(self, watts: Callable[[], float], clock: Clock) -> None:
        self._watts, self._clock = watts, clock
        self._lock = threading.Lock()
        self._last = (clock(), watts())
        self._joules = 0.0
        self._failed: MeasurementError | None = None

    def read(self) -> float:
        """Read the power now and return the joules so far.

        Raises:
            MeasurementError: the power cannot be read, or could not be for longer than a few updates.
        """
        with self._lock:
            if self._failed is not None:
                raise MeasurementError(
                    f"a power could not be read during a measurement, so its joules are not known ({self._failed}); "
                    "measure again, or with another sensor"
                ) from self._failed
            now, watts = self._clock(), self._watts()
            then, before = self._last
            self._joules += max(now - then, 0.0) * (watts + before) / 2
            self._last = (now, watts)
            return self._joules

    def keep_reading(self, ended: threading.Event, seconds: float) -> None:
        """Read every so many seconds until `ended`, or until reading failed too often in a row."""
        n_failures = 0
        while not ended.wait(seconds):
            try:
                self.read()
                n_failures = 0
            except MeasurementError as error:
                n_failures += 1
                if n_failures > _RETRIES:
                    with self._lock:
                        self._failed = error
                    return


@dataclass(frozen=True, slots=True, kw_only=True)
class Rail:
    """One rail.

    Attributes:
        name: chip and label: `ina219 VDD_IN`.
        energy: its counter in microjoules, None without one.
        power: files whose product is its power: one in microwatts, or two in millivolts and milliamperes.
        update_seconds: time between two updates.
        clock: what time is taken from.
    """

    name: str
    energy: Path | None = None
    power: tuple[Path, ...] = ()
    update_seconds: float = _UPDATE_SECONDS
    clock: Clock = time.perf_counter

    @property
    def covers(self) -> str:
        """Everything behind the rail."""
        return f"all that the rail {self.name} feeds"

    def watts(self) -> float:
        """Return the power now.

        Raises:
            MeasurementError: a file cannot be read.
        """
        product = 1.0
        for path in self.power:
            product *= read_number(path)
        return product * _MICRO  # microwatts; millivolts times milliamperes are microwatts as well

    @contextmanager
    def opened(self) -> Generator[Joules]:
        """Read the rail from now on; a rail without a counter is read by a thread meanwhile.

        Raises:
            MeasurementError: it cannot be read.
        """
        if self.energy is not None:
            path = self.energy
            read_number(path)
            yield lambda: read_number(path) * _MICRO
            return
        integral, ended = Integral(self.watts, self.clock), threading.Event()
        thread = threading.Thread(target=integral.keep_reading, args=(ended, self.update_seconds), daemon=True)
        thread.start()
        try:
            yield integral.read
        finally:
            ended.set()
            thread.join()


def rails(root: Path = Path("/")) -> tuple[Rail, ...]:
    """Return the rails below `root`, of chips that measure power and of any that counts energy but graphics cards."""
    chips = _numbered(root / FOLDER, "hwmon*")
    return tuple(rail for chip in chips for rail in _rails_of(chip) if _is_readable(rail))


def _rails_of(chip: Path) -> Iterator[Rail]:
    kind, seconds = read_text(chip / "name"), _update_seconds(chip)
    energies, powers, currents = (_numbered(chip, f"{what}*_input") for what in ("energy", "power", "curr"))
    for path in energies:
        if kind in GRAPHICS or (kind == _PROCESSOR and not _own_label(path).startswith(_SOCKET)):
            continue
        yield Rail(name=_label(path, kind), energy=path, update_seconds=seconds)
    if energies or not CHIPS.fullmatch(kind):
        return
    for path in powers:
        yield Rail(name=_label(path, kind), power=(path,), update_seconds=seconds)
    for path in () if powers else currents:
        voltage = chip / path.name.replace("curr", "in")
        if voltage.exists():
            yield Rail(name=_label(voltage, kind), power=(voltage, path), update_seconds=seconds)


def _numbered(folder: Path, pattern: str) -> list[Path]:
    """Return the files in the order of their numbers: `energy2_input` before `energy10_input`."""
    return sorted(folder.glob(pattern), key=lambda path: (int("0" + _digits(path)), path.name))


def _digits(path: Path) -> str:
    return "".join(filter(str.isdecimal, path.name))


def _own_label(path: Path) -> str:
    """Return the label of a file's rail: `in1_input` is called `in1_label`."""
    return read_text(path.with_name(path.name.replace("_input", "_label")))


def _label(path: Path, kind: str) -> str:
    """Return chip and label, or number, of a rail."""
    return f"{kind or path.parent.name} {_own_label(path) or _digits(path)}"


def _update_seconds(chip: Path) -> float:
    try:
        return max(read_number(chip / "update_interval") / 1e3, _FASTEST)
    except MeasurementError:
        return _UPDATE_SECONDS


def _is_readable(rail: Rail) -> bool:
    try:
        for path in (*rail.power, *((rail.energy,) if rail.energy else ())):
            read_number(path)
    except MeasurementError:
        return False
    return True
