"""This file lays out the tables of an analysis: what layers cost, what criteria say beside each other, who agrees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dwindle.report.analysis_rows import Criterion, Row, shares
from dwindle.report.facts import Data, number, table
from dwindle.report.words import DASH, fixed, human_bytes, metric_value, shape_words, significant

_DEEP: Final = 62
"""Tint in percent from which letters on it are light."""
_N_OTHERS: Final = 4
_SHORT_MS: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share in percent, for a bar, and what stands beside it."""

    width: float | None
    percent: str
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerLine:
    """One layer: what it costs, and what would be done with it."""

    number: int
    label: str
    name: str
    kind: str
    shape: str
    n_weights: str
    costs: tuple[Share, ...]
    tone: str
    action: str
    why: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A tinted figure; `tint` in percent."""

    words: str
    tint: int = 0
    is_deep: bool = False
    is_marked: bool = False
    is_against: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Tinted figures with titles of columns and rows."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[Cell, ...]], ...]


def layer_rows(rows: Sequence[Row], *, total_ms: float | None) -> list[LayerLine]:
    """Return a line for each layer; shares of bytes and multiplications are of all layers, of time of everything."""
    by_bytes = shares([row.dense_bytes for row in rows])
    by_macs = shares([row.macs for row in rows])
    by_time = shares([row.time_ms for row in rows], total_ms)
    return [
        LayerLine(
            number=row.number,
            label=row.label,
            name=row.name,
            kind=row.kind,
            shape=shape_words(row.shape),
            n_weights="" if row.n_weights is None else f"{row.n_weights:,.0f}",
            costs=(
                _share(of_bytes, human_bytes(row.dense_bytes)),
                _share(of_macs, "" if row.macs is None else f"{row.macs:,.0f}"),
                _share(of_time, _time_words(row)),
            ),
            tone=row.tone,
            action=row.action,
            why=row.why,
            note=_note(row),
        )
        for row, of_bytes, of_macs, of_time in zip(rows, by_bytes, by_macs, by_time, strict=True)
    ]


def others_words(time: Data) -> str:
    """Return where the time went that belongs to no layer."""
    others, total = table(time, "others_ms"), number(time, "total_ms")
    spent = {kind: value for kind in others if (value := number(others, kind)) is not None}
    if not spent or not total:
        return ""
    kinds = [f"{kind} {fixed(100 * value / total, 1)} %" for kind, value in list(spent.items())[:_N_OTHERS]]
    if len(spent) > len(kinds):
        kinds.append(f"{len(spent) - len(kinds)} more kinds")
    share = fixed(100 * sum(spent.values()) / total, 1)
    return f"Other: {share} % of the time belongs to no layer ({', '.join(kinds)})."


def heat_of(rows: Sequence[Row], criteria: Sequence[Criterion]) -> Grid | None:
    """Return every score, tinted by its place between the smallest and the largest of its criterion."""
    told = [criterion for criterion in criteria if any(criterion.name in row.scores for row in rows)]
    if not told:
        return None
    bounds = {c.name: _bounds([v for row in rows if (v := row.score(c.name)) is not None]) for c in told}
    lines = [
        (row.label, str(row.number), tuple(_heat_cell(row, criterion, bounds[criterion.name]) for criterion in told))
        for row in rows
    ]
    return Grid(columns=tuple(criterion.title for criterion in told), rows=tuple(lines))


def agreement_of(agreement: Data, titles: Mapping[str, str]) -> Grid | None:
    """Return the rank correlation of every two criteria."""
    names = [name for name in titles if name in agreement]
    if len(names) < 2:
        return None
    lines = [
        (titles[name], "", tuple(_agreement_cell(table(agreement, name), other, name) for other in names))
        for name in names
    ]
    return Grid(columns=tuple(titles[name] for name in names), rows=tuple(lines))


def _share(share: float | None, words: str) -> Share:
    if share is None:
        return Share(width=None, percent=DASH, words=words)
    return Share(width=100 * share, percent=f"{100 * share:.1f} %", words=words)


def _time_words(row: Row) -> str:
    if row.time_ms is None:
        return ""
    if not row.time_ms:
        return f"with {', '.join(row.timed_with)}"
    is_short = row.time_ms < _SHORT_MS
    return metric_value(1_000 * row.time_ms if is_short else row.time_ms, "\N{MICRO SIGN}s" if is_short else "ms")


def _note(row: Row) -> str:
    """Return what the engine merged, or that the layer is never called."""
    if row.n_calls == 0:
        return "never called"
    calls = f"called {row.n_calls:,.0f} times; " if row.n_calls and row.n_calls > 1 else ""
    merged = " + ".join(row.operations)
    return f"{calls}{f'runs as {merged}' if merged else ''}".removesuffix("; ")


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _heat_cell(row: Row, criterion: Criterion, bounds: tuple[float, float]) -> Cell:
    value = row.score(criterion.name)
    if value is None:
        return Cell(words=DASH)
    low, high = bounds
    tint = round(100 * (value - low) / (high - low)) if high > low else 0
    return Cell(
        words=significant(value),
        tint=tint,
        is_deep=tint > _DEEP,
        is_marked=row.name in criterion.significant,
    )


def _agreement_cell(correlations: Data, other: str, name: str) -> Cell:
    value = number(correlations, other)
    if value is None:
        return Cell(words=DASH)
    tint = 0 if other == name else round(100 * abs(value))
    return Cell(words=fixed(value, 2), tint=tint, is_deep=tint > _DEEP, is_against=value < 0)
