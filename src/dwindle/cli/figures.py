"""This file prints measurements in a terminal, and as plain values for a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from dwindle.bench.measure import Measured
from dwindle.bench.measurement import AT_LEAST, NO_ENGINE, Measurement
from dwindle.report.words import bare_value, metric_value

WIDEST: Final = 160


def plain_measurement(m: Measurement) -> dict[str, Any]:
    """Return a measurement as JSON values; file and machine stand once beside all of them, and the engine."""
    return {
        "value": m.value,
        "low": m.low,
        "high": m.high,
        "unit": m.metric.unit,
        "n": m.n,
        "protocol": m.protocol,
        **({"conditions": dict(m.conditions)} if m.conditions else {}),
    }


def plain_measured(measured: Measured) -> dict[str, Any]:
    """Return everything measured on one file as JSON values."""
    artifact = measured.artifacts[0]
    last = measured.measurements[-1]
    return {
        "file": artifact.path.name,
        "sha256": artifact.sha256,
        "runtime": last.runtime,
        "machine": last.machine,
        "measurements": {
            m.metric.name: plain_measurement(m)
            | ({"runtime": m.runtime} if m.runtime not in {last.runtime, NO_ENGINE} else {})
            for m in measured.measurements
        },
    }


def print_measurements(columns: Mapping[str, Sequence[Measurement]]) -> None:
    """Print a table: a row for each metric, a column for each file."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("metric")
    for name in columns:
        table.add_column(name, justify="right")
        table.add_column("95 % interval" if _is_plain(columns[name]) else "interval", justify="right")
    table.add_column("n", justify="right")
    table.add_column("how")
    found = [{m.metric.name: m for m in measurements} for measurements in columns.values()]
    for metric in dict.fromkeys(name for side in found for name in side):
        cells = [cell for side in found for cell in _cells(side.get(metric))]
        first = next(side[metric] for side in found if metric in side)
        table.add_row(metric, *cells, f"{first.n:,}", _how(first))
    Console(width=WIDEST, highlight=False, markup=False).print(table, crop=False)


def _is_plain(measurements: Sequence[Measurement]) -> bool:
    return not any("level" in m.conditions for m in measurements)


def _cells(m: Measurement | None) -> tuple[str, str]:
    if m is None:
        return "", ""
    unit = m.metric.unit
    value = metric_value(m.value, unit)
    if unit not in {"bytes", "x", "fraction"} and not value.endswith(unit):
        value = f"{value} {unit}"
    if m.low == m.high:
        return value, ""
    low, high = (metric_value(end, unit) if unit == "bytes" else bare_value(end, unit) for end in (m.low, m.high))
    return value, f"[{low}, {high}]"


def _how(m: Measurement) -> str:
    parts = [m.protocol]
    if "batch" in m.conditions:
        parts.append(f"batch {m.conditions['batch']:g}")
    if m.conditions.get("unstable") == "yes":
        parts.append("unstable")
    if m.conditions.get(AT_LEAST) == "yes":
        parts.append("at least")
    if "kernels" in m.conditions:
        parts.append(f"kernels: {m.conditions['kernels']}")
    return ", ".join(parts)
