"""This file sums a job up in plain values: what summary.json holds and the terminal prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dwindle.bench.budget import Verdict
from dwindle.bench.measure import Measured
from dwindle.bench.measurement import ACCURACY, COMPRESSION_RATIO, PARITY, SIZE, Measurement
from dwindle.job.task import Task


def summarize(measured: Measured, task: Task, *, verdict: Verdict | None, seconds: float) -> dict[str, Any]:
    """Return the summary of the first file.

    A job about classes speaks of `accuracy` and its drop in points; any other of its first metric by name: `<metric>`,
    `dense_<metric>`, `<metric>_drop`, and `metric` says which that is and `metric_unit` in what. Metrics that a job
    names beyond the first follow, with `dense_` values.
    """
    ratio, parity, first = (measured.find(m.name) for m in (COMPRESSION_RATIO, PARITY, task.metric))
    drop = measured.find(f"{task.metric.name}_drop")
    return {
        "compression_ratio": ratio.value,
        **(_classes(measured, drop) if task.is_classification else _quality(measured, task, drop)),
        **_others(measured, task),
        "n_test": first.n,
        "parity": parity.value,
        "parity_is_within_bound": parity.conditions.get("within_bound") != "no",
        "budget": None if verdict is None else verdict.value,
        "machine": first.machine,
        "seconds": seconds,
    }


def _classes(measured: Measured, drop: Measurement) -> Mapping[str, Any]:
    return {
        "accuracy_drop_points": drop.value,
        "accuracy_drop_low": drop.low,
        "accuracy_drop_high": drop.high,
        "size_bytes": measured.find(SIZE.name).value,
        "accuracy": measured.find(ACCURACY.name).value,
        "dense_accuracy": _dense(measured, ACCURACY.name),
    }


def _quality(measured: Measured, task: Task, drop: Measurement) -> Mapping[str, Any]:
    name, found = task.metric.name, measured.find(task.metric.name)
    return {
        "metric": name,
        "metric_unit": task.metric.unit,
        f"{name}_drop": drop.value,
        f"{name}_drop_low": drop.low,
        f"{name}_drop_high": drop.high,
        f"{name}_drop_unit": drop.metric.unit,
        "size_bytes": measured.find(SIZE.name).value,
        name: found.value,
        f"{name}_low": found.low,
        f"{name}_high": found.high,
        f"dense_{name}": _dense(measured, name),
    }


def _others(measured: Measured, task: Task) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    known = {m.metric.name for m in measured.measurements}
    for score in () if task.is_default else task.scores[1:]:
        name = score.metric.name
        if name in known:
            found |= {name: measured.find(name).value, f"dense_{name}": _dense(measured, name)}
    return found


def _dense(measured: Measured, name: str) -> float | None:
    return measured.dense.find(name).value if measured.dense is not None else None
