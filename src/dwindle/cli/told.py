"""This file knows which metrics a command measures, and refuses a budget on others: its verdict would say nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from dwindle.errors import SettingError

if TYPE_CHECKING:
    from dwindle.bench.budget import Budget

_TIMES: Final = ("size", "latency", "latency_median", "latency_p90")
ALONE: Final = (*_TIMES, "throughput", "cpu_time", "load_time")
"""What `bench` always measures."""
PAIRED: Final = (*_TIMES, "speedup")
"""What `compare` always measures of two files on one engine; the drop is that of the first metric."""
ACROSS: Final = (*_TIMES, "speedup", "parity", "top1_agreement")
"""What `compare` always measures of more files."""
_MEMORY: Final = ("memory_peak", "memory_added", "arena")
_REMEDIES: Final[Mapping[str, str]] = {
    **dict.fromkeys(_MEMORY, "add --memory"),
    **dict.fromkeys(("throughput", "cpu_time", "load_time"), "dwindle bench does"),
    "energy": "add --energy",
    "speedup": "dwindle compare FILE OTHER does",
    "parity": "dwindle compare does for files on several engines",
    "top1_agreement": "dwindle compare does for files on several engines",
    "compression_ratio": "dwindle compress does; bound the size",
}


def told_by(always: Sequence[str], *, memory: bool, energy: bool, scores: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the metrics that a call measures: `always`, and what its options ask for."""
    drop = (f"{scores[0]}_drop",) if scores and always == PAIRED else ()
    return (*always, *(_MEMORY if memory else ()), *(("energy",) if energy else ()), *scores, *drop)


def require_told(budget: Budget, told: Sequence[str]) -> None:
    """Refuse bounds on what is not measured.

    Raises:
        SettingError: there is one; the option or command that measures it is named.
    """
    for name in budget.bounds:
        if name not in told:
            raise SettingError(f"the budget bounds {name}, which this call does not measure; {_remedy(name)}")


def _remedy(name: str) -> str:
    if name in _REMEDIES:
        return _REMEDIES[name]
    if name.endswith("_drop"):
        metric = name.removesuffix("_drop")
        return (
            "dwindle compare FILE DENSE does for two files on one engine, with --data and "
            f"--metric {metric} first; so does dwindle compress"
        )
    return f"give --data FILE.npz and --metric {name}"
