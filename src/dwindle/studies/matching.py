"""This file says which outcomes a cell of a table or a side of a claim is about, and whether they mean anything."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from dwindle.studies.results import Results, Spot
from dwindle.studies.shown import Quantity
from dwindle.studies.study import Case, Preset, Stage, Study


@dataclass(frozen=True, kw_only=True)
class BelowFloor:
    """A case whose dense network stays below its floor, both in percent; a drop against it means nothing."""

    case: Case
    accuracy: float
    floor: float


def spots_of(
    study: Study, preset: Preset, *, stage: str, quantity: Quantity, where: Mapping[str, Any]
) -> tuple[Spot, ...]:
    """Return all outcomes of `stage` that `preset` asks for and that match `where`.

    Args:
        study: whose cases, stages and axes.
        preset: data sets and values of axes beyond it are passed over.
        stage: the name of a stage.
        quantity: a drop is taken against what the stage names.
        where: `network`, `data` or axis -> the value or the values that match; axes the stage lacks are passed over.
    """
    found = study.stage(stage)
    against = found.against if quantity == "accuracy_drop" else None
    axes = study.axes_for(found, quantity)
    options = [[value for value in options_of(study, preset, axis) if matches(where, axis, value)] for axis in axes]
    return tuple(
        Spot(stage=stage, network=case.network, data=case.data, at=dict(zip(axes, at, strict=True)), against=against)
        for case in cases_of(study, preset)
        if case.has(stage) and matches(where, "network", case.network) and matches(where, "data", case.data)
        for at in itertools.product(*options)
    )


def cases_of(study: Study, preset: Preset) -> tuple[Case, ...]:
    """Return the cases that `preset` runs."""
    return tuple(case for case in study.cases if case.data in preset.data)


def options_of(study: Study, preset: Preset, key: str) -> tuple[str, ...]:
    """Return what `network`, `data` or an axis can be with `preset`, in the order of the study."""
    if key in {"network", "data"}:
        return tuple(dict.fromkeys(getattr(case, key) for case in cases_of(study, preset)))
    return study.options_of(key, preset)


def matches(where: Mapping[str, Any], key: str, value: str) -> bool:
    """Return whether `where` allows `value` for `key`.

    >>> matches({"data": ["A", "B"]}, "data", "B"), matches({"data": "A"}, "data", "B"), matches({}, "data", "B")
    (True, False, True)
    """
    if key not in where:
        return True
    allowed = where[key]
    return value in cast("list[Any]", allowed) if isinstance(allowed, list | tuple) else value == allowed


def dense_stage(study: Study) -> Stage | None:
    """Return the dense network that most is compared with: the stage that most drops are taken against.

    Stages that a drop of their own is taken of have structure; where two are named equally often, the later one has
    been trained for longer.
    """
    named = Counter(stage.against for stage in study.stages if stage.against is not None)
    dense = [stage for stage in study.stages if stage.against is None and stage.name in named]
    return max(reversed(dense), key=lambda stage: named[stage.name], default=None)


def below_floor(study: Study, results: Results, spots: Sequence[Spot]) -> tuple[BelowFloor, ...]:
    """Return the cases of those of `spots` that are taken against a dense network, where it stays below its floor."""
    dense = dense_stage(study)
    if dense is None:
        return ()
    names = {(s.network, s.data) for s in spots if s.against is not None and study.stage(s.against).against is None}
    return tuple(_below(results, dense, (case for case in study.cases if (case.network, case.data) in names)))


def _below(results: Results, dense: Stage, cases: Iterable[Case]) -> Iterable[BelowFloor]:
    for case in cases:
        if case.floor is None:
            continue
        accuracy = results.figure("accuracy", stage=dense.name, network=case.network, data=case.data)
        if accuracy is not None and accuracy.value < case.floor:
            yield BelowFloor(case=case, accuracy=accuracy.value, floor=case.floor)
