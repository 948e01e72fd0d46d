"""This file draws the pictures of a study: a panel for each data set, a colour for each network, a mark for a stage."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dwindle.report.figures import Axes, Axis, Chart, Scale, Shape, Tick, error_bars, line
from dwindle.report.scales import LogAxis, ShareAxis
from dwindle.report.words import fixed, metric_value
from dwindle.studies.asked import Asked
from dwindle.studies.cells import axis_words
from dwindle.studies.results import Finding, Spot

N_COLOURS: Final = 6
N_STYLES: Final = 4
"""Colours and marks that the style sheet holds; further networks and stages begin anew."""
N_TICKS: Final = 6
_DODGE: Final = 0.045
"""Between networks at the same place of an axis, so that their error bars do not cover each other."""
_HEIGHTS: Final = {
    "accuracy": "accuracy on the test split, %",
    "accuracy_drop": "accuracy drop, points",
    "size_bytes": "bytes of the file",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """A line of the legend: the class of a colour or of a style, and what it stands for."""

    role: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A figure of the page; without panels where the ledger holds nothing of it."""

    id: str
    title: str
    about: str
    panels: tuple[Chart, ...] = ()
    colours: tuple[Sample, ...] = ()
    styles: tuple[Sample, ...] = ()
    has_lines: bool = True
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One outcome in a panel, the mean over its seeds; `colour` and `style` are numbers of the style sheet."""

    x: float
    found: Finding
    colour: int
    style: int
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """The marks of one data set, and the axis below them."""

    data: str
    marks: Sequence[Mark]
    x_axis: Scale
    x_label: str
    x_ticks: tuple[Tick, ...]


def against_ratio(asked: Asked) -> Picture:
    """Return a quantity against how many times smaller the file is: a mark for each outcome, a style for each stage."""
    panels: list[Panel] = []
    for data, networks in asked.cases().items():
        marks = list(_cloud(asked, data, networks))
        x_axis = LogAxis.around((mark.x for mark in marks), margin=0.06)
        panels.append(
            Panel(data=data, marks=marks, x_axis=x_axis, x_label="times smaller, log scale", x_ticks=x_axis.ticks(7))
        )
    return _picture(asked, panels, labels=asked.figure.stages, has_lines=False)


def against_axis(asked: Asked) -> Picture:
    """Return a quantity along an axis: a line for each network, a style for each stage and value of other axes."""
    axis = asked.figure.axis or ""
    options = asked.options_run(axis)
    x_axis = Axis(-0.35, len(options) - 0.65)
    ticks = tuple(Tick(x_axis.at(position), option) for position, option in enumerate(options))
    variants = [(stage, at) for stage in asked.figure.stages for at in asked.places(stage, beside=axis)]
    panels = [
        Panel(
            data=data,
            marks=list(_rows(asked, data, networks, variants=variants)),
            x_axis=x_axis,
            x_label=axis_words(axis),
            x_ticks=ticks,
        )
        for data, networks in asked.cases().items()
    ]
    return _picture(asked, panels, labels=_labels(variants))


def _cloud(asked: Asked, data: str, networks: Sequence[str]) -> Iterator[Mark]:
    for network, (style, stage) in itertools.product(networks, enumerate(asked.figure.stages)):
        for at in asked.places(stage):
            spot = asked.spot((data, network), stage, at)
            ratio = asked.finding("compression_ratio", spot)
            found = asked.finding(asked.figure.quantity, spot)
            if ratio is not None and found is not None:
                words = f"{_words(spot, found)}, {metric_value(ratio.value, 'x')} smaller"
                colour = asked.study.networks.index(network)
                yield Mark(x=ratio.value, found=found, colour=colour, style=style, words=words)


def _rows(
    asked: Asked, data: str, networks: Sequence[str], *, variants: Sequence[tuple[str, Mapping[str, str]]]
) -> Iterator[Mark]:
    axis = asked.figure.axis or ""
    for place, network in enumerate(networks):
        shift = _DODGE * (place - (len(networks) - 1) / 2)
        colour = asked.study.networks.index(network)
        for (style, (stage, at)), (x, option) in itertools.product(
            enumerate(variants), enumerate(asked.options_run(axis))
        ):
            spot = asked.spot((data, network), stage, {**at, axis: option})
            found = asked.finding(asked.figure.quantity, spot)
            if found is not None:
                yield Mark(x=x + shift, found=found, colour=colour, style=style, words=_words(spot, found))


def _labels(variants: Sequence[tuple[str, Mapping[str, str]]]) -> list[str]:
    """Return what tells the variants apart: stages where there are several, values of axes where these differ.

    >>> _labels([("clustered", {"rate": "2x", "init": "linear"}), ("clustered", {"rate": "2x", "init": "k-means++"})])
    ['linear', 'k-means++']
    """
    rows = [{"": stage, **at} for stage, at in variants]
    differing = [key for key in dict.fromkeys(k for row in rows for k in row) if len({r.get(key) for r in rows}) > 1]
    return [", ".join(row[key] for key in differing or [""] if key in row) for row in rows]


def _words(spot: Spot, found: Finding) -> str:
    seeds = f"{found.n_seeds} seed{'' if found.n_seeds == 1 else 's'}"
    name = ", ".join((spot.network, spot.stage, *spot.at.values()))
    return f"{name}: {fixed(found.value, 2)} [{fixed(found.low, 2)}, {fixed(found.high, 2)}], {seeds}"


def _picture(asked: Asked, panels: Sequence[Panel], *, labels: Sequence[str], has_lines: bool = True) -> Picture:
    figure = asked.figure
    panels = [panel for panel in panels if panel.marks]
    marks = [mark for panel in panels for mark in panel.marks]
    is_stretched = figure.quantity == "accuracy" and calls_for_stretching(mark.found.value for mark in marks)
    colours, styles = {mark.colour for mark in marks}, {mark.style for mark in marks}
    height = _HEIGHTS.get(figure.quantity, figure.quantity.replace("_", " "))
    return Picture(
        id=figure.id,
        title=figure.title,
        about=figure.about,
        panels=tuple(_chart(asked, panel, has_lines=has_lines, is_stretched=is_stretched) for panel in panels),
        colours=tuple(Sample(_colour(i), name) for i, name in enumerate(asked.study.networks) if i in colours),
        styles=tuple(Sample(_style(i), label) for i, label in enumerate(labels) if i in styles),
        has_lines=has_lines,
        note=f"Height: {height}{'; the scale is stretched towards 100 %' if is_stretched else ''}.",
    )


def _chart(asked: Asked, panel: Panel, *, has_lines: bool, is_stretched: bool) -> Chart:
    values = [value for mark in panel.marks for value in (mark.found.low, mark.found.value, mark.found.high)]
    y_axis = ShareAxis.around(values) if is_stretched else Axis.around(values, margin=0.08)
    axes = panel.x_axis, y_axis
    n_networks = len({mark.colour for mark in panel.marks})
    return Chart(
        title=panel.data,
        description=f"{asked.figure.title}, {panel.data}: {len(panel.marks)} figures, networks: {n_networks}",
        shapes=(
            *_bars(panel.marks, axes),
            *(_lines(panel.marks, axes) if has_lines else ()),
            *itertools.chain.from_iterable(_shapes(mark, axes) for mark in panel.marks),
        ),
        x_ticks=panel.x_ticks,
        y_ticks=y_axis.ticks(N_TICKS),
        x_label=panel.x_label,
    )


def calls_for_stretching(shares: Iterable[float]) -> bool:
    """Return whether good accuracies and bad ones, in percent, stand in one figure.

    >>> calls_for_stretching([10.0, 93.0]), calls_for_stretching([84.0, 93.0]), calls_for_stretching([10.0, 20.0])
    (True, False, False)
    """
    finite = [share for share in shares if math.isfinite(share)]
    return bool(finite) and min(finite) < 60.0 and max(finite) > 75.0


def _colour(number: int) -> str:
    return f"series-{number % N_COLOURS}"


def _style(number: int) -> str:
    return f"style-{number % N_STYLES}"


def _bars(marks: Sequence[Mark], axes: Axes) -> Iterator[Shape]:
    for colour in sorted({mark.colour for mark in marks}):
        points = [(mark.x, mark.found.low, mark.found.high) for mark in marks if mark.colour == colour]
        yield Shape(f"{_colour(colour)} error", error_bars(points, axes))


def _lines(marks: Sequence[Mark], axes: Axes) -> Iterator[Shape]:
    for look in sorted({(mark.colour, mark.style) for mark in marks}):
        points = sorted((mark.x, mark.found.value) for mark in marks if (mark.colour, mark.style) == look)
        yield Shape(f"{_colour(look[0])} {_style(look[1])} line", line(points, axes))


def _shapes(mark: Mark, axes: Axes) -> Iterator[Shape]:
    """Yield a mark, and on top of every other style what makes it hollow."""
    point = f"M{axes[0].at(mark.x):.2f} {100 - axes[1].at(mark.found.value):.2f}h0"
    yield Shape(f"{_colour(mark.colour)} {_style(mark.style)} mark", point, mark.words)
    if mark.style % 2:
        yield Shape(f"{_style(mark.style)} core", point)
