"""This file reads RAPL, the energy counters of Intel and AMD processors, as Linux shows them under sysfs.

A counter runs up to `max_energy_range_uj` and starts again at 0, every hour or less. The readings here are sums of
differences, each taken modulo the range, so they never fall; a counter must be read once per round, and the probe reads
it every few seconds. (The library zeus counts the rounds in a process of its own, which starts the user's script again
where that has no main guard.)

Reference: https://docs.kernel.org/power/powercap/powercap.html
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dwindle.bench.energy.files import read_number, read_text
from dwindle.bench.energy.sensor import Joules
from dwindle.errors import MeasurementError

FOLDER: Final = "sys/class/powercap"
_UPDATE_SECONDS: Final = 0.001
_MICRO: Final = 1e-6
_WIDEST: Final = 1 << 32
"""Microjoules of a counter that does not tell its range: the register has 32 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """One counter: its file and the value, in microjoules, after which it starts again."""

    path: Path
    range_uj: float

    def read(self) -> float:
        """Return its microjoules.

        Raises:
            MeasurementError: it cannot be read.
        """
        return read_number(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rapl:
    """The processor's own counters.

    Attributes:
        counters: packages, and memory where it is counted apart.
        domains: their names.
    """

    counters: tuple[Counter, ...]
    domains: tuple[str, ...]

    @property
    def name(self) -> str:
        """`RAPL` and the domains."""
        return f"RAPL {' + '.join(self.domains)}"

    @property
    def covers(self) -> str:
        """Packages with all their cores, and memory where the processor counts it."""
        return "the processor packages" + (" and memory" if "dram" in self.domains else "")

    @property
    def update_seconds(self) -> float:
        """A millisecond."""
        return _UPDATE_SECONDS

    @contextmanager
    def opened(self) -> Generator[Joules]:
        """Read the counters from now on.

        Raises:
            MeasurementError: one of them cannot be read.
        """
        last = [counter.read() for counter in self.counters]
        total = 0.0

        def joules() -> float:
            nonlocal total
            for place, counter in enumerate(self.counters):
                now = counter.read()
                total += ((now - last[place]) % counter.range_uj) * _MICRO
                last[place] = now
            return total

        yield joules


def rapl(root: Path = Path("/")) -> Rapl | None:
    """Return the counters below `root` that may be read; None where there are none.

    A package's cores are in it, so parts of packages are left out; memory is not, so it is added.
    """
    found: list[tuple[str, Counter]] = []
    for zone in zones(root):
        domain = read_text(zone / "name")
        if not os.access(zone / "energy_uj", os.R_OK) or not (domain.startswith("package") or domain == "dram"):
            continue
        try:
            range_uj = read_number(zone / "max_energy_range_uj")
        except MeasurementError:
            range_uj = float(_WIDEST)
        found.append((domain, Counter(path=zone / "energy_uj", range_uj=range_uj if range_uj > 0 else float(_WIDEST))))
    if not any(domain != "dram" for domain, _ in found):
        return None
    return Rapl(counters=tuple(counter for _, counter in found), domains=tuple(domain for domain, _ in found))


def zones(root: Path = Path("/")) -> tuple[Path, ...]:
    """Return the folders of all counters, those too that may not be read; a zone that is listed twice only once.

    `intel-rapl:0:1` is part of `intel-rapl:0`, and `intel-rapl-mmio:0` is the same package by another way.
    """
    return tuple(sorted(path for path in (root / FOLDER).glob("intel-rapl:*") if (path / "energy_uj").exists()))
