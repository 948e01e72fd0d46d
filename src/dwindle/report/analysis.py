"""This file writes the page of an analysis: one HTML file that holds all it shows, made from plain values alone."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from dwindle.errors import LedgerError
from dwindle.report.analysis_figures import (
    EFFECTS,
    dimension_charts,
    effect_charts,
    scatter_chart,
    significance_charts,
    variance_chart,
)
from dwindle.report.analysis_rows import TONES, Criterion, Row, criteria_of, rows_of, shares
from dwindle.report.analysis_tables import agreement_of, heat_of, layer_rows, others_words
from dwindle.report.facts import Data, items, number, table, text
from dwindle.report.words import duration, human_bytes, metric_value, settings, significant
from dwindle.whole_file import write_whole

BEST_JUDGES: Final = ("binary", "2_bits", "4_bits", "prune")
"""Criteria that bytes are drawn against, in this order; else the one that decided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One figure of the headline."""

    label: str
    value: str
    note: str = ""


def write_analysis(plain: Data, path: Path) -> Path:
    """Write the page of the analysis `plain` (`Analysis.to_plain()`) to `path` and return `path`.

    The same values give the same bytes.

    Raises:
        LedgerError: `path` cannot be written; an earlier page stays whole.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, render_analysis(plain).encode())
    except OSError as error:
        raise LedgerError(
            f"the page {path} cannot be written ({error.strerror or error}); make room or choose another folder"
        ) from error
    return path


def render_analysis(plain: Data) -> str:
    """Return the page's HTML; what `plain` does not hold is left out and said."""
    rows, criteria = rows_of(plain), criteria_of(plain)
    return _template().render(_view(plain, rows, criteria))


@functools.cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("dwindle", "report/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("analysis.html.j2")


def _view(plain: Data, rows: Sequence[Row], criteria: Sequence[Criterion]) -> Mapping[str, Any]:
    decided_by = text(plain, "decided_by")
    titles = {criterion.name: criterion.title for criterion in criteria}
    return {
        "name": text(plain, "name"),
        "headline": _headline(rows),
        "reading": _reading(plain, titles.get(decided_by, "")),
        "actions": _actions(rows),
        "tiles": _tiles(plain, rows),
        "layers": layer_rows(rows, total_ms=number(table(plain, "time"), "total_ms")),
        "others": others_words(table(plain, "time")),
        "time_problem": text(table(plain, "time"), "problem"),
        "dimensions": dimension_charts(rows, criteria),
        "variance": variance_chart(
            {name: items(table(plain, "explained_variance"), name) for name in table(plain, "explained_variance")}, rows
        ),
        "significance": significance_charts(rows, criteria, decided_by),
        "effects": effect_charts(rows),
        "scatter": _scatter(rows, decided_by, titles),
        "heat": heat_of(rows, criteria),
        "agreement": agreement_of(table(plain, "agreement"), titles),
        "is_numbered": any(row.number > 1 for row in rows),
        "recipe": text(plain, "recipe_toml").strip(),
        "methods": [_method(criterion) for criterion in criteria if not criterion.problem],
        "problems": [(criterion.title, criterion.problem) for criterion in criteria if criterion.problem],
        "remarks": [str(remark) for remark in items(plain, "remarks")],
        "about": [(label.replace("_", " ").capitalize(), str(value)) for label, value in table(plain, "about").items()],
    }


def _headline(rows: Sequence[Row]) -> str:
    """Return what would be done, in a few words."""
    if not rows:
        return "No layer"
    fewer = sum(row.action in {"make binary", "cluster to 16 values"} for row in rows)
    layers = f"{len(rows)} layer{'' if len(rows) == 1 else 's'}"
    if not fewer:
        return f"{layers}, none of which asks for fewer than 8 bits"
    return f"{fewer} of {layers} can do with little"


def _reading(plain: Data, decided_by: str) -> str:
    dense, planned = number(plain, "dense_bytes"), number(plain, "planned_bytes")
    if dense is None or planned is None or not planned:
        return ""
    by = f" {decided_by} decides which layers are significant." if decided_by else ""
    return (
        f"Treated as proposed below, the weights would take about {human_bytes(planned)} in place of "
        f"{human_bytes(dense)} as fp32, {metric_value(dense / planned, 'x')} smaller. This is counted, not measured: "
        f"bits of weights alone, before entropy coding, and nothing was trained.{by}"
    )


def _actions(rows: Sequence[Row]) -> list[tuple[str, str, int, float]]:
    """Return for each action its tone, its words, its number of layers and its share of the bytes in percent."""
    total = sum(row.dense_bytes for row in rows) or 1.0
    found: list[tuple[str, str, int, float]] = []
    for action, tone in TONES.items():
        chosen = [row for row in rows if row.action == action]
        if chosen:
            found.append((tone, action, len(chosen), 100 * sum(row.dense_bytes for row in chosen) / total))
    return found


def _tiles(plain: Data, rows: Sequence[Row]) -> list[Tile]:
    macs = [row.macs for row in rows if row.macs is not None]
    time_ms = number(table(plain, "time"), "total_ms")
    found = [Tile(label="Weights as fp32", value=human_bytes(number(plain, "dense_bytes") or 0))]
    largest = max(rows, key=lambda row: row.dense_bytes, default=None)
    if largest is not None:
        share = shares([largest.dense_bytes], number(plain, "dense_bytes"))[0]
        note = f"{metric_value(share, 'fraction')} in {largest.label}" if share is not None else ""
        found = [Tile(label="Weights as fp32", value=found[0].value, note=note)]
    if macs:
        found.append(Tile(label="Multiplications for one example", value=_count(sum(macs))))
    if time_ms:
        found.append(
            Tile(
                label="Time of one example",
                value=metric_value(time_ms, "ms"),
                note=f"operations alone, {text(table(plain, 'time'), 'runtime')}",
            )
        )
    return found


def _count(value: float) -> str:
    for power, unit in ((9, "G"), (6, "M"), (3, "k")):
        if value >= 10**power:
            return f"{significant(value / 10**power)} {unit}"
    return f"{value:,.0f}"


def _scatter(rows: Sequence[Row], decided_by: str, titles: Mapping[str, str]) -> Any:
    judge = next((name for name in BEST_JUDGES if any(name in row.scores for row in rows)), decided_by)
    title = titles.get(judge, EFFECTS.get(judge, judge))
    return scatter_chart(rows, judge, title)


def _method(criterion: Criterion) -> tuple[str, str, str]:
    """Return the title of a criterion, its settings, and how long it took."""
    took = "" if criterion.seconds is None else f"{duration(criterion.seconds)} of the processor"
    return criterion.title, settings(criterion.settings), took
