"""This file examines an installation and its machine from head to foot."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dwindle.bench.machine import this_machine
from dwindle.doctor import machine_state, requirements
from dwindle.doctor.energy import check_energy
from dwindle.doctor.engines import check_engines
from dwindle.doctor.finding import Finding, broken, fine
from dwindle.doctor.self_test import check_end_to_end
from dwindle.errors import DataError

ROOT: Final = Path("/")


def examine(folder: Path | None = None, *, root: Path = ROOT, with_self_test: bool = True) -> tuple[Finding, ...]:
    """Return a finding for everything that is looked at.

    Args:
        folder: where files will be written; the current one if not given.
        root: below which the system's files are read.
        with_self_test: export and run a small network (seconds).
    """
    python, needed = requirements.declared()
    machine = this_machine()
    found = [
        requirements.check_python(python),
        *requirements.check_requirements(needed),
        *requirements.check_extras(needed),
        _torch(),
        *check_engines(),
        *machine_state.check_processor(machine),
        machine_state.check_cores(machine, os.cpu_count()),
        *machine_state.check_limits(root, machine),
        machine_state.check_frequency(root),
        machine_state.check_load(_load_average(), machine.n_cores),
        check_energy(root),
        *machine_state.check_folder(folder or Path.cwd()),
        *_data_sets(),
    ]
    return (*found, check_end_to_end()) if with_self_test else tuple(found)


def _torch() -> Finding:
    try:
        import torch
    except Exception as error:  # ruff: ignore[blind-except] a broken build fails in many ways
        return broken("torch build", f"cannot be imported: {error}", "pip install --force-reinstall torch")
    kind = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    devices = f", {torch.cuda.device_count()} GPUs" if torch.cuda.is_available() else ""
    return fine("torch build", f"{torch.__version__}, {kind}{devices}, {torch.get_num_threads()} threads")


def _load_average() -> float | None:
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):  # a system without it
        return None


def _data_sets() -> list[Finding]:
    """Return where each data set of the package is; one that is absent is nothing to worry about."""
    try:
        from dwindle.data import cifar10, fashion_mnist, nct_crc_he, uci_har
        from dwindle.data.locate import find_folder
    except Exception as error:  # ruff: ignore[blind-except] torch may be broken, which is said above
        return [broken("data sets", f"cannot be looked for: {error}", "mend what is broken above")]
    names = (fashion_mnist.SOURCE.name, cifar10.SOURCE.name, uci_har.FOLDER_NAME, nct_crc_he.FOLDER_NAME)
    return [fine(f"data set {name}", _place(name, find_folder)) for name in names]


def _place(name: str, find_folder: Callable[[str, Callable[[Path], str]], Path | None]) -> str:
    try:
        folder = find_folder(name, lambda path: "" if path.is_dir() else "does not exist")
    except DataError:
        folder = None
    return "not on this machine" if folder is None else str(folder)
