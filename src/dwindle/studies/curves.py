"""This file draws how the networks of a study learned: a panel for each case, a colour for each stage."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Final

from dwindle.report.facts import number
from dwindle.report.figures import Axes, Axis, Chart, Shape, Tick, line
from dwindle.report.scales import ShareAxis
from dwindle.studies.asked import Asked
from dwindle.studies.figures import N_COLOURS, Picture, Sample, calls_for_stretching
from dwindle.studies.outcome import Label, Outcome

Known = Mapping[Label, Outcome]
"""Outcomes by all that tells them apart."""
Point = tuple[float, float]

_FIGURE: Final = "validation_accuracy"
_N_TICKS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A training of one seed: accuracy in percent after each epoch, counted from random weights."""

    stage: int
    place: tuple[tuple[str, str], ...]
    points: tuple[Point, ...]


def learning_curves(asked: Asked) -> Picture:
    """Return accuracy on the validation split after every epoch, for each case and each stage that trained."""
    known = {outcome.label: outcome for outcome in asked.results.outcomes}
    panels: list[Chart] = []
    seen: set[int] = set()
    for data, networks in asked.cases().items():
        found = {network: runs for network in networks if (runs := list(_runs(asked, known, (data, network))))}
        values = [y for runs in found.values() for run in runs for _, y in run.points]
        seen.update(run.stage for runs in found.values() for run in runs)
        panels += [_panel(f"{network} on {data}", runs, _y_axis(values)) for network, runs in found.items()]
    figure = asked.figure
    return Picture(
        id=figure.id,
        title=figure.title,
        about=figure.about,
        panels=tuple(panels),
        colours=tuple(Sample(_colour(i), stage) for i, stage in enumerate(figure.stages) if i in seen),
        note="Height: accuracy on the validation split, %; epochs are counted from random weights. "
        "Thin lines are single seeds, thick ones their mean.",
    )


def _runs(asked: Asked, known: Known, case: tuple[str, str]) -> Iterator[Run]:
    for number_of_stage, stage in enumerate(asked.figure.stages):
        places = asked.places(stage)
        for outcome in known.values():
            if (outcome.data, outcome.network, outcome.stage) == (*case, stage) and outcome.at in places:
                before = _epochs_before(asked, known, outcome)
                points = tuple((before + epoch, y) for epoch, y in enumerate(_accuracies(outcome), start=1))
                if any(math.isfinite(y) for _, y in points):
                    yield Run(stage=number_of_stage, place=tuple(outcome.at.items()), points=points)


def _epochs_before(asked: Asked, known: Known, outcome: Outcome) -> int:
    """Return how many epochs the outcomes that `outcome` comes from trained."""
    after = asked.study.stage(outcome.stage).after
    if after is None:
        return 0
    axes = asked.study.axes_of(asked.study.stage(after))
    at = {axis: value for axis, value in outcome.at.items() if axis in axes}
    parent = known.get(replace(outcome, stage=after, at=at).label)
    return 0 if parent is None else len(_accuracies(parent)) + _epochs_before(asked, known, parent)


def _accuracies(outcome: Outcome) -> list[float]:
    """Return the accuracy after each epoch in percent; NaN where an epoch has none."""
    found = [number(epoch, _FIGURE) for epoch in outcome.curve]
    return [math.nan if value is None else 100 * value for value in found]


def _y_axis(values: Iterable[float]) -> Axis | ShareAxis:
    values = list(values)
    return ShareAxis.around(values) if calls_for_stretching(values) else Axis.around(values, margin=0.08)


def _panel(title: str, runs: Sequence[Run], y_axis: Axis | ShareAxis) -> Chart:
    n_epochs = int(max(x for run in runs for x, _ in run.points))
    x_axis = Axis(0.5, n_epochs + 0.5)
    step = max(1, math.ceil(n_epochs / _N_TICKS))
    return Chart(
        title=title,
        description=f"Accuracy on the validation split over {n_epochs} epochs, {title}: {len(runs)} trainings",
        shapes=tuple(_strokes(runs, (x_axis, y_axis))),
        x_ticks=tuple(Tick(x_axis.at(epoch), str(epoch)) for epoch in range(step, n_epochs + 1, step)),
        y_ticks=y_axis.ticks(_N_TICKS),
        x_label="epoch",
    )


def _strokes(runs: Sequence[Run], axes: Axes) -> Iterator[Shape]:
    """Yield the seeds of each stage and place, and their mean where there are several."""
    for stage, place in dict.fromkeys((run.stage, run.place) for run in runs):
        seeds = [run.points for run in runs if (run.stage, run.place) == (stage, place)]
        if len(seeds) > 1:
            yield Shape(f"{_colour(stage)} thin line", "".join(line(points, axes) for points in seeds))
        yield Shape(f"{_colour(stage)} line", line(_mean(seeds), axes))


def _mean(seeds: Sequence[Sequence[Point]]) -> list[Point]:
    """Return the mean over the seeds that have an epoch.

    >>> _mean([[(1, 80.0), (2, 90.0)], [(1, 82.0)]])
    [(1, 81.0), (2, 90.0)]
    """
    by_epoch: dict[float, list[float]] = {}
    for epoch, y in (point for points in seeds for point in points):
        by_epoch.setdefault(epoch, []).append(y)
    return [(epoch, fmean(values)) for epoch, values in sorted(by_epoch.items())]


def _colour(stage: int) -> str:
    return f"series-{stage % N_COLOURS}"
