"""This file holds budgets: bounds on metrics, and whether measurements keep them, break them, or cannot tell."""

from __future__ import annotations

import enum
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Self, cast

from dwindle.bench.measurement import (
    ARENA,
    AT_LEAST,
    COMPRESSION_RATIO,
    CPU_TIME,
    ENERGY,
    LATENCY,
    LATENCY_MEDIAN,
    LATENCY_P90,
    LOAD_TIME,
    MEMORY_ADDED,
    MEMORY_PEAK,
    NO_ENGINE,
    PARITY,
    SIZE,
    SPEEDUP,
    THROUGHPUT,
    TOP1_AGREEMENT,
    Measurement,
    Metric,
)
from dwindle.bench.probes.scores import SCORES, drop_of
from dwindle.errors import SettingError
from dwindle.settings import nearest

_OF_FILES: Final = (
    ARENA, COMPRESSION_RATIO, CPU_TIME, ENERGY, LATENCY, LATENCY_MEDIAN, LATENCY_P90, LOAD_TIME, MEMORY_ADDED,
    MEMORY_PEAK, PARITY, SIZE, SPEEDUP, THROUGHPUT, TOP1_AGREEMENT,
)  # fmt: skip
_ANSWERS: Final = tuple(score.metric for score in SCORES.values())
_KNOWN: Final = {metric.name: metric for metric in (*_OF_FILES, *_ANSWERS, *map(drop_of, _ANSWERS))}
_UNITS: Final[Mapping[str, Mapping[str, Decimal]]] = {
    metric_unit: {unit: Decimal(factor) for unit, factor in factors.items()}
    for metric_unit, factors in {
        "bytes": {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30},
        "ms": {"US": "0.001", "MS": 1, "S": 1000},
        "mJ": {"NJ": "0.000001", "UJ": "0.001", "MJ": 1, "J": 1000},
        "points": {"PT": 1, "POINTS": 1, "PP": 1},
        "fraction": {"%": "0.01"},
        "x": {"X": 1},
    }.items()
}
"""Decimal, because 2.3 x 1e6 is a little less than 2,300,000 in floats: a file of that size would break its bound."""
_QUANTITY: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-z%]*)\s*")


class Verdict(enum.Enum):
    """What measurements say about a bound."""

    MET = "met"
    VIOLATED = "violated"
    UNDECIDED = "undecided"
    """The interval holds the bound, or nothing was measured."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Bounds on metrics, by metric name and in the metric's unit.

    A bound is an upper one where less is better and a lower one where more is better (`Metric.better`).
    """

    bounds: Mapping[str, float]

    def __post_init__(self) -> None:
        for name, bound in self.bounds.items():
            if not math.isfinite(bound):
                raise SettingError(f"the budget bounds {name} by {bound}; give a finite number")

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], *, where: str, metrics: Iterable[Metric] = ()) -> Self:
        """Build a budget from a table such as `{max_size = "250KB", max_accuracy_drop = 0.5, min_speedup = 2}`.

        Keys are `max_` or `min_` and the name of a metric, whose unit may follow (`max_size_bytes`). `metrics` of yours
        may be bounded beside the built-in ones, and so may the drop of each, as `max_<name>_drop`.

        Raises:
            SettingError: an unknown key (the nearest known one is named), or a value that is no quantity.
        """
        own = tuple(metrics)
        known = (*_KNOWN.values(), *own, *map(drop_of, own))
        keys = {("max_" if m.better < 0 else "min_") + m.name: m for m in known}
        with_units = {f"{key}_{m.unit}": m for key, m in keys.items() if m.unit in {"bytes", "mJ", "ms", "points"}}
        bounds: dict[str, float] = {}
        for key, value in plain.items():
            metric = keys.get(key) or with_units.get(key)
            if metric is None:
                raise SettingError(f"{where}: unknown key {key!r}; {nearest(key, keys)}")
            if metric.name in bounds:
                raise SettingError(f"{where}: {metric.name} is bounded twice; keep one of the keys")
            bounds[metric.name] = parse_quantity(value, metric, where=f"{where}.{key}")
        return cls(bounds)

    @classmethod
    def read(cls, text: str, *, metrics: Iterable[Metric] = ()) -> Self:
        """Build a budget from a command line: "max_size=250KB,max_latency=5ms", or the name of a TOML file.

        The file holds the same keys, at its top or in a table `budget`.

        Raises:
            SettingError: as `from_plain`; the file cannot be read; a part without "="; nothing at all.
        """
        is_file = "=" not in text and bool(text.strip(" ,"))
        plain = _table(Path(text)) if is_file else _pairs(text)
        if not plain:
            raise SettingError(f"the budget {text!r} bounds nothing; give max_size=250KB, say, or a TOML file")
        return cls.from_plain(plain, where=text if is_file else "budget", metrics=metrics)

    @property
    def max_size_bytes(self) -> float | None:
        """The bound on the size of the file, None if there is none."""
        return self.bounds.get(SIZE.name)

    def judge(self, measurements: Iterable[Measurement]) -> Verdict:
        """Return MET if every bound is met, VIOLATED if one is violated, else UNDECIDED."""
        return worst(self.verdicts(measurements).values())

    def verdicts(self, measurements: Iterable[Measurement]) -> dict[str, Verdict]:
        """Return the verdict on each bound; where one metric was measured several times, the worst counts."""
        found: dict[str, set[Verdict]] = {name: set() for name in self.bounds}
        for measurement in measurements:
            name = measurement.metric.name
            if name in found:
                found[name].add(_verdict(measurement, self.bounds[name]))
        order = (Verdict.VIOLATED, Verdict.UNDECIDED, Verdict.MET)
        return {name: next((v for v in order if v in seen), Verdict.UNDECIDED) for name, seen in found.items()}

    def judge_each(self, measurements: Iterable[Measurement]) -> dict[tuple[str, str], dict[str, Verdict]]:
        """Return the verdicts for each file and engine, by (sha256 of the file, name of the engine).

        What belongs to a file whatever runs it (its size) counts for every engine that ran it. An engine that ran
        nothing, of which only the planned arena is known, is judged where the arena is bounded.
        """
        by_file: dict[str, dict[str, list[Measurement]]] = {}
        for measurement in measurements:
            by_engine = by_file.setdefault(measurement.artifact, {})
            if measurement.metric.name != ARENA.name or ARENA.name in self.bounds:
                by_engine.setdefault(measurement.runtime, []).append(measurement)
        found: dict[tuple[str, str], dict[str, Verdict]] = {}
        for file, by_engine in by_file.items():
            of_file = by_engine.pop(NO_ENGINE, [])
            for engine, own in (by_engine or {NO_ENGINE: []}).items():
                found[file, engine] = self.verdicts([*of_file, *own])
        return found


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return VIOLATED if one is, else UNDECIDED if one is, else MET."""
    seen = set(verdicts)
    return next((v for v in (Verdict.VIOLATED, Verdict.UNDECIDED) if v in seen), Verdict.MET)


def metric_of(name: str) -> Metric | None:
    """Return the built-in metric called `name`, or the drop of one; None of those of yours."""
    return _KNOWN.get(name)


def parse_quantity(value: Any, metric: Metric, *, where: str) -> float:
    """Return `value`, a number or text such as "250KB", in the unit of `metric`.

    KB, MB and GB are powers of 1000, KiB, MiB and GiB powers of 1024; microseconds are `us`, microjoules `uJ`. The case
    of letters does not matter, so `mJ` and `MJ` are both millijoules. A share is a number from 0 to 1, or text with %.

    Raises:
        SettingError: it is neither a number nor a quantity of that unit, or no share where the metric is one.

    >>> parse_quantity("250KB", SIZE, where="budget")
    250000.0
    >>> parse_quantity("5 ms", LATENCY, where="budget")
    5.0
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return _as_bound(float(value), metric, given=f"{where} = {value!r}")
        except OverflowError:
            return math.inf  # which no budget takes
    units = _UNITS.get(metric.unit, {})
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    factor = {"": Decimal(1), **units}.get(match[2].upper()) if match else None
    if match is None or factor is None:
        known = ", ".join(units) or "no unit"
        raise SettingError(f"{where} = {value!r} is no quantity in {metric.unit}; give a number, or text with {known}")
    return _as_bound(float(Decimal(match[1]) * factor), metric, given=f"{where} = {value!r}")


def _as_bound(bound: float, metric: Metric, *, given: str) -> float:
    if bound < 0 and metric.unit in {"bytes", "ms", "mJ", "x"} and math.isfinite(bound):
        raise SettingError(f"{given} is below 0, and nothing can have fewer than 0 {metric.unit}; give 0 or more")
    if metric.unit == "fraction" and not 0 <= bound <= 1 and math.isfinite(bound):
        meant = f'; for {bound:g} % write {bound / 100:g}, or "{bound:g}%"' if 1 < bound <= 100 else ""
        raise SettingError(f"{given} is no share from 0 to 1{meant}")
    return bound


def _pairs(text: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (word.strip() for word in part.partition("="))
        if not (key and equals and value):
            raise SettingError(f"budget: {part!r} is no bound; write max_size=250KB, with commas between bounds")
        if key in pairs:
            raise SettingError(f"budget: {key} is given twice; keep one of them")
        pairs[key] = value
    return pairs


def _table(path: Path) -> Mapping[str, Any]:
    try:
        table: Mapping[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # of another text, of no TOML, of a number without end
        raise SettingError(
            f"the budget {str(path)!r} is neither a bound (max_size=250KB) nor a TOML file that can be read ({error})"
        ) from error
    inner = table.get("budget", table)
    if not isinstance(inner, Mapping):
        raise SettingError(f"{path}: budget must be a table, got {inner!r}")
    return cast("Mapping[str, Any]", inner)


def _verdict(measurement: Measurement, bound: float) -> Verdict:
    # Turned so that less is better: then `worst` is the upper end.
    sign = -measurement.metric.better
    best, worst = sorted((sign * measurement.low, sign * measurement.high))
    is_least = measurement.conditions.get(AT_LEAST) == "yes"  # the true value lies at `low` or anywhere above it
    if worst <= sign * bound:
        return Verdict.UNDECIDED if is_least and sign > 0 else Verdict.MET
    if best > sign * bound:
        return Verdict.UNDECIDED if is_least and sign < 0 else Verdict.VIOLATED
    return Verdict.UNDECIDED
