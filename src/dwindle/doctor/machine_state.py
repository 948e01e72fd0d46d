"""This file checks the machine: what its processor can do, which limits hold, and what would make timings noisy.

All files are read below a root, so that the machine can be any folder in a test. What a system does not tell is not
held against it.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from pathlib import Path
from typing import Final

from dwindle.bench.machine import Machine
from dwindle.doctor.finding import Finding, broken, fine, warning
from dwindle.processor import BF16, INT8

GIB: Final = 2**30
BUSY: Final = 0.5
"""Load average over the last minute from which other work will be seen in timings."""


def check_processor(machine: Machine) -> list[Finding]:
    """Return what the processor is, and what int8 and bf16 will be like on it."""
    has = set(machine.cpu_features)
    int8 = [feature for feature in INT8 if feature in has]
    bf16 = [feature for feature in BF16 if feature in has]
    words = {
        "int8": f"multiplied directly ({', '.join(int8)})" if int8 else "no instruction of its own: a smaller gain",
        "bf16": f"computed directly ({', '.join(bf16)})" if bf16 else "emulated: training stays in float32",
    }
    if not machine.cpu_features:
        words = {"int8, bf16": "this system does not say what the processor can do"}
    return [
        fine("processor", f"{machine.cpu} ({' '.join(machine.cpu_features) or 'features unknown'})"),
        *itertools.starmap(fine, words.items()),
    ]


def check_cores(machine: Machine, n_installed: int | None) -> Finding:
    """Return how many cores this process may use."""
    if n_installed and machine.n_cores < n_installed:
        return fine("cores", f"{machine.n_cores} of {n_installed}: this process is bound to some of them")
    return fine("cores", str(machine.n_cores))


def check_load(average: float | None, n_cores: int) -> Finding:
    """Return whether the machine has other work; `average` is the load over the last minute."""
    if average is None:
        return fine("load", "this system does not tell")
    words = f"{average:.2f} on {n_cores} cores over the last minute"
    if average < BUSY:
        return fine("load", words)
    return warning(
        "load", f"{words}: timings will be noisy", "wait until other work is done before you measure latency"
    )


def check_limits(root: Path, machine: Machine) -> list[Finding]:
    """Return the limits that a container sets on processor time and memory (cgroup, version 2 or 1)."""
    found: list[Finding] = []
    quota = _cpu_quota(root)
    if quota is None:
        found.append(fine("cpu limit", "none"))
    elif quota < machine.n_cores:
        found.append(
            warning(
                "cpu limit",
                f"{quota:.2f} of {machine.n_cores} cores: runs stall once a period's share is used up",
                "measure with at most that many threads, or give the container whole cores",
            )
        )
    else:
        found.append(fine("cpu limit", f"{quota:.2f} cores"))
    limit = _memory_limit(root)
    memory = f"{machine.memory_bytes / GIB:.1f} GiB"
    if limit is not None and limit < machine.memory_bytes:
        found.append(fine("memory", f"{limit / GIB:.1f} GiB of {memory} may be used"))
    else:
        found.append(fine("memory", memory))
    return found


def check_frequency(root: Path) -> Finding:
    """Return whether the processor keeps its frequency."""
    governors = {
        _read(path) for path in sorted((root / "sys/devices/system/cpu").glob("cpu*/cpufreq/scaling_governor"))
    } - {""}
    if not governors:
        return fine("frequency", "this system does not tell its governor")
    listed = ", ".join(sorted(governors))
    if governors == {"performance"}:
        return fine("frequency", listed)
    return warning(
        "frequency",
        f"governor {listed}: the frequency follows the load, and timings follow the frequency",
        "sudo cpupower frequency-set --governor performance",
    )


def check_folder(folder: Path) -> list[Finding]:
    """Return whether files can be written into `folder`, and how much room there is."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"dwindle")
            file.flush()
    except OSError as error:
        return [
            broken(
                "folder",
                f"{folder} cannot be written ({error.strerror})",
                "work in a folder of yours, or free some space",
            )
        ]
    free = shutil.disk_usage(folder).free
    words = f"{free / GIB:.1f} GiB free in {folder}"
    if free < GIB:
        return [fine("folder", "can be written"), warning("disk", words, "stage caches may need more: make room")]
    return [fine("folder", "can be written"), fine("disk", words)]


def _cpu_quota(root: Path) -> float | None:
    """Return the smallest number of cores that a group of this process may use."""
    quotas: list[float] = []
    for group in _groups(root):
        words = _read(group / "cpu.max").split()
        if len(words) == 2 and words[0].isdigit() and int(words[1]) > 0:
            quotas.append(int(words[0]) / int(words[1]))
    quota = _read(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us")
    period = _read(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us")
    if quota.isdigit() and period.isdigit() and int(period) > 0:
        quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def _memory_limit(root: Path) -> int | None:
    texts = [_read(group / "memory.max") for group in _groups(root)]
    texts.append(_read(root / "sys/fs/cgroup/memory/memory.limit_in_bytes"))
    return min((int(text) for text in texts if text.isdigit()), default=None)


def _groups(root: Path) -> list[Path]:
    """Return the folders of this process's groups, from its own up to the root."""
    top = root / "sys/fs/cgroup"
    own = next((line[3:] for line in _read(root / "proc/self/cgroup").splitlines() if line.startswith("0::")), "/")
    group = top / own.strip("/")
    return [group, *(parent for parent in group.parents if parent == top or top in parent.parents)]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):  # absent on this system, or not ours to read
        return ""
