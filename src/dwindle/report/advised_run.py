"""This file reads from a run's ledger what advice weighs: the compressed network beside the dense one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dwindle.core.statistics import Interval
from dwindle.report.advice import Advice, advise
from dwindle.report.comparison import best, judged_metric
from dwindle.report.confusion import learned_of
from dwindle.report.facts import Data, Facts, number, table, text
from dwindle.report.methods import methods_of
from dwindle.report.weighed import Candidate, Question

MAX_DROP: Final = 1.0
"""Points, where the budget of the run names no drop."""
NAME: Final = "the compressed network"


def advice_of(facts: Facts) -> Advice:
    """Return what the figures of a run say; nothing where no compressed file was measured."""
    metric = judged_metric(facts)
    drop = best(facts, "compressed", f"{metric}_drop")
    speedup = best(facts, "compressed", "speedup")
    measured = best(facts, "compressed", metric) or {}
    candidate = Candidate(
        name=NAME,
        methods=methods_of({"type": text(stage, "technique"), **table(stage, "settings")} for stage in facts.stages),
        sizes=_sizes(facts, "compressed"),
        drop=_interval(drop),
        speedup=_interval(speedup),
    )
    unit = text(table(drop or {}, "metric"), "unit")
    bound = number(table(facts.budget, "bounds"), f"{metric}_drop")
    return advise(
        Question(
            dense=_sizes(facts, "dense"),
            candidates=(candidate,) if candidate.sizes or drop or speedup else (),
            max_drop=bound if bound is not None else MAX_DROP if unit == "points" else None,
            metric=metric.replace("_", " "),
            unit=unit,
            change="rise" if number(table(measured, "metric"), "better") == -1 else "drop",
            learned=learned_of(facts, "dense"),
        )
    )


def _sizes(facts: Facts, role: str) -> Mapping[str, Interval]:
    """Return the bytes of the files of one role, by their format."""
    found: dict[str, Interval] = {}
    for file in facts.artifacts:
        n_bytes = number(file, "size_bytes")
        if text(file, "role") == role and n_bytes is not None and n_bytes > 0:
            found[f".{text(file, 'format')}"] = Interval(n_bytes, n_bytes, n_bytes, 1)
    return found


def _interval(measurement: Data | None) -> Interval | None:
    """Return value and ends; None where one is missing."""
    value, low, high = (number(measurement or {}, key) for key in ("value", "low", "high"))
    if value is None or low is None or high is None or not low <= value <= high:
        return None
    return Interval(value, low, high, 1)
