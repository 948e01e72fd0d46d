"""This file prints a comparison across engines, in a terminal and as plain values for a program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dwindle.cli.figures import WIDEST, plain_measured, plain_measurement
from dwindle.report.words import bare_value, human_bytes, metric_value, significant

if TYPE_CHECKING:
    from dwindle.bench.across_engines import AcrossEngines, Row
    from dwindle.bench.measurement import Measurement

FLAG: Final = "!"
"""Stands behind a gap that is larger than it may be, or, where none is known, behind such a difference."""


def plain_across(found: AcrossEngines) -> dict[str, Any]:
    """Return a comparison as JSON values."""
    return {"rows": [_plain_row(row, found) for row in found.rows], "flagged": [row.name for row in found.flagged]}


def print_across(found: AcrossEngines) -> None:
    """Print one table, then what is missing and what is flagged, in words."""
    console = Console(width=WIDEST, highlight=False)
    if (machine := _machine(found.rows)) is not None:
        console.print(machine, markup=False)
        console.print(", ".join(dict.fromkeys(row.engine for row in found.rows)), markup=False)
    console.print(_table(found), crop=False)
    for sentence in sentences(found):
        console.print(sentence, markup=False)


def sentences(found: AcrossEngines) -> list[str]:
    """Return what the table cannot say: why figures are missing, and which engines answer otherwise."""
    said = [f"{row.name}: not measured, {row.problem}" for row in found.rows if row.problem]
    said += [f"{row.name}: {row.remark}" for row in found.rows if row.remark]
    said += [f"{row.name}: flagged, {row.parity.flag}" for row in found.flagged if row.parity is not None]
    remarks = [(row.name, row.parity.remark) for row in found.rows if row.parity is not None and row.parity.remark]
    return [*said, *(f"{name}: parity unknown, {remark}" for name, remark in remarks)]


def columns(found: AcrossEngines) -> list[str]:
    """Return the heads of the table; what no row has is left out."""
    scores = "accuracy" if any(_score(row) for row in found.rows) else ""
    memory = "memory peak" if any(row.find("memory_peak") for row in found.rows) else ""
    gap = "top-1 gap" if any(row.find("top1_gap") for row in found.rows) else ""
    heads = ["#", "file", "engine", "size", "latency", "times faster than", scores, gap, "same", "largest", memory]
    return [head for head in heads if head]


def cells(row: Row, found: AcrossEngines) -> list[str]:
    """Return what stands in the table for one row, a text for each of `columns`."""
    every = {
        "#": str(found.rows.index(row) + 1),
        "file": row.artifact.path.name,
        "engine": without_version(row.engine),
        "size": human_bytes(row.artifact.size_bytes),
        "latency": _value(row.find("latency_median")),
        "times faster than": _faster(row),
        "accuracy": _with_interval(_score(row)),
        "top-1 gap": _gap(row),
        "same": _value(row.find("top1_agreement")),
        "largest": _largest(row),
        "memory peak": _value(row.find("memory_peak")),
    }
    return [every[head] for head in columns(found)]


def without_version(engine: str) -> str:
    """Return the name of an engine and what is special about it.

    >>> without_version("openvino 2026.4.1 (f32)"), without_version("litert 2.3.0")
    ('openvino (f32)', 'litert')
    """
    name, _, special = engine.partition(" (")
    return name.split()[0] + (f" ({special}" if special else "")


def _table(found: AcrossEngines) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, head in enumerate(columns(found)):
        table.add_column(head, justify="left" if number in {1, 2} else "right")
    for row in found.rows:
        table.add_row(*map(Text, cells(row, found)))
    return table


def _faster(row: Row) -> str:
    if row.speedup is None or row.baseline is None:
        return "" if row.problem else "the first"
    unstable = ", unstable" if row.speedup.conditions.get("unstable") == "yes" else ""
    return f"{row.speedup.value:.2f} {_interval(row.speedup)} #{row.baseline + 1}{unstable}"


def _gap(row: Row) -> str:
    if row.parity is None:
        return "" if row.problem else "reference"
    return "" if row.parity.gap is None else _value(row.parity.gap) + _flag(row)


def _largest(row: Row) -> str:
    if (m := row.find("parity")) is None:
        return ""
    return significant(m.value, 2) + (_flag(row) if row.parity is not None and row.parity.gap is None else "")


def _flag(row: Row) -> str:
    return f" {FLAG}" if row.parity is not None and row.parity.is_flagged else ""


def _score(row: Row) -> Measurement | None:
    found = () if row.measured is None else row.measured.measurements
    return next((m for m in found if m.metric.unit == "fraction" and m.protocol in {"wilson", "t", "bootstrap"}), None)


def _value(m: Measurement | None) -> str:
    return "" if m is None else metric_value(m.value, m.metric.unit)


def _with_interval(m: Measurement | None) -> str:
    return "" if m is None else f"{_value(m)} {_interval(m)}"


def _interval(m: Measurement | None) -> str:
    return "" if m is None else f"[{bare_value(m.low, m.metric.unit)}, {bare_value(m.high, m.metric.unit)}]"


def _machine(rows: Sequence[Row]) -> str | None:
    return next((row.measured.measurements[-1].machine for row in rows if row.measured is not None), None)


def _plain_row(row: Row, found: AcrossEngines) -> dict[str, Any]:
    head = {"file": row.artifact.path.name, "engine": row.engine, "size_bytes": row.artifact.size_bytes}
    if row.problem or row.measured is None:
        return {**head, "problem": row.problem}
    base = None if row.baseline is None else found.rows[row.baseline]
    return {
        **head,
        **plain_measured(row.measured),
        "baseline": None if base is None else {"file": base.artifact.path.name, "engine": base.engine},
        "speedup": None if row.speedup is None else plain_measurement(row.speedup),
        "remark": row.remark,
        "parity": None if row.parity is None else _plain_parity(row),
    }


def _plain_parity(row: Row) -> dict[str, Any]:
    parity = row.parity
    if parity is None:
        return {}
    return {
        "reference": parity.reference,
        "gap_points": None if parity.gap is None else parity.gap.value,
        "agreement": None if parity.beside is None else parity.beside.agreement,
        "largest": None if parity.beside is None else parity.beside.largest,
        "flagged": parity.is_flagged,
        "remark": parity.remark,
    }
