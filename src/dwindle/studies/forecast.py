"""This file says how long the rest of a study will take, from what its outcomes took so far."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from dwindle.studies.plan import Node


@dataclass(frozen=True, slots=True)
class Forecast:
    """Seconds until all is done, and how many outcomes nothing is known about yet; these are not counted."""

    seconds: float = 0.0
    n_unknown: int = 0


def forecast(  # ruff: ignore[too-many-arguments] (all but the first two have defaults)
    nodes: Sequence[Node],
    outcomes: Sequence[Mapping[str, Any]],
    *,
    doing: Node | None = None,
    share: float = 0.0,
    seconds: float = 0.0,
    n_workers: int = 1,
) -> Forecast:
    """Return how long the outcomes of `nodes` that `outcomes` lacks will take.

    An epoch takes as long as the epochs of the same case took, whatever else an outcome needs as long as it did for
    the same case.

    Args:
        nodes: what shall exist.
        outcomes: ledger entries of what exists.
        doing: the outcome under way, `share` of whose training is done after `seconds`.
        share: in [0, 1].
        seconds: since `doing` began.
        n_workers: how many processes share the rest.
    """
    done = {entry["key"] for entry in outcomes}
    per_epoch, beside = _rates(outcomes)
    total, n_unknown = 0.0, 0
    for node in nodes:
        if node.key in done:
            continue
        is_current = doing is not None and node.key == doing.key
        epochs = node.epochs * (1.0 - share if is_current else 1.0)
        rate = per_epoch.get(node.case.name)
        if rate is None and doing is not None and node.case.name == doing.case.name and share and doing.epochs:
            rate = seconds / (share * doing.epochs)
        if epochs and rate is None:
            n_unknown += 1
            continue
        total += epochs * (rate or 0.0) + beside.get(node.case.name, 0.0)
    return Forecast(seconds=total / n_workers, n_unknown=n_unknown)


def _rates(outcomes: Sequence[Mapping[str, Any]]) -> tuple[dict[str, float], dict[str, float]]:
    """Return by case the seconds of an epoch, and of all else that an outcome takes."""
    per_epoch, beside = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    for entry in outcomes:
        case = f"{entry['network']} on {entry['data']}"
        if entry["epochs"]:
            trained = [epoch["seconds"] for record in entry["history"] for epoch in record["curve"]]
            per_epoch[case].append(sum(trained) / entry["epochs"])
            beside[case].append(entry["seconds_to_measure"])
        else:
            beside[case].append(entry["seconds"] + entry["seconds_to_measure"])
    return {k: fmean(v) for k, v in per_epoch.items()}, {k: fmean(v) for k, v in beside.items()}
