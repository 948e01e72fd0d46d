"""This file fills the tables of a study: what the ledger holds beside what was published."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from dwindle.errors import SettingError
from dwindle.studies.matching import below_floor, cases_of, matches, options_of, spots_of
from dwindle.studies.results import Results
from dwindle.studies.shown import METHOD, Column, Quantity, Table
from dwindle.studies.study import Preset, Study

Unit = Literal["%", "points", "bytes", "x", "fraction", "epochs", "s", "ms", "mJ", ""]
"""Of a figure; "" counts or has none."""

_FORMS: Final[Mapping[Quantity, tuple[Unit, int, int]]] = {
    "accuracy": ("%", 1, 2),
    "accuracy_drop": ("points", 2, 2),
    "std_multiplier": ("", 3, 3),
    "sparsity": ("fraction", 3, 3),
    "n_weights": ("", 2, 1),
    "weight_ratio": ("x", 1, 1),
    "size_bytes": ("bytes", 0, 0),
    "compression_ratio": ("x", 1, 1),
    "epochs": ("epochs", 0, 0),
    "onnx_bytes": ("bytes", 0, 0),
    "onnx_ratio": ("x", 2, 1),
    "zipped_bytes": ("bytes", 0, 0),
    "zipped_ratio": ("x", 2, 1),
    "zip_gain": ("x", 2, 1),
    "test_seconds": ("s", 2, 2),
    "test_cpu_seconds": ("s", 2, 2),
    "speedup": ("x", 2, 2),
    "seconds_per_epoch": ("s", 1, 1),
    "top5_accuracy": ("%", 1, 1),
    "precision": ("%", 1, 1),
    "recall": ("%", 1, 1),
    "f1": ("%", 1, 1),
    "latency_ms": ("ms", 2, 2),
    "memory_bytes": ("bytes", 0, 0),
    "energy_mj": ("mJ", 2, 2),
    "estimated_energy_mj": ("mJ", 3, 3),
    "dequantize_share": ("%", 1, 1),
    "distinct_weights": ("", 0, 0),
    "dimension": ("", 2, 2),
    "significance": ("", 2, 2),
}
"""Unit, digits of ours, digits as the paper prints them."""


@dataclass(frozen=True, kw_only=True)
class Heading:
    """What stands above a column.

    Attributes:
        digits: behind the decimal point of ours.
        published_digits: of the published figure.
        has_published: whether any row has a published figure in it.
    """

    title: str
    quantity: Quantity
    unit: Unit
    digits: int
    published_digits: int
    has_published: bool


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One figure of ours beside the published one; the unit and the digits are those of the heading.

    Attributes:
        value: ours; None where an outcome is missing.
        low: end of the 95 % interval; of exact figures the least over the seeds.
        high: likewise; the greatest.
        n_seeds: the fewest that an outcome of the cell has.
        n_examples: of the test split; 0 for figures that no test split is needed for.
        is_exact: whether each seed's figure is exact, so that [low, high] is their range.
        published: None where the paper has none.
        floor: what the dense network should have reached but did not, percent; None where it did.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n_seeds: int = 0
    n_examples: int = 0
    is_exact: bool = False
    published: float | None = None
    floor: float | None = None

    @property
    def is_below_floor(self) -> bool:
        """Whether the drop is taken against a dense network that is too poor for it to mean anything."""
        return self.floor is not None


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row: what tells it apart (as in `FilledTable.row_titles`), and a cell for each heading."""

    names: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class FilledTable:
    """A table of a study with its figures.

    Attributes:
        row_titles: what the names of a row are: `network`, `data`, axes.
    """

    id: str
    title: str
    about: str
    published_about: str
    row_titles: tuple[str, ...]
    headings: tuple[Heading, ...]
    rows: tuple[Row, ...]

    @property
    def is_empty(self) -> bool:
        """Whether nothing of it was run."""
        return all(cell.value is None for row in self.rows for cell in row.cells)

    @property
    def n_seeds(self) -> int:
        """How many seeds most was run with."""
        return max((cell.n_seeds for row in self.rows for cell in row.cells), default=0)


def fill(table: Table, study: Study, results: Results) -> FilledTable:
    """Return `table` with the figures of `results`; rows in the order of the study, those of the preset alone.

    Raises:
        SettingError: the study lacks the preset of the results, or a column leaves open which outcome it shows.
        StudyError: a figure in the ledger is no number.
    """
    preset = study.preset(results.variant.preset)
    rows: list[Row] = []
    for line in _lines(table, study, preset):
        cells = [_cell(column, table=table, line=line, study=study, results=results) for column in table.columns]
        rows.append(Row(names=tuple(line.names.values()), cells=tuple(cells)))
    return FilledTable(
        id=table.id,
        title=table.title,
        about=table.about,
        published_about=table.published_about,
        row_titles=table.rows,
        headings=tuple(_heading(column, [row.cells[i] for row in rows]) for i, column in enumerate(table.columns)),
        rows=tuple(rows),
    )


def figure_words(value: float, heading: Heading, *, is_published: bool = False) -> str:
    """Return a figure of the column `heading` as text; counts of weights in millions where they are large."""
    digits = heading.published_digits if is_published else heading.digits
    if heading.quantity == "n_weights":
        return f"{value / 1e6:.{digits}f}M" if value >= 1e5 else f"{value:,.0f}"
    return f"{value:,.{digits}f}"


def _heading(column: Column, cells: Sequence[Cell]) -> Heading:
    unit, digits, published_digits = _FORMS[column.quantity]
    return Heading(
        title=column.title,
        quantity=column.quantity,
        unit=unit,
        digits=digits,
        published_digits=published_digits,
        has_published=any(cell.published is not None for cell in cells),
    )


@dataclass(frozen=True, kw_only=True)
class _Line:
    """What tells a row apart: its names by key, which outcomes it is about, and the stage where a row has one."""

    names: Mapping[str, str]
    where: Mapping[str, Any]
    stage: str = ""


def _lines(table: Table, study: Study, preset: Preset) -> Iterator[_Line]:
    """Yield the rows; only networks that the study has on the data set."""
    keys = [key for key in table.rows if key != METHOD]
    options = [[value for value in options_of(study, preset, key) if matches(table.where, key, value)] for key in keys]
    cases = cases_of(study, preset)
    for values in itertools.product(*options):
        names = dict(zip(keys, values, strict=True))
        where = {**table.where, **names}
        if any(matches(where, "network", case.network) and matches(where, "data", case.data) for case in cases):
            yield from _methods(_Line(names=names, where=where), table=table, study=study, preset=preset)


def _methods(line: _Line, *, table: Table, study: Study, preset: Preset) -> Iterator[_Line]:
    """Yield a row for each stage and place, where rows are stages; else the one row."""
    if not table.stages:
        yield line
    for stage in map(study.stage, table.stages):
        axes = study.axes_of(stage)
        options = [[v for v in study.options_of(axis, preset) if matches(line.where, axis, v)] for axis in axes]
        for place in itertools.product(*options):
            at = dict(zip(axes, place, strict=True))
            names = {**line.names, METHOD: stage.words_at(at)}
            yield _Line(names=names, where={**line.where, **at}, stage=stage.name)


def _cell(column: Column, *, table: Table, line: _Line, study: Study, results: Results) -> Cell:
    where, stage = {**line.where, **column.at}, column.stage or line.stage
    open_keys = _open_keys(study, stage, where, quantity=column.quantity) - set(table.mean_over)
    if open_keys:
        raise SettingError(
            f"table {table.id!r}, column {column.title!r}: stage {stage!r} has a figure for each "
            f"{', '.join(sorted(open_keys))}; name it in rows, where or at, or add it to mean_over"
        )
    spots = spots_of(
        study,
        study.preset(results.variant.preset),
        stage=stage,
        quantity=column.quantity,
        where=where,
    )
    found = results.mean(column.quantity, spots)
    printed = _number(table, column, _published(table, line.names))
    if found is None:
        return Cell(published=printed)
    below = below_floor(study, results, spots)
    return Cell(
        value=found.value,
        low=found.low,
        high=found.high,
        n_seeds=found.n_seeds,
        n_examples=found.n_examples,
        is_exact=found.is_exact,
        published=printed,
        floor=below[0].floor if below else None,
    )


def _open_keys(study: Study, stage: str, where: Mapping[str, Any], *, quantity: Quantity) -> set[str]:
    """Return what `where` does not fix to one value."""
    keys = ("network", "data", *study.axes_for(study.stage(stage), quantity))
    return {key for key in keys if not isinstance(where.get(key), str)}


def _published(table: Table, names: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the published row with these names; one for all cases may leave theirs out."""
    left_out = {"network", "data"} if table.is_published_for_all else set[str]()

    def is_it(row: Mapping[str, Any]) -> bool:
        return all(str(row.get(k)) == v for k, v in names.items() if k in row or k not in left_out)

    return next(filter(is_it, table.published), {})


def _number(table: Table, column: Column, published: Mapping[str, Any]) -> float | None:
    value = None if column.published is None else published.get(column.published)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise SettingError(f"table {table.id!r}: the published {column.published} {value!r} is no finite number")
    return value * column.published_factor
