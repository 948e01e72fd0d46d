"""This file draws the layers of a network: dimensions along it, significance against a cut, what changing one does.

After figures 3.2, 3.3 and 4.1 to 4.4 of Abishek (2022).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dwindle.report.analysis_rows import Criterion, Row
from dwindle.report.figures import Axes, Axis, Chart, Label, Legend, Scale, Shape, Tick, dots, line
from dwindle.report.scales import LogAxis
from dwindle.report.words import human_bytes, shortened, significant

N_COLOURS: Final = 6
_MOST_LETTERS: Final = 44
"""Names stand below an axis where all of them together are not longer; else numbers do."""
_LEAST_GAP: Final = 7.0
"""Per cent of an axis between ticks, and between labels of marks."""
_LONGEST_LABEL: Final = 26
_BEFORE: Final = "dimension_before"
_AFTER: Final = "dimension_after"
EFFECTS: Final[Mapping[str, str]] = {
    "prune": "pruned by half",
    "4_bits": "rounded to 4 bits",
    "2_bits": "rounded to 2 bits",
    "binary": "binary",
}
"""Sensitivities that can be drawn side by side: name of the criterion -> what is done with a layer."""
_FULL: Final = 95.0
"""Percent of variance that is marked, as in the thesis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line: a colour, what it is, and its value at each place (None leaves a gap)."""

    role: str
    label: str
    values: Sequence[float | None]
    note: str = ""


def dimension_charts(rows: Sequence[Row], criteria: Sequence[Criterion]) -> list[Chart]:
    """Return the profile of the intrinsic dimension: neighbours in one chart, components in another."""
    names = {criterion.name: criterion.title for criterion in criteria}
    found: list[Chart] = []
    for title, wanted in (
        ("By nearest neighbours", ("two_nn", "levina_bickel")),
        ("By principal components", ("pca",)),
    ):
        profiles = {name: _profile(rows, name) for name in wanted if name in names}
        series = [
            Series(role=f"series-{i}", label=names[name], values=values)
            for i, (name, values) in enumerate(profiles.items())
            if any(value is not None for value in values)
        ]
        if series:
            found.append(_layer_chart(title, series, rows, has_input=True, y_label="dimension"))
    return found


def significance_charts(rows: Sequence[Row], criteria: Sequence[Criterion], decided_by: str) -> list[Chart]:
    """Return a column for each layer and the cut, for the two criteria of the thesis, or for the one that decided."""
    wanted = dict.fromkeys((decided_by, "two_nn", "pca"))
    by_name = {criterion.name: criterion for criterion in criteria if criterion.judged}
    return [_columns(rows, by_name[name]) for name in wanted if name in by_name][:2]


def effect_charts(rows: Sequence[Row]) -> list[Chart]:
    """Return what the loss, and the accuracy where answers are classes, become when each layer alone is changed."""
    losses = _effects(rows, "loss_after")
    if not losses:
        return []
    before = next(value for row in rows for name in EFFECTS if (value := row.score(name, "loss_before")) is not None)
    values = [value for series in losses for value in series.values if value is not None]
    is_log = min(*values, before) > 0 and max(*values, before) > 5 * min(*values, before)
    axis = LogAxis.around([*values, before], margin=0.08) if is_log else Axis.around([*values, before], margin=0.08)
    charts = [
        _layer_chart(
            "Validation loss", losses, rows, y_axis=axis, level=(before, "as it is"),
            y_label="loss, log scale" if is_log else "loss",
        )
    ]  # fmt: skip
    changes = _effects(rows, "accuracy_change", factor=100)
    if changes:
        charts.append(
            _layer_chart("Validation accuracy", changes, rows, level=(0.0, "as it is"), y_label="change in points")
        )
    return charts


def variance_chart(spectra: Mapping[str, Sequence[float]], rows: Sequence[Row]) -> Chart | None:
    """Return the cumulative explained variance of each layer's values against the number of components."""
    found = [(row, spectra[row.name]) for row in rows if spectra.get(row.name)]
    if not found:
        return None
    step = max(1, math.ceil(len(found) / N_COLOURS))
    most = max(len(shares) for _, shares in found)
    x_axis: Scale = LogAxis(1, max(2, most))
    axes = x_axis, Axis(0, 103)
    coloured = {row.name: i for i, (row, _) in enumerate(found[::step])}
    others = [_curve(row, shares, axes, role="aside thin") for row, shares in found if row.name not in coloured]
    shown = [
        _curve(row, shares, axes, role=f"series-{coloured[row.name]}") for row, shares in found if row.name in coloured
    ]
    return Chart(
        title="Explained variance",
        description=f"Cumulative explained variance of the values of {len(found)} layers",
        shapes=(Shape("level", _level(_FULL, axes)), *others, *shown),
        x_ticks=x_axis.ticks(6),
        y_ticks=axes[1].ticks(5),
        x_label="components, log scale",
        y_label="explained, %",
        legend=tuple(
            Legend(f"series-{coloured[row.name]}", shortened(row.label, _LONGEST_LABEL), _n_for(shares))
            for row, shares in found
            if row.name in coloured
        ),
        note="Beside each layer: its components for 95 %."
        + (f" One layer in {step} is coloured, the others are grey." if others else ""),
    )


def scatter_chart(rows: Sequence[Row], criterion: str, title: str) -> Chart | None:
    """Return bytes against what a criterion says, a mark for each layer in the colour of what would be done with it."""
    effect = EFFECTS.get(criterion)
    part = "value" if effect is None else "loss_after"
    found = [(row, value) for row in rows if (value := row.score(criterion, part)) is not None and row.dense_bytes > 0]
    if not found:
        return None
    values = [value for _, value in found]
    is_log = min(values) > 0 and max(values) > 5 * min(values)
    x_axis = LogAxis.around([row.dense_bytes for row, _ in found], margin=0.1)
    y_axis: Scale = LogAxis.around(values, margin=0.1) if is_log else Axis.around(values, margin=0.1)
    what = title if effect is None else f"loss when it is {effect}"
    return Chart(
        title="Bytes against sensitivity",
        description=f"{len(found)} layers: bytes along, {what} upwards",
        shapes=tuple(
            Shape(f"mark tone-{row.tone}", dots([(row.dense_bytes, value)], (x_axis, y_axis)), _mark_words(row, value))
            for row, value in found
        ),
        x_ticks=tuple(Tick(tick.at, _bytes_label(x_axis, tick)) for tick in x_axis.ticks(5)),
        y_ticks=y_axis.ticks(5),
        x_label="bytes as fp32, log scale",
        y_label=f"{what}{', log scale' if is_log else ''}",
        labels=tuple(_labels(found, (x_axis, y_axis))),
        legend=tuple(
            Legend(f"tone-{tone}", action) for tone, action in dict.fromkeys((row.tone, row.action) for row in rows)
        ),
    )


def _profile(rows: Sequence[Row], criterion: str) -> list[float | None]:
    """Return the dimension of the input of the first layer, then of each layer's values."""
    first = next((row.score(criterion, _BEFORE) for row in rows if criterion in row.scores), None)
    return [first, *(row.score(criterion, _AFTER) for row in rows)]


def _effects(rows: Sequence[Row], part: str, *, factor: float = 1.0) -> list[Series]:
    found: list[Series] = []
    for i, (name, label) in enumerate(EFFECTS.items()):
        values = [row.score(name, part) for row in rows]
        if any(value is not None for value in values):
            scaled = [None if value is None else factor * value for value in values]
            found.append(Series(role=f"series-{i}", label=label, values=scaled))
    return found


def _layer_chart(  # ruff: ignore[too-many-arguments] (all but three by keyword)
    title: str,
    series: Sequence[Series],
    rows: Sequence[Row],
    *,
    y_label: str,
    y_axis: Scale | None = None,
    has_input: bool = False,
    level: tuple[float, str] | None = None,
) -> Chart:
    """Return lines along the layers."""
    values = [value for each in series for value in each.values if value is not None]
    given = [*values, level[0]] if level else [*values, 0.0]
    axes: Axes = _layer_axis(len(rows), has_input=has_input), y_axis or _axis(given)
    places = range(0 if has_input else 1, len(rows) + 1)
    names = ["input", *(row.label for row in rows)] if has_input else [row.label for row in rows]
    shapes = [Shape("level", _level(level[0], axes))] if level else []
    for each in series:
        points = [(float(x), math.nan if y is None else y) for x, y in zip(places, each.values, strict=True)]
        shapes.append(Shape(f"{each.role} line", line(points, axes)))
        shapes += [
            Shape(f"{each.role} mark", dots([(x, y)], axes), f"{name}: {each.label} {significant(y)}")
            for (x, y), name in zip(points, names, strict=True)
            if math.isfinite(y)
        ]
    legend = tuple(Legend(each.role, each.label, each.note) for each in series)
    return Chart(
        title=title,
        description=f"{title}: {', '.join(each.label for each in series)} along {len(rows)} layers",
        shapes=tuple(shapes),
        x_ticks=_layer_ticks(rows, axes[0], has_input=has_input),
        y_ticks=axes[1].ticks(5),
        x_label="layer",
        y_label=y_label,
        legend=(*legend, *([Legend("level", level[1], significant(level[0]))] if level and level[0] else ())),
    )


def _columns(rows: Sequence[Row], criterion: Criterion) -> Chart:
    found = [(row, value) for row in rows if (value := row.score(criterion.name)) is not None]
    cut = [] if criterion.cut is None else [criterion.cut]
    heights = [value for _, value in found]
    axes: Axes = _layer_axis(len(rows)), _axis([0.0, *heights, *cut])
    shapes = [
        Shape(f"column {_side(row, criterion)}", _column(row.number, value, axes), _column_words(row, value, criterion))
        for row, value in found
    ]
    shapes += [Shape("cut", _level(value, axes)) for value in cut]
    sides = {_side(row, criterion) for row, _ in found}
    sides_words = (
        ("significant", "significant"),
        ("insignificant", "insignificant"),
        ("aside", "first or last, not judged"),
    )
    legend = [Legend(f"column {side}", words) for side, words in sides_words if side in sides]
    return Chart(
        title=criterion.title,
        description=f"{criterion.title}: change by each of {len(found)} layers; significant: "
        f"{', '.join(criterion.significant) or 'none'}",
        shapes=tuple(shapes),
        x_ticks=_layer_ticks(rows, axes[0]),
        y_ticks=axes[1].ticks(5),
        x_label="layer",
        y_label=f"{'change, ' if criterion.unit in {'dimensions', 'components'} else ''}{criterion.unit}",
        legend=(*legend, *(Legend("cut", "cut", significant(value)) for value in cut)),
    )


def _side(row: Row, criterion: Criterion) -> str:
    if row.name not in criterion.judged:
        return "aside"
    return "significant" if row.name in criterion.significant else "insignificant"


def _column(place: int, value: float, axes: Axes) -> str:
    left, right = axes[0].at(place - 0.36), axes[0].at(place + 0.36)
    floor, top = 100 - axes[1].at(0), 100 - axes[1].at(value)
    return f"M{left:.2f} {floor:.2f}V{top:.2f}H{right:.2f}V{floor:.2f}Z"


def _column_words(row: Row, value: float, criterion: Criterion) -> str:
    before, after = row.score(criterion.name, _BEFORE), row.score(criterion.name, _AFTER)
    made_of = "" if before is None or after is None else f" ({significant(before)} to {significant(after)})"
    return f"{row.label}: {significant(value)}{made_of}"


def _level(value: float, axes: Axes) -> str:
    return f"M0 {100 - axes[1].at(value):.2f}H100"


def _curve(row: Row, shares: Sequence[float], axes: Axes, *, role: str) -> Shape:
    points = [(float(n), 100 * share) for n, share in enumerate(shares, start=1)]
    return Shape(f"{role} line", line(points, axes), row.label)


def _n_for(shares: Sequence[float]) -> str:
    n = next((n for n, share in enumerate(shares, start=1) if share >= _FULL / 100), None)
    return f"more than {len(shares):,}" if n is None else f"{n:,}"


def _mark_words(row: Row, value: float) -> str:
    return f"{row.label}: {human_bytes(row.dense_bytes)}, {significant(value)}; {row.action}"


def _labels(found: Sequence[tuple[Row, float]], axes: Axes) -> Iterator[Label]:
    """Yield names beside marks, the highest first; one that would cover another, or a mark, is left out."""
    places = [(axes[0].at(row.dense_bytes), axes[1].at(value), row) for row, value in found]
    placed: list[tuple[float, float, float]] = []
    for x, y, row in sorted(places, key=lambda place: -place[1]):
        words = shortened(row.label, _LONGEST_LABEL)
        width = 1.4 * len(words) + 3
        is_left = x > 62
        start = x - width if is_left else x
        is_free = all(
            abs(y - other) >= _LEAST_GAP or start > end or start + width < begin for begin, end, other in placed
        )
        covers = any(
            each is not row and start < other_x < start + width and abs(y - other_y) < _LEAST_GAP / 2
            for other_x, other_y, each in places
        )
        if is_free and not covers:
            placed.append((start, start + width, y))
            yield Label(x, y, words, is_left=is_left)


def _bytes_label(axis: LogAxis, tick: Tick) -> str:
    number, unit = human_bytes(axis.low * (axis.high / axis.low) ** (tick.at / 100)).split(" ")
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {'B' if unit == 'bytes' else unit}"


def _axis(values: Sequence[float]) -> Axis:
    """Return an axis around `values`; where none is negative it stands on 0."""
    around = Axis.around(values, margin=0.08)
    return Axis(0.0, around.high) if min(values) >= 0 and around.high > 0 else around


def _layer_axis(n: int, *, has_input: bool = False) -> Axis:
    return Axis(-0.5 if has_input else 0.5, n + 0.5)


def _layer_ticks(rows: Sequence[Row], axis: Scale, *, has_input: bool = False) -> tuple[Tick, ...]:
    """Return names below the axis where there is room for all, else numbers, as many as there is room for."""
    first = [(0, "input")] if has_input else []
    named = [*first, *((row.number, row.label) for row in rows)]
    if sum(len(label) + 2 for _, label in named) <= _MOST_LETTERS:
        return tuple(Tick(axis.at(place), label) for place, label in named)
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 10_000) if 100 * step / (len(rows) + 1) >= _LEAST_GAP)
    places = [*(place for place, _ in first), *range(step, len(rows) + 1, step)]
    if step > 1:
        places = [*places, 1] if not has_input else places
    return tuple(Tick(axis.at(place), str(place) if place else "input") for place in sorted(places))
