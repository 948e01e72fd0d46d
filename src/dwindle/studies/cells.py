"""This file writes the figures of a study as a page shows them: ours, its interval, and what was published."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final, cast

from dwindle.report.weighed import N_TRAININGS_NEEDED
from dwindle.report.words import DASH, MINUS, NO_BREAK, fixed, human_bytes, significant
from dwindle.studies.claims import Judged, JudgedCondition, Ruling
from dwindle.studies.results import Finding
from dwindle.studies.shown import Quantity, Side
from dwindle.studies.tables import Cell, FilledTable, Heading, figure_words

_UNITS: Final = {
    "accuracy": "%",
    "accuracy_drop": "points",
    "test_seconds": "s",
    "test_cpu_seconds": "s",
    "seconds_per_epoch": "s",
    "latency_ms": "ms",
    "energy_mj": "mJ",
    "estimated_energy_mj": "mJ",
    **dict.fromkeys(("top5_accuracy", "precision", "recall", "f1", "dequantize_share"), "%"),
    **dict.fromkeys(
        ("weight_ratio", "compression_ratio", "onnx_ratio", "zipped_ratio", "zip_gain", "speedup"), "times"
    ),
}
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
class ColumnView:
    """A column; a place for published figures is kept where one of the rows shown has one."""

    title: str
    has_published: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TableView:
    """A table as the template draws it; `name_widths` are the most characters of each name of a row."""

    table: FilledTable
    columns: tuple[ColumnView, ...]
    rows: tuple[RowView, ...]
    n: str
    name_titles: tuple[str, ...]
    name_widths: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionView:
    """One condition of a claim: what it is about, the figure that decides, where that should be, and the ruling.

    Attributes:
        notes: what keeps it from being decided.
        tone: a class of the style sheet.
    """

    about: str
    figure: str
    wanted: str
    notes: str
    ruling: str
    tone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimView:
    """A claim as the template draws it; `tone` is a class of the style sheet."""

    text: str
    ruling: str
    tone: str
    is_ours: bool
    conditions: tuple[ConditionView, ...]


def table_view(table: FilledTable) -> TableView:
    """Return `table` as text; how many seeds and examples are behind most of it is said once, above."""
    rows: list[RowView] = []
    for row in table.rows:
        cells = tuple(_cell_view(c, h, table.n_seeds) for c, h in zip(row.cells, table.headings, strict=True))
        is_group = not rows or rows[-1].names[:1] != row.names[:1]
        rows.append(RowView(names=row.names, cells=cells, is_group=is_group and len(row.names) > 1))
    columns = tuple(
        ColumnView(title=heading.title.replace(", ", f",{NO_BREAK}"), has_published=heading.has_published)
        for heading in table.headings
    )
    titles = tuple(axis_words(title) for title in table.row_titles)
    widths = tuple(max(map(len, names)) for names in zip(titles, *(row.names for row in rows), strict=True))
    return TableView(
        table=table, columns=columns, rows=tuple(rows), n=_n_words(table), name_titles=titles, name_widths=widths
    )


def claim_view(judged: Judged) -> ClaimView:
    """Return a judged claim as text, with the figures that decide it."""
    return ClaimView(
        text=judged.claim.text,
        ruling=judged.ruling.value.lower(),
        tone=_tone(judged.ruling),
        is_ours=judged.claim.is_ours,
        conditions=tuple(map(_condition_view, judged.conditions if judged.ruling is not Ruling.NOT_RUN else ())),
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
    published = "" if cell.published is None else _written(cell.published, heading, is_published=True)
    if cell.value is None:
        return CellView(ours=DASH, published=published, words="not run")
    interval = _interval(cell, heading)
    fewer = f"n = {cell.n_seeds}" if cell.n_seeds != n_seeds else ""
    is_point = cell.is_exact and cell.low == cell.high
    return CellView(
        ours=_written(cell.value, heading),
        note=" ".join(part for part in ("" if is_point else interval, fewer) if part),
        published=published,
        words=_full_words(cell, heading, interval),
        flag="" if cell.floor is None else f"dense below {fixed(cell.floor, 2)} %",
    )


def _full_words(cell: Cell, heading: Heading, interval: str) -> str:
    several = f"95 % interval{'s of all seeds' if cell.n_seeds > 1 and not cell.n_examples else ''}"
    what = "range over the seeds" if cell.is_exact else several
    examples = f" of {cell.n_examples:,} examples" if cell.n_examples else ""
    size = f" ({human_bytes(cell.value)})" if heading.unit == "bytes" and cell.value is not None else ""
    published = (
        f", published {_written(cell.published, heading, is_published=True)}" if cell.published is not None else ""
    )
    floor = (
        f"; the dense network is below its floor of {fixed(cell.floor, 2)} %, so that this drop means little"
        if cell.floor is not None
        else ""
    )
    return f"{heading.title}{size}: {what} {interval}, {_seeds(cell.n_seeds)}{examples}{published}{floor}"


def _interval(cell: Cell, heading: Heading) -> str:
    if cell.low is None or cell.high is None:
        return ""
    return f"[{_written(cell.low, heading)}, {_written(cell.high, heading)}]"


def _written(value: float, heading: Heading, *, is_published: bool = False) -> str:
    words = figure_words(value, heading, is_published=is_published)
    return words.removeprefix("-") if not words.strip("-0.,M") else words.replace("-", MINUS)


def _tone(ruling: Ruling) -> str:
    return ruling.value.lower().replace(" ", "-")


def _condition_view(judged: JudgedCondition) -> ConditionView:
    condition, quantity = judged.condition, judged.condition.left.quantity
    about = f"{quantity.replace('_', ' ').capitalize()} of {_side_words(condition.left)}"
    bound, decides = condition.bound, judged.left
    if condition.right is not None:
        sides = [_means(found, quantity) for found in (judged.left, judged.right)]
        about += f"{sides[0]} minus that of {_side_words(condition.right)}{sides[1]}"
        bound, decides = 0.0, judged.difference
    notes = [f"{judged.n_missing:,} outcome{'' if judged.n_missing == 1 else 's'} missing"] if judged.n_missing else []
    notes += ["a dense network is below its floor"] if judged.is_below_floor else []
    notes += [f"n = {decides.n_seeds}"] if decides is not None and decides.n_seeds < N_TRAININGS_NEEDED else []
    return ConditionView(
        about=about,
        figure=_deciding_words(judged, decides, quantity),
        wanted=f"{condition.relation} {_number(bound, quantity) if bound else '0'}",
        notes=", ".join(notes),
        ruling=judged.ruling.value.lower(),
        tone=_tone(judged.ruling),
    )


def _deciding_words(judged: JudgedCondition, decides: Finding | None, quantity: Quantity) -> str:
    if decides is not None:
        return _finding_words(decides, quantity)
    return "not run" if judged.left is None and judged.right is None else "incomplete"


def _side_words(side: Side) -> str:
    return ", ".join((side.stage.replace("_", " "), *itertools.starmap(_place_words, side.where.items())))


def _place_words(key: str, value: object) -> str:
    """Return a value of `where`; a bare number with what it counts.

    >>> _place_words("n_bits", ["2", "3"]), _place_words("rate", "10x")
    ('2 and 3 bits', '10x')
    """
    values = cast("list[object]", value) if isinstance(value, list | tuple) else [value]
    words = " and ".join(map(str, values))
    return f"{words} {axis_words(key)}" if words.replace(" and ", "").isdigit() else words


def axis_words(key: str) -> str:
    """Return the name of an axis as people read it.

    >>> axis_words("n_bits")
    'bits'
    """
    return key.removeprefix("n_").replace("_", " ")


def _means(found: Finding | None, quantity: Quantity) -> str:
    return "" if found is None else f" ({_value_words(found.value, quantity)})"


def _finding_words(found: Finding, quantity: Quantity) -> str:
    if found.is_exact and found.low == found.high:
        return _value_words(found.value, quantity)
    low, high = (_number(end, quantity) for end in (found.low, found.high))
    return f"{_value_words(found.value, quantity)} [{low}, {high}]"


def _value_words(value: float, quantity: Quantity) -> str:
    if quantity.endswith("_bytes"):
        return f"{MINUS if value < 0 else ''}{human_bytes(abs(value))}"
    return f"{_number(value, quantity)} {_UNITS.get(quantity, '')}".rstrip()


def _number(value: float, quantity: Quantity) -> str:
    return fixed(value, 2) if quantity in _PARTED else significant(value)
