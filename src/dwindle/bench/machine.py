"""This file describes the machine a measurement was taken on: processor, memory, system, versions of what ran."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Final

from dwindle.processor import this_processor

PACKAGES: Final = ("torch", "numpy", "onnx", "onnxruntime", "constriction")
"""Packages whose version can change a result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine.

    Attributes:
        n_cores: cores this process may use, not those of the whole machine.
        cpu_features: those of `processor.FEATURES` that the processor names; empty where the system does not tell.
        packages: package -> installed version.
    """

    cpu: str
    n_cores: int
    memory_bytes: int
    os: str
    python: str
    cpu_features: tuple[str, ...] = ()
    packages: Mapping[str, str] = field(default_factory=dict[str, str])

    def summary(self) -> str:
        """Return the machine in one line, as it stands in every measurement.

        >>> Machine(cpu="Cortex-A72", n_cores=4, memory_bytes=4 << 30, os="Linux 6.6", python="3.11.2").summary()
        'Cortex-A72, 4 cores, 4 GiB, Linux 6.6, Python 3.11.2'
        """
        features = f" ({' '.join(self.cpu_features)})" if self.cpu_features else ""
        cores = f"{self.n_cores} core{'' if self.n_cores == 1 else 's'}"
        return f"{self.cpu}{features}, {cores}, {self.memory_bytes / 2**30:.0f} GiB, {self.os}, Python {self.python}"

    def to_plain(self) -> dict[str, Any]:
        """Return plain JSON values; each package stands beside the other fields under its own name."""
        return {
            "cpu": self.cpu,
            "cpu_features": list(self.cpu_features),
            "n_cores": self.n_cores,
            "memory_bytes": self.memory_bytes,
            "os": self.os,
            "python": self.python,
            **self.packages,
        }


@functools.cache
def this_machine() -> Machine:
    """Return the machine this process runs on."""
    cpu, features = this_processor()
    return Machine(
        cpu=cpu or platform.processor() or platform.machine() or "unknown processor",
        cpu_features=features,
        n_cores=_n_cores(),
        memory_bytes=_memory_bytes(),
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        packages=_installed(PACKAGES),
    )


def _n_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # a system without these names
        return 0


def _installed(packages: Iterable[str]) -> dict[str, str]:
    versions: dict[str, str] = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
