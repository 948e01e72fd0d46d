"""This file draws how a network learned in each stage, and how long one inference took before and after."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dwindle.report.facts import ROLES, Data, Facts, file_names, items, number, numbers, text
from dwindle.report.figures import (
    Axes,
    Axis,
    Band,
    Chart,
    Legend,
    Shape,
    Tick,
    bin_counts,
    dots,
    line,
    quantile,
    rules,
    steps,
)
from dwindle.report.words import significant

_N_BINS: Final = 60
_N_DOTS: Final = 60
_NOT_DRAWN: Final = {"epoch", "learning_rate", "seconds", "step", "steps"}
_MAX_CHARTS: Final = 6

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Timeline:
    """The epochs of all stages laid end to end; `stages` holds number, name and epochs of those that trained."""

    curves: tuple[tuple[Data, ...], ...]
    names: tuple[str, ...]


def learning_charts(facts: Facts) -> list[Chart]:
    """Return one chart for each figure of the learning curves: the losses together, then each validation figure."""
    timeline = _timeline(facts)
    keys = list(dict.fromkeys(k for curve in timeline.curves for epoch in curve for k in epoch if k not in _NOT_DRAWN))
    losses = [key for key in keys if key in {"loss", "validation_loss"}]
    others = [key for key in keys if key.startswith("validation_") and key not in losses]
    groups = [*([losses] if losses else []), *([key] for key in others)]
    charts = (_curve_chart(timeline, group) for group in groups[:_MAX_CHARTS])
    return [chart for chart in charts if chart is not None]


def latency_charts(facts: Facts) -> list[Chart]:
    """Return one chart for each way of measuring (runtime, threads, batch), dense and compressed over each other.

    Of several compressed files, the first one written is the one that ran in turn with the dense one; each of the
    others has a chart of its own, because runs of another moment cannot be laid over those of the dense file.
    """
    groups: dict[tuple[str, ...], dict[str, dict[str, list[float]]]] = {}
    for sample in facts.latency_samples:
        key = tuple(text(sample, part) for part in ("runtime", "n_threads", "batch"))
        values = sorted(numbers(sample, "samples_ms"))
        if values and text(sample, "role") in ROLES:
            by_file = groups.setdefault(key, {}).setdefault(text(sample, "role"), {})
            by_file[text(sample, "artifact")] = values
    names = file_names(facts)
    return [chart for key, by_role in groups.items() for chart in _charts_of_files(key, by_role, names)]


def _timeline(facts: Facts) -> Timeline:
    curves: list[tuple[Data, ...]] = []
    names: list[str] = []
    for position, stage in enumerate(facts.stages, start=1):
        curve = tuple(epoch for epoch in items(stage, "curve") if isinstance(epoch, dict))
        if curve:
            curves.append(curve)
            names.append(f"{position} {text(stage, 'technique') or 'unnamed stage'}")
    return Timeline(tuple(curves), tuple(names))


def _curve_chart(timeline: Timeline, keys: Sequence[str]) -> Chart | None:
    as_percent = "accuracy" in keys[0]
    runs = {key: _stage_points(timeline, key, factor=100 if as_percent else 1) for key in keys}
    values = [y for stages in runs.values() for points in stages for _, y in points]
    if not any(map(math.isfinite, values)):
        return None
    n_epochs = sum(map(len, timeline.curves))
    x_axis, y_axis = Axis(0.5, n_epochs + 0.5), Axis.around(values, margin=0.08)
    if as_percent:
        y_axis = Axis(max(0.0, y_axis.low), min(y_axis.high, 101.0))
    roles = ("first", "second")
    shapes = [
        shape for role, key in zip(roles, keys, strict=False) for shape in _strokes(role, runs[key], (x_axis, y_axis))
    ]
    n_lost = sum(not math.isfinite(y) for y in values)
    name = "Loss" if keys[0] in {"loss", "validation_loss"} else _words(keys[0])
    return Chart(
        title=name + (" (%)" if as_percent else ""),
        description=f"{name} over {n_epochs} epochs in {len(timeline.curves)} stages",
        shapes=tuple(shapes),
        x_ticks=_epoch_ticks(x_axis, n_epochs),
        y_ticks=y_axis.ticks(4),
        x_label="epoch, counted through all stages",
        bands=_bands(timeline, x_axis),
        legend=tuple(Legend(role, _words(key)) for role, key in zip(roles, keys, strict=False))
        if len(keys) > 1
        else (),
        note=f"{n_lost} figures are not finite numbers; the line has gaps there." if n_lost else "",
    )


def _stage_points(timeline: Timeline, key: str, *, factor: float) -> list[list[Point]]:
    stages: list[list[Point]] = []
    epoch = 0
    for curve in timeline.curves:
        points: list[Point] = []
        for figures in curve:
            epoch += 1
            if key in figures:
                value = number(figures, key)
                points.append((epoch, math.nan if value is None else factor * value))
        stages.append(points)
    return stages


def _strokes(role: str, stages: Sequence[Sequence[Point]], axes: Axes) -> list[Shape]:
    shapes = [Shape(role + " line", "".join(line(points, axes) for points in stages))]
    if sum(map(len, stages)) <= _N_DOTS:
        shapes.append(Shape(role + " dots", "".join(dots(points, axes) for points in stages)))
    return shapes


def _bands(timeline: Timeline, x_axis: Axis) -> tuple[Band, ...]:
    bands: list[Band] = []
    start = 0.5
    for curve, name in zip(timeline.curves, timeline.names, strict=True):
        bands.append(Band(x_axis.at(start), x_axis.at(start + len(curve)), name))
        start += len(curve)
    return tuple(bands)


def _epoch_ticks(axis: Axis, n_epochs: int) -> tuple[Tick, ...]:
    step = max(1, math.ceil(n_epochs / 8))
    return tuple(Tick(axis.at(epoch), f"{epoch:,}") for epoch in range(step, n_epochs + 1, step))


def _words(key: str) -> str:
    return {"loss": "training loss"}.get(key, key.replace("_", " ")).capitalize()


def _charts_of_files(
    key: tuple[str, ...], by_role: Mapping[str, Mapping[str, list[float]]], names: Mapping[str, str]
) -> list[Chart]:
    dense = list(by_role.get("dense", {}).values())[-1:]
    compressed = by_role.get("compressed", {})
    beside = {"dense": dense[0]} if dense else {}
    if not compressed:
        return [_latency_chart(key, beside)]
    charts: list[Chart] = []
    for digest, values in compressed.items():
        file = names.get(digest, digest[:8]) if len(compressed) > 1 else ""
        charts.append(_latency_chart(key, {**beside, "compressed": values}, file=file))
        beside = {}
    return charts


def _latency_chart(key: tuple[str, ...], by_role: dict[str, list[float]], *, file: str = "") -> Chart:
    runtime, n_threads, batch = key
    x_axis = _latency_axis(by_role)
    threads = f"{n_threads} thread{'' if n_threads == '1' else 's'}" if n_threads else ""
    title = ", ".join(part for part in (file, runtime, threads, f"batch {batch}" if batch else "") if part)
    legend = tuple(
        Legend(role, role.capitalize(), f"median {significant(quantile(values, 0.5))} ms of {len(values):,} runs")
        for role, values in sorted(by_role.items(), reverse=True)
    )
    n_beyond = sum(value > x_axis.high for values in by_role.values() for value in values)
    return Chart(
        title=title or "Latency",
        description=f"Distribution of latency, {title}: " + "; ".join(f"{item.label} {item.note}" for item in legend),
        shapes=_latency_shapes(by_role, x_axis),
        x_ticks=x_axis.ticks(5),
        x_label="milliseconds for one call",
        y_label="share of runs",
        legend=legend,
        note=f"{n_beyond:,} slower run{'' if n_beyond == 1 else 's'} beyond the right edge." if n_beyond else "",
    )


def _latency_axis(by_role: dict[str, list[float]]) -> Axis:
    """A few very slow runs must not squeeze the rest: the axis ends soon after the 99th percentiles."""
    low, high = min(v[0] for v in by_role.values()), max(quantile(v, 0.99) for v in by_role.values())
    axis = Axis.around((low, high), margin=0.06)
    return Axis(max(0.0, axis.low), axis.high) if axis.high > 0 else axis


def _latency_shapes(by_role: dict[str, list[float]], x_axis: Axis) -> tuple[Shape, ...]:
    edges = [x_axis.low + i * (x_axis.high - x_axis.low) / _N_BINS for i in range(_N_BINS + 1)]
    heights = {role: [count / len(v) for count in bin_counts(v, edges)] for role, v in by_role.items()}
    axes = x_axis, Axis(0, 1.1 * (max(max(h) for h in heights.values()) or 1))
    shapes: list[Shape] = []
    for role in (r for r in ROLES if r in by_role):
        shapes += [
            Shape(role, steps(edges, heights[role], axes=axes)),
            Shape(role + " median", rules([quantile(by_role[role], 0.5)], x_axis)),
        ]
    return tuple(shapes)
