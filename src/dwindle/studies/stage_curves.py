"""This file draws how each stage of a study learned: loss and accuracy, training and validation, over its epochs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from dwindle.report.facts import number
from dwindle.report.figures import Axis, Chart, Shape, Tick, line
from dwindle.studies.asked import Asked
from dwindle.studies.figures import Picture, Sample
from dwindle.studies.outcome import Outcome
from dwindle.studies.results import Spot

Point = tuple[float, float]
_N_TICKS: Final = 5
_PARTS: Final = ("training", "validation")
"""In the order of their colours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """What a panel shows: the keys of its two curves in an epoch's figures, and a factor."""

    words: str
    keys: tuple[str, str]
    factor: float = 1.0


_KINDS: Final = (
    _Kind(words="loss", keys=("loss", "validation_loss")),
    _Kind(words="accuracy, %", keys=("accuracy", "validation_accuracy"), factor=100.0),
)


def stage_curves(asked: Asked) -> Picture:
    """Return loss and accuracy over the epochs of every stage that trained: two panels for each case and place."""
    panels = [panel for group in _groups(asked) for kind in _KINDS if (panel := _panel(group, kind)) is not None]
    figure = asked.figure
    return Picture(
        id=figure.id,
        title=figure.title,
        about=figure.about,
        panels=tuple(panels),
        colours=tuple(Sample(f"series-{i}", part) for i, part in enumerate(_PARTS)) if panels else (),
        note="Training figures are those of the batches as they were met, augmented; where a teacher takes part, the "
        "training loss is the mixed one. Thin lines are single seeds, thick ones their mean.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """The trainings of one stage at one place, whatever their seed."""

    title: str
    outcomes: tuple[Outcome, ...]


def _groups(asked: Asked) -> Iterator[_Group]:
    for data, networks in asked.cases().items():
        for network in networks:
            case = f"{network} on {data}: " if _has_several_cases(asked) else ""
            for name in asked.figure.stages:
                for at in asked.places(name):
                    spot = asked.spot((data, network), name, at)
                    found = [o for o in asked.results.outcomes if _is_at(o, spot) and o.curve]
                    if found:
                        title = f"{case}{asked.study.stage(name).words_at(at)}"
                        yield _Group(title=title, outcomes=tuple(sorted(found, key=lambda o: o.seed)))


def _has_several_cases(asked: Asked) -> bool:
    return len({(outcome.data, outcome.network) for outcome in asked.results.outcomes}) > 1


def _is_at(outcome: Outcome, spot: Spot) -> bool:
    ours = (outcome.network, outcome.data, outcome.stage, outcome.at)
    return ours == (spot.network, spot.data, spot.stage, spot.at)


def _panel(group: _Group, kind: _Kind) -> Chart | None:
    """Return the panel of one kind; None where no epoch has such a figure."""
    curves = [[_points(outcome, key, kind.factor) for outcome in group.outcomes] for key in kind.keys]
    points = [point for runs in curves for run in runs for point in run]
    if not points:
        return None
    n_epochs = int(max(x for x, _ in points))
    x_axis, y_axis = Axis(0.5, n_epochs + 0.5), Axis.around([y for _, y in points], margin=0.08)
    step = max(1, math.ceil(n_epochs / _N_TICKS))
    shapes = [shape for i, runs in enumerate(curves) for shape in _strokes(runs, i, (x_axis, y_axis))]
    return Chart(
        title=f"{group.title}: {kind.words}",
        description=f"{kind.words.capitalize()} over {n_epochs} epochs, {group.title}: {len(group.outcomes)} trainings",
        shapes=tuple(shapes),
        x_ticks=tuple(Tick(x_axis.at(epoch), str(epoch)) for epoch in range(step, n_epochs + 1, step)),
        y_ticks=y_axis.ticks(_N_TICKS),
        x_label="epoch of this stage",
    )


def _points(outcome: Outcome, key: str, factor: float) -> list[Point]:
    """Return (epoch, figure); epochs of a stage of several trainings follow each other."""
    found = [(float(i), number(epoch, key)) for i, epoch in enumerate(outcome.curve, start=1)]
    return [(epoch, factor * value) for epoch, value in found if value is not None]


def _strokes(runs: Sequence[Sequence[Point]], colour: int, axes: tuple[Axis, Axis]) -> Iterator[Shape]:
    """Yield the line of each seed, and their mean where there are several; one epoch is a mark."""
    runs = [run for run in runs if run]
    if not runs:
        return
    mean = _mean(runs)
    if len(mean) == 1:
        ((x, y),) = mean
        point = f"M{axes[0].at(x):.2f} {100 - axes[1].at(y):.2f}h0"
        yield Shape(f"series-{colour} style-0 mark", point, f"{_PARTS[colour]}: {y:.4g}")
        return
    if len(runs) > 1:
        yield Shape(f"series-{colour} thin line", "".join(line(run, axes) for run in runs))
    yield Shape(f"series-{colour} line", line(mean, axes))


def _mean(runs: Sequence[Sequence[Point]]) -> list[Point]:
    by_epoch: dict[float, list[float]] = {}
    for epoch, y in (point for run in runs for point in run):
        by_epoch.setdefault(epoch, []).append(y)
    return [(epoch, fmean(values)) for epoch, values in sorted(by_epoch.items())]
