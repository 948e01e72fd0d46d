"""This file writes the figures of a study as a page shows them: ours, its interval, and what was published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dwindle.report.words import DASH, fixed, human_bytes, significant
from dwindle.studies.claims import Judged, JudgedCondition
from dwindle.studies.results import Finding
from dwindle.studies.study import Quantity, Side
from dwindle.studies.tables import Cell, FilledTable, Heading

_UNITS: Final = {"accuracy": "%", "accuracy_drop": "points", "weight_ratio": "times", "compression_ratio": "times"}
_PARTED: Final = {"accuracy", "accuracy_drop"}
"""Shown with two digits; the rest with three significant ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellView:
    """One figure as text; `ours` is a dash where it was not run.

    Attributes:
        words: what a pointer on it shows: interval and n in full.
        flag: says that the dense network missed its floor.
    """

    ours: str
    note: str = ""
    published: str = ""
    words: str = ""
    flag: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowView:
    """A row; `is_group` where its first name is another than in the row above."""

    names: tuple[str, ...]
    cells: tuple[CellView, ...]
    is_group: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TableView:
    """A table as the template draws it."""

    table: FilledTable
    rows: tuple[RowView, ...]
    n: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimView:
    """A claim as the template draws it; `tone` is a class of the style sheet."""

    text: str
    ruling: str
    tone: str
    is_ours: bool
    figures: tuple[str, ...]


def table_view(table: FilledTable) -> TableView:
    """Return `table` as text; how many seeds and examples are behind most of it is said once, above."""
    rows: list[RowView] = []
    for row in table.rows:
        cells = tuple(_cell_view(c, h, table.n_seeds) for c, h in zip(row.cells, table.headings, strict=True))
        is_group = not rows or rows[-1].names[:1] != row.names[:1]
        rows.append(RowView(names=row.names, cells=cells, is_group=is_group and len(row.names) > 1))
    return TableView(table=table, rows=tuple(rows), n=_n_words(table))


def claim_view(judged: Judged) -> ClaimView:
    """Return a judged claim as text, with the figures that decide it."""
    ruling = str(judged.ruling)
    return ClaimView(
        text=judged.claim.text,
        ruling=ruling.lower(),
        tone=ruling.lower().replace(" ", "-"),
        is_ours=judged.claim.is_ours,
        figures=tuple(_condition_words(condition) for condition in judged.conditions),
    )


def _n_words(table: FilledTable) -> str:
    if not table.n_seeds:
        return ""
    examples = sorted({cell.n_examples for row in table.rows for cell in row.cells if cell.n_examples})
    counted = f", test examples: {' or '.join(f'{n:,}' for n in examples)}" if examples else ""
    return f"n = {_seeds(table.n_seeds)}{counted}; a cell with fewer seeds says so."


def _seeds(n: int) -> str:
    return f"{n} seed{'' if n == 1 else 's'}"


def _cell_view(cell: Cell, heading: Heading, n_seeds: int) -> CellView:
    published = "" if cell.published is None else fixed(cell.published, heading.published_digits)
    if cell.value is None:
        return CellView(ours=DASH, published=published, words="not run")
    interval = _interval(cell.low, cell.high, heading.digits)
    fewer = f"n = {cell.n_seeds}" if cell.n_seeds != n_seeds else ""
    is_point = cell.is_exact and cell.low == cell.high
    return CellView(
        ours=fixed(cell.value, heading.digits),
        note=" ".join(part for part in ("" if is_point else interval, fewer) if part),
        published=published,
        words=_full_words(cell, heading, interval),
        flag="" if cell.floor is None else f"dense below {fixed(cell.floor, 2)} %",
    )


def _full_words(cell: Cell, heading: Heading, interval: str) -> str:
    what = "range over the seeds" if cell.is_exact else "95 % interval"
    examples = f" of {cell.n_examples:,} examples" if cell.n_examples else ""
    size = f" ({human_bytes(cell.value)})" if heading.unit == "bytes" and cell.value is not None else ""
    published = f", published {fixed(cell.published, heading.published_digits)}" if cell.published is not None else ""
    floor = (
        f"; the dense network is below its floor of {fixed(cell.floor, 2)} %, so that this drop means little"
        if cell.floor is not None
        else ""
    )
    return f"{heading.title}{size}: {what} {interval}, {_seeds(cell.n_seeds)}{examples}{published}{floor}"


def _interval(low: float | None, high: float | None, digits: int) -> str:
    return "" if low is None or high is None else f"[{fixed(low, digits)}, {fixed(high, digits)}]"


def _condition_words(judged: JudgedCondition) -> str:
    """Return both sides, what lies between them, and what keeps it from being decided."""
    condition = judged.condition
    quantity = condition.left.quantity
    parts = [_side_words(condition.left, judged.left), f"should be {condition.relation}"]
    if condition.right is not None:
        parts.append(_side_words(condition.right, judged.right))
    elif condition.bound is not None:
        parts.append(_value_words(condition.bound, quantity))
    words = " ".join(parts)
    if judged.difference is not None:
        words += f"; difference {_finding_words(judged.difference, quantity)}"
    if judged.n_missing:
        words += f"; {judged.n_missing:,} outcome{'' if judged.n_missing == 1 else 's'} missing"
    if judged.is_below_floor:
        words += "; a dense network is below its floor"
    return f"{words}: {str(judged.ruling).lower()}"


def _side_words(side: Side, found: Finding | None) -> str:
    where = ", ".join(_listed(value) for value in side.where.values())
    name = f"{side.quantity.replace('_', ' ')} ({', '.join(part for part in (side.stage, where) if part)})"
    return f"{name} {'not run' if found is None else _finding_words(found, side.quantity)}"


def _listed(value: object) -> str:
    return " or ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _finding_words(found: Finding, quantity: Quantity) -> str:
    if found.is_exact and found.low == found.high:
        return _value_words(found.value, quantity)
    low, high = (_number(end, quantity) for end in (found.low, found.high))
    return f"{_value_words(found.value, quantity)} [{low}, {high}]"


def _value_words(value: float, quantity: Quantity) -> str:
    if quantity == "size_bytes":
        return human_bytes(value)
    return f"{_number(value, quantity)} {_UNITS.get(quantity, '')}".rstrip()


def _number(value: float, quantity: Quantity) -> str:
    return fixed(value, 2) if quantity in _PARTED else significant(value)
