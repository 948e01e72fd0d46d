"""This file draws charts as values: paths in a square of 100 x 100 that the template stretches, and labels in per cent.

Geometry is SVG without aspect ratio and with strokes that do not scale; every label is HTML. So a chart fills a phone
and a desktop alike while its letters keep their size, and its colours follow the page's style sheet, light or dark.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from dwindle.report.words import significant


@dataclass(frozen=True, slots=True)
class Shape:
    """One path; `role` is a class of the style sheet: dense, compressed, first, second, centroid, ...

    `words` are shown where a pointer rests on it.
    """

    role: str
    path: str
    words: str = ""


@dataclass(frozen=True, slots=True)
class Tick:
    """A label at `at` per cent of an axis."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Band:
    """A stretch of the x axis, from `start` to `end` per cent."""

    start: float
    end: float
    label: str


@dataclass(frozen=True, slots=True)
class Legend:
    """A line of the legend: the shape's role, what it is, and a note with its figures."""

    role: str
    label: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Label:
    """Words beside a mark at `x` and `y` per cent; on the left of it where `is_left`."""

    x: float
    y: float
    words: str
    is_left: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """What the template `chart.html.j2` draws; `description` is read aloud in place of the picture."""

    title: str
    description: str
    shapes: tuple[Shape, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...] = ()
    x_label: str = ""
    y_label: str = ""
    bands: tuple[Band, ...] = ()
    legend: tuple[Legend, ...] = ()
    labels: tuple[Label, ...] = ()
    note: str = ""


class Scale(Protocol):
    """What turns values into per cent of an axis."""

    def at(self, value: float, /) -> float:
        """Return where `value` lies, in per cent of the axis."""
        ...

    def ticks(self, n: int = 5, /) -> tuple[Tick, ...]:
        """Return about `n` labels."""
        ...


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear axis from `low` to `high`; an empty or single-valued range is widened so that it has a length."""

    low: float
    high: float

    @classmethod
    def around(cls, values: Iterable[float], *, margin: float = 0.0) -> Axis:
        """Return the axis that shows all finite `values` with `margin` (a fraction of the range) on both sides."""
        finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
        low, high = min(finite), max(finite)
        pad = margin * (high - low) if high > low else (0.5 * abs(low) or 0.5)  # half of the smallest float is 0
        return cls(low - pad, high + pad)

    def at(self, value: float) -> float:
        """Return where `value` lies, in per cent of the axis."""
        return 100 * (value - self.low) / (self.high - self.low)

    def ticks(self, n: int = 5) -> tuple[Tick, ...]:
        """Return about `n` labels at round values.

        >>> [tick.label for tick in Axis(0, 1).ticks(4)]
        ['0', '0.2', '0.4', '0.6', '0.8', '1.0']
        """
        step = nice_step((self.high - self.low) / n)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return tuple(
            Tick(self.at(i * step), _tick_label(i * step, step)) for i in range(first, min(last, first + 20) + 1)
        )


Axes = tuple[Scale, Scale]
"""The x axis and the y axis of a chart."""


def nice_step(rough: float) -> float:
    """Return the nearest of 1, 2, 5 times a power of ten.

    >>> nice_step(0.23), nice_step(40)
    (0.2, 50.0)
    """
    power = 10.0 ** math.floor(math.log10(rough))
    return next((power * m for m, limit in ((1, 1.5), (2, 3.5), (5, 7.5)) if rough / power <= limit), 10 * power)


def line(points: Sequence[tuple[float, float]], axes: Axes) -> str:
    """Return the path through `points`; a value that is not finite leaves a gap, a lone point becomes a dot."""
    x_axis, y_axis = axes
    parts: list[str] = []
    pen_is_down = False
    for x, y in points:
        if not math.isfinite(y):
            pen_is_down = False
            continue
        parts.append(f"{'L' if pen_is_down else 'M'}{x_axis.at(x):.2f} {100 - y_axis.at(y):.2f}")
        if not pen_is_down:
            parts.append("h0")  # with round line caps, a path of no length is a dot
        pen_is_down = True
    return "".join(parts)


def dots(points: Sequence[tuple[float, float]], axes: Axes) -> str:
    """Return a path of dots at the finite `points`."""
    x_axis, y_axis = axes
    return "".join(f"M{x_axis.at(x):.2f} {100 - y_axis.at(y):.2f}h0" for x, y in points if math.isfinite(y))


def error_bars(points: Iterable[tuple[float, float, float]], axes: Axes) -> str:
    """Return a path of upright lines, one for each (x, low, high) that is finite."""
    x_axis, y_axis = axes
    return "".join(
        f"M{x_axis.at(x):.2f} {100 - y_axis.at(low):.2f}V{100 - y_axis.at(high):.2f}"
        for x, low, high in points
        if math.isfinite(low) and math.isfinite(high)
    )


def steps(edges: Sequence[float], heights: Sequence[float], *, axes: Axes) -> str:
    """Return the closed outline of a histogram with `len(heights) + 1` edges."""
    x_axis, y_axis = axes
    floor = 100 - y_axis.at(0)
    parts = [f"M{x_axis.at(edges[0]):.2f} {floor:.2f}"]
    for right, height in zip(edges[1:], heights, strict=True):
        parts.append(f"V{100 - y_axis.at(height):.2f}H{x_axis.at(right):.2f}")
    return "".join(parts) + f"V{floor:.2f}Z"


def rules(values: Iterable[float], x_axis: Scale, *, top: float = 0.0) -> str:
    """Return vertical lines at `values`, from the floor to `top` per cent below the upper edge."""
    return "".join(f"M{x_axis.at(value):.2f} 100V{top:g}" for value in values)


def bin_counts(values: Iterable[float], edges: Sequence[float]) -> list[int]:
    """Return how many values fall between the edges; the last bin includes its right edge.

    >>> bin_counts([0.0, 0.5, 1.0, 2.0], [0.0, 1.0, 2.0])
    [2, 2]
    """
    counts = [0] * (len(edges) - 1)
    for value in values:
        if edges[0] <= value <= edges[-1]:
            counts[min(bisect_right(edges, value), len(counts)) - 1] += 1
    return counts


def quantile(ordered: Sequence[float], fraction: float) -> float:
    """Return the quantile of sorted values, linear between neighbours.

    >>> quantile([1.0, 2.0, 3.0], 0.25)
    1.5
    """
    position = fraction * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def _tick_label(value: float, step: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 1e5 or step < 1e-4:
        return significant(value, 2)
    n_decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:,.{n_decimals}f}".replace("-", "\N{MINUS SIGN}")
