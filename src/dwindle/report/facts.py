"""This file sorts the entries of a ledger into what the report shows, and tolerates whatever is absent or odd."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from dwindle.report.words import as_name

Data = Mapping[str, Any]
_HUGE: Final = 1e100
"""No measured figure comes near it; beyond, the arithmetic of an axis could overflow."""
ROLES: Final = ("dense", "compressed")
_KINDS: Final = {
    "run", "stage", "artifact", "measurement", "tensor", "latency_samples", "confusion", "summary", "budget", "profile",
    "estimate",
}  # fmt: skip


class LedgerEntry(Protocol):
    """What the report needs of `bench.ledger.Entry`."""

    @property
    def kind(self) -> str:
        """Which sort of fact."""
        ...

    @property
    def data(self) -> Mapping[str, Any]:
        """The fact."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The ledger, sorted; where a fact was written more than once, the last one counts.

    Attributes:
        remarks: what a reader must know about the ledger itself, as sentences.
    """

    run: Data
    stages: tuple[Data, ...]
    artifacts: tuple[Data, ...]
    measurements: tuple[Data, ...]
    tensors: tuple[Data, ...]
    latency_samples: tuple[Data, ...]
    confusions: Mapping[str, Data]
    profiles: Mapping[str, Data]
    estimates: tuple[Data, ...]
    summary: Data
    budget: Data
    remarks: tuple[str, ...]


def gather(entries: Iterable[LedgerEntry]) -> Facts:
    """Sort `entries`; nothing is refused, but what cannot be shown is remarked on.

    A run writes everything it knows, also what it found in its cache; so the entries before the last start of a run are
    left aside, but for the time that a stage really took.
    """
    entries = tuple(entries)
    starts = [i for i, entry in enumerate(entries) if entry.kind == "run"]
    earlier = [
        entry.data for entry in entries if entry.kind == "stage" and isinstance(cast("object", entry.data), Mapping)
    ]
    entries = entries[starts[-1] :] if starts else entries
    by_kind: dict[str, list[Data]] = {kind: [] for kind in _KINDS}
    odd: Counter[str] = Counter()
    for entry in entries:
        kind = str(entry.kind)
        if kind in _KINDS and isinstance(cast("object", entry.data), Mapping):
            by_kind[kind].append(entry.data)
        else:
            odd[kind] += 1
    artifacts = _last_of(by_kind["artifact"], "role", "format")
    stale = _stale_files(by_kind["artifact"], artifacts)
    kept = [m for m in by_kind["measurement"] if text(m, "artifact") not in stale]
    guesses = [e for e in by_kind["estimate"] if text(e, "artifact") not in stale]
    samples = [s for s in by_kind["latency_samples"] if text(s, "artifact") not in stale]
    summary = _last(by_kind["summary"])
    return Facts(
        run=_last(by_kind["run"]),
        stages=_stages(by_kind["stage"], earlier),
        artifacts=artifacts,
        measurements=_last_of(kept, "role", "metric", "artifact", "runtime", "protocol", "conditions"),
        tensors=_last_of(by_kind["tensor"], "name"),
        latency_samples=_last_of(samples, "role", "artifact", "runtime", "n_threads", "batch"),
        confusions={role: data for data in by_kind["confusion"] if (role := text(data, "role")) in ROLES},
        profiles={role: data for data in by_kind["profile"] if (role := text(data, "role")) in ROLES},
        estimates=_last_of(guesses, "role", "metric", "artifact"),
        summary=summary,
        budget=_last(by_kind["budget"]) or _budget_of(summary),
        remarks=_remarks(odd, n_runs=len(starts), n_stale=len(by_kind["measurement"]) - len(kept)),
    )


def number(data: Data, key: str) -> float | None:
    """Return the finite number under `key`, or None (NaN compares as not small enough).

    >>> number({"n": 3}, "n"), number({"n": float("nan")}, "n"), number({"n": "3"}, "n")
    (3, None, None)
    """
    return _finite(data.get(key))


def text(data: Data, key: str) -> str:
    """Return what stands under `key` as text, without separators in numbers; empty where it is absent."""
    value = data.get(key)
    return "" if value is None else as_name(value)


def file_names(facts: Facts) -> dict[str, str]:
    """Return the short name of each file (its format, where the name is unknown) by its digest."""
    return {text(a, "sha256"): text(a, "path") or text(a, "format") for a in facts.artifacts}


def table(data: Data, key: str) -> Data:
    """Return the mapping under `key`; empty where there is none."""
    value = data.get(key)
    return cast("Data", value) if isinstance(value, Mapping) else {}


def items(data: Data, key: str) -> list[Any]:
    """Return the list under `key`; empty where there is none."""
    value = data.get(key)
    return list(cast("Iterable[Any]", value)) if isinstance(value, list | tuple) else []


def numbers(data: Data, key: str) -> list[float]:
    """Return the finite numbers in the list under `key`."""
    return [value for item in items(data, key) if (value := _finite(item)) is not None]


def metric_name(measurement: Data) -> str:
    """Return the name of what was measured."""
    return text(table(measurement, "metric"), "name")


def _finite(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return value if abs(value) < _HUGE else None


def _last(found: list[Data]) -> Data:
    return found[-1] if found else {}


def _last_of(found: list[Data], *keys: str) -> tuple[Data, ...]:
    latest: dict[str, Data] = {}
    for data in found:
        # A metric by its name: it may have been written with or without the name of its class.
        latest[_identity([metric_name(data) if key == "metric" else data.get(key) for key in keys])] = data
    return tuple(latest.values())


def _stages(found: list[Data], ever: list[Data]) -> tuple[Data, ...]:
    """Give a stage that came from a cache the seconds that it took when it was first run."""
    first: dict[str, Any] = {}
    for stage in ever:
        first.setdefault(_without_seconds(stage), stage.get("seconds"))
    return tuple({**stage, "seconds": first.get(_without_seconds(stage))} for stage in found)


def _without_seconds(stage: Data) -> str:
    return _identity({key: value for key, value in stage.items() if key != "seconds"})


def _identity(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _stale_files(written: list[Data], current: tuple[Data, ...]) -> set[str]:
    """Digests of files that a later run replaced; their measurements speak of bytes that are gone."""
    return {text(a, "sha256") for a in written} - {text(a, "sha256") for a in current} - {""}


def _budget_of(summary: Data) -> Data:
    budget = summary.get("budget")
    return {"verdict": budget} if isinstance(budget, str) else table(summary, "budget")


def _remarks(odd: Counter[str], *, n_runs: int, n_stale: int) -> tuple[str, ...]:
    remarks: list[str] = []
    if n_runs > 1:
        remarks.append(f"The ledger holds {n_runs} starts of a run; this page shows the last one.")
    if n_stale:
        remarks.append(f"{n_stale} measurements belong to files that were written anew since; they are left out.")
    if odd:
        listed = ", ".join(f"{kind} ({count})" for kind, count in sorted(odd.items()))
        remarks.append(f"Entries that this report does not know how to show: {listed}.")
    return tuple(remarks)
