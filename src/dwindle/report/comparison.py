"""This file compares before with after: the verdict in plain words, key figures, and the table of measurements."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dwindle.bench.measurement import AT_LEAST
from dwindle.report.facts import Data, Facts, file_names, metric_name, number, table, text
from dwindle.report.words import bare_value, human_bytes, metric_value, settings, shows_unit

_LABELS: Final = {
    "size": "File size",
    "compression_ratio": "Compression ratio",
    "accuracy": "Accuracy, top-1",
    "top5_accuracy": "Accuracy, top-5",
    "precision_macro": "Precision, mean over classes",
    "precision_weighted": "Precision, classes by their frequency",
    "recall_macro": "Recall, mean over classes",
    "recall_weighted": "Recall, classes by their frequency",
    "f1_macro": "F1, mean over classes",
    "f1_weighted": "F1, classes by their frequency",
    "mean_absolute_error": "Mean absolute error",
    "mean_squared_error": "Mean squared error",
    "root_mean_squared_error": "Root of the mean squared error",
    "r2": "R², share of variance explained",
    "accuracy_drop": "Accuracy drop, paired",
    "latency_median": "Latency, median",
    "latency": "Latency, mean",
    "latency_p90": "Latency, 90th percentile",
    "speedup": "Speed-up over dense",
    "throughput": "Throughput",
    "cpu_time": "Processor time of a call",
    "energy": "Energy of a call",
    "load_time": "Time to load",
    "memory_peak": "Memory, peak of the process",
    "memory_added": "Memory, peak beyond the engine alone",
    "memory_loaded": "Memory, file loaded",
    "memory_baseline": "Memory, engine alone",
    "arena": "Memory, arena",
    "parity": "Parity with the model",
    "top1_agreement": "Same answer as the model",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """A measured value as text, its interval, and a note such as the exact bytes."""

    value: str
    interval: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the before/after table."""

    label: str
    file: str
    dense: Cell | None
    compressed: Cell | None
    runtime: str
    n: str
    protocol: str
    conditions: str


@dataclass(frozen=True, slots=True)
class Tile:
    """A key figure before and after; either side may be absent."""

    label: str
    before: Cell | None
    after: Cell | None
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The first sentence of the page, and what it means.

    Attributes:
        area: side of the compressed square in per cent of the dense one (areas are to scale), or None.
    """

    size: str
    accuracy: str
    interval: str
    examples: str
    reading: str
    area: float | None
    area_label: str


def verdict_of(facts: Facts) -> Verdict:
    """Return the verdict line; what the ledger does not hold is not said."""
    ratio = best(facts, "compressed", "compression_ratio")
    factor = number(ratio, "value") if ratio else number(facts.summary, "compression_ratio")
    n_bytes = _file_bytes(facts, ratio)
    if factor:
        size = f"{metric_value(max(factor, 1 / factor), 'x')} {'smaller' if factor >= 1 else 'larger'} file"
    else:
        size = f"{human_bytes(n_bytes)} on disk" if n_bytes is not None else ""
    accuracy, interval, examples, reading = _drop_words(facts)
    return Verdict(
        size=size,
        accuracy=accuracy,
        interval=interval,
        examples=examples,
        reading=reading,
        area=100 / math.sqrt(factor) if factor and factor >= 1 else None,
        area_label=f"compressed file: {human_bytes(n_bytes)}" if n_bytes is not None else "compressed file",
    )


def tiles_of(facts: Facts) -> list[Tile]:
    """Return the key figures that the ledger holds at least one side of."""
    tiles: list[Tile] = []
    quality = judged_metric(facts)
    named = "Accuracy" if quality == "accuracy" else label_of(quality)
    for label, name in (("File size", "size"), (named, quality), ("Latency, median", "latency_median")):
        after = best(facts, "compressed", name)
        before = _partner(facts, after) if after else best(facts, "dense", name)
        if before or after:
            note = _protocol_words(after or before or {}) if name != "size" else ""
            note = f"{_pace(facts)}{note}" if name == "latency_median" and before and after else note
            tiles.append(Tile(label, _cell(before), _cell(after), note))
    return tiles


def _pace(facts: Facts) -> str:
    """Say whether the compressed file is the faster one, by the speed-up, which is timed in turn."""
    speedup = best(facts, "compressed", "speedup") or {}
    value, low, high = (number(speedup, key) for key in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return ""
    word = "faster" if low > 1 else "slower" if high < 1 else "neither faster nor slower"
    return f"{word}: {metric_value(value, 'x')} {interval_of(speedup)}; "


def rows_of(facts: Facts) -> list[Row]:
    """Return a row for each measurement of a compressed file, beside its dense partner, then the other dense ones."""
    compressed = [m for m in facts.measurements if text(m, "role") != "dense"]
    partners = [_partner(facts, m) for m in compressed]
    left = [m for m in facts.measurements if text(m, "role") == "dense" and not any(m is p for p in partners)]
    pairs = [*zip(partners, compressed, strict=True), *((m, None) for m in left)]
    names = [metric_name(after or before or {}) for before, after in pairs]
    rank = _ranks(names)
    pairs = [pairs[i] for i in sorted(range(len(pairs)), key=lambda i: rank[names[i]])]
    return [_row(facts, before, after) for before, after in pairs]


def _ranks(names: Sequence[str]) -> dict[str, int]:
    """Return where each metric stands: those of the user before accuracy's drop, their own drops with it."""
    known = list(_LABELS)
    own = [name for name in dict.fromkeys(names) if name not in _LABELS]
    place = known.index("accuracy_drop")
    drops = [name for name in own if name.endswith("_drop")]
    order = [*known[:place], *(name for name in own if name not in drops), *drops, *known[place:]]
    return {name: rank for rank, name in enumerate(order)}


def best(facts: Facts, role: str, name: str) -> Data | None:
    """Return the measurement of metric `name` that speaks for `role`: of the first file, of which a summary speaks."""
    found = [m for m in facts.measurements if text(m, "role") == role and metric_name(m) == name]
    found = [m for m in found if number(m, "value") is not None]
    rank = {text(a, "sha256"): place for place, a in enumerate(facts.artifacts)}
    return min(found, key=lambda m: rank.get(text(m, "artifact"), len(rank)), default=None)


def interval_of(measurement: Data) -> str:
    """Return "[low, high]", or nothing for an exact value."""
    low, high = number(measurement, "low"), number(measurement, "high")
    unit = text(table(measurement, "metric"), "unit")
    if low is None or high is None or low == high:
        return ""
    write = human_bytes if unit == "bytes" else functools.partial(bare_value, unit=unit)
    return f"[{write(low)}, {write(high)}]"


def is_least(measurement: Data) -> bool:
    """Return whether the value is a lower end: what it leaves out is not known."""
    return text(table(measurement, "conditions"), AT_LEAST) == "yes"


def judged_metric(facts: Facts) -> str:
    """Return the metric whose drop the ledger holds, the first that the job named; accuracy where it holds none."""
    drops = [name.removesuffix("_drop") for m in facts.measurements if (name := metric_name(m)).endswith("_drop")]
    return "accuracy" if not drops or "accuracy" in drops else drops[0]


def _drop_words(facts: Facts) -> tuple[str, str, str, str]:
    name = judged_metric(facts)
    drop = best(facts, "compressed", f"{name}_drop")
    source = drop or {
        "value": facts.summary.get("accuracy_drop_points"),
        "low": facts.summary.get("accuracy_drop_low"),
        "high": facts.summary.get("accuracy_drop_high"),
        "metric": {"unit": "points"},
    }
    value, unit = number(source, "value"), text(table(source, "metric"), "unit")
    if value is None:
        return "", "", "", "The ledger holds no paired drop, so nothing is said about quality lost."
    n = number(source, "n")
    less_is_better = number(table(best(facts, "compressed", name) or {}, "metric"), "better") == -1
    quality = "accuracy" if name == "accuracy" else label_of(name, is_title=False)
    words = f"{quality} {'rise' if less_is_better else 'drop'} {metric_value(value, unit)}"
    examples = f"on {n:,} test example{'' if n == 1 else 's'}" if n else ""
    return words, interval_of(source), examples, _reading(source, unit, is_accuracy=name == "accuracy")


def _reading(drop: Data, unit: str, *, is_accuracy: bool) -> str:
    low, high = number(drop, "low"), number(drop, "high")
    if low is None or high is None:
        return ""
    if low <= 0 <= high:
        return (
            "The interval includes zero: on these examples, the two networks cannot be told apart; "
            f"a loss of {metric_value(high, unit)} is not ruled out."
        )
    side, accurate, other = ("above", "less accurate", "worse") if low > 0 else ("below", "more accurate", "better")
    compared = accurate if is_accuracy else other
    by = "" if is_accuracy else "by this metric, "
    return f"The interval lies {side} zero: {by}the compressed network is {compared} than the dense one."


def label_of(name: str, *, is_title: bool = True) -> str:
    """Return a metric in words; a drop is that of its metric, on the same examples."""
    metric = name.removesuffix("_drop")
    words = _LABELS.get(name) or _LABELS.get(metric) or metric.replace("_", " ").capitalize() or "Unnamed metric"
    if name not in _LABELS and metric != name:
        words = f"{words}: drop, paired"
    return words if is_title or words[:2].isupper() or words[1:2].isdigit() else words[:1].lower() + words[1:]


def _file_bytes(facts: Facts, ratio: Data | None) -> float | None:
    """Size of the file that the verdict speaks of: by its digest, else the first compressed file."""
    files = [a for a in facts.artifacts if text(a, "role") == "compressed" and number(a, "size_bytes") is not None]
    if ratio and (named := [a for a in files if text(a, "sha256") == text(ratio, "artifact")]):
        return number(named[0], "size_bytes")
    measured = best(facts, "compressed", "size")
    if measured:
        return number(measured, "value")
    return number(files[0], "size_bytes") if files else None


def _partner(facts: Facts, measurement: Data) -> Data | None:
    """Return the dense measurement taken the same way; the closest conditions win, another runtime never does."""
    same = ("runtime", "protocol")
    found = [
        m
        for m in facts.measurements
        if text(m, "role") == "dense"
        and metric_name(m) == metric_name(measurement)
        and all(text(m, key) == text(measurement, key) for key in same)
    ]
    wanted, file = table(measurement, "conditions"), text(measurement, "artifact")

    def likeness(m: Data) -> tuple[bool, int]:
        conditions = table(m, "conditions")
        return conditions.get("beside") == file, sum(conditions.get(key) == value for key, value in wanted.items())

    return max(found, key=likeness) if found else None


def _row(facts: Facts, before: Data | None, after: Data | None) -> Row:
    shown = after or before or {}
    name = metric_name(shown)
    files = file_names(facts)
    unit = text(table(shown, "metric"), "unit")
    label = label_of(name)
    is_plain = shows_unit(unit) or not unit
    n_before, n_after = number(before or {}, "n"), number(after or {}, "n")
    counts = [f"{n:,}" for n in dict.fromkeys((n_before, n_after)) if n is not None]
    return Row(
        label=label if is_plain else f"{label} ({unit})",
        file=files.get(text(shown, "artifact"), ""),
        dense=_cell(before),
        compressed=_cell(after),
        runtime="" if text(shown, "runtime") == "none" else text(shown, "runtime"),
        n=" / ".join(counts),
        protocol=text(shown, "protocol"),
        conditions=_conditions(table(shown, "conditions"), files),
    )


def _conditions(conditions: Data, files: Mapping[str, str]) -> str:
    """Return conditions in words: a file by its name instead of its digest; its name shows the format already."""
    named = {"n_threads": "threads"}
    shown = {
        named.get(key, key.replace("_", " ")): files.get(str(value), str(value)[:12]) if key == "baseline" else value
        for key, value in conditions.items()
        if key not in {"format", "beside", AT_LEAST}
    }
    return settings(shown) if shown else ""


def _cell(measurement: Data | None) -> Cell | None:
    if measurement is None:
        return None
    value, unit = number(measurement, "value"), text(table(measurement, "metric"), "unit")
    if value is None:
        return Cell("not a finite number", "")
    least = "at least " if is_least(measurement) else ""
    note = f"{value:,.0f} bytes" if unit == "bytes" else ""
    return Cell(f"{least}{metric_value(value, unit)}", interval_of(measurement), note)


def _protocol_words(measurement: Data) -> str:
    n = number(measurement, "n")
    parts = (text(measurement, "runtime"), f"n = {n:,}" if n is not None else "")
    return ", ".join(part for part in parts if part and part != "none")
