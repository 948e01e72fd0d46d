"""This file draws what compression costs against what it gains: a mark for each outcome, as large as its network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Final

from dwindle.report.figures import Axis, Chart, Shape
from dwindle.report.scales import LogAxis
from dwindle.report.words import fixed, significant
from dwindle.studies.asked import Asked
from dwindle.studies.figures import N_COLOURS, N_STYLES, N_TICKS, Picture, Sample
from dwindle.studies.results import Spot

N_SIZES: Final = 5
"""Sizes of marks that the style sheet holds: below 30 thousand weights, 300 thousand, 3 and 30 million, and above."""
_SMALLEST: Final = 4.5
"""Decimal logarithm of the weights below which a network has the smallest mark."""


def bubbles(asked: Asked) -> Picture:
    """Return accuracy drop against speed-up, a panel for each data set."""
    figure, networks = asked.figure, asked.study.networks
    run = {outcome.network for outcome in asked.results.outcomes}
    panels = [chart for data, names in asked.cases().items() if (chart := _panel(asked, data, names)) is not None]
    return Picture(
        id=figure.id,
        title=figure.title,
        about=figure.about,
        panels=tuple(panels),
        colours=tuple(Sample(f"series-{i % N_COLOURS}", name) for i, name in enumerate(networks) if name in run),
        styles=tuple(
            Sample(f"style-{i % N_STYLES}", asked.study.stage(name).words) for i, name in enumerate(figure.stages)
        ),
        has_lines=False,
        note="Height: accuracy drop in points. The more weights the dense network has, the larger the mark.",
    )


def size_class(n_weights: float) -> int:
    """Return the number of the size of a mark.

    >>> [size_class(n) for n in (20_000, 4.2e6, 25.6e6, 138e6)]
    [0, 3, 3, 4]
    """
    steps = math.ceil(math.log10(max(n_weights, 1.0)) - _SMALLEST)
    return min(max(steps, 0), N_SIZES - 1)


def _panel(asked: Asked, data: str, networks: Sequence[str]) -> Chart | None:
    marks = list(_marks(asked, data, networks))
    if not marks:
        return None
    x_axis = LogAxis.around((x for x, *_ in marks), margin=0.15)
    y_axis = Axis.around([y for _, y, *_ in marks], margin=0.2)
    largest_first = sorted(marks, key=lambda mark: -mark[2])  # small ones stay visible
    return Chart(
        title=data,
        description=f"{asked.figure.title}, {data}: {len(marks)} outcomes",
        shapes=tuple(
            Shape(f"{look} size-{size} mark", f"M{x_axis.at(x):.2f} {100 - y_axis.at(y):.2f}h0", words)
            for x, y, size, look, words in largest_first
        ),
        x_ticks=x_axis.ticks(7),
        y_ticks=y_axis.ticks(N_TICKS),
        x_label="times faster than the dense network, log scale",
    )


def _marks(asked: Asked, data: str, networks: Sequence[str]) -> Iterator[tuple[float, float, int, str, str]]:
    for network, (style, stage) in itertools.product(networks, enumerate(asked.figure.stages)):
        for at in asked.places(stage):
            spot = asked.spot((data, network), stage, at)
            faster, drop = asked.finding("speedup", spot), asked.finding("accuracy_drop", spot)
            n_weights = _dense_weights(asked, spot)
            if faster is None or drop is None or n_weights is None:
                continue
            look = f"series-{asked.study.networks.index(network) % N_COLOURS} style-{style % N_STYLES}"
            words = (
                f"{network}, {asked.study.stage(stage).words_at(at)}: {significant(faster.value)} times faster, "
                f"{fixed(drop.value, 2)} points lost, {n_weights:,.0f} weights before"
            )
            yield faster.value, drop.value, size_class(n_weights), look, words


def _dense_weights(asked: Asked, spot: Spot) -> float | None:
    found = (o for o in asked.results.outcomes if (o.network, o.data, o.stage) == (spot.network, spot.data, spot.stage))
    return next((n for outcome in found if (n := outcome.number("n_dense_weights")) is not None), None)
