"""This file says how long the rest of a study will take, from what its outcomes took so far."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Self

from dwindle.studies.plan import Node


@dataclass(frozen=True, slots=True)
class Forecast:
    """Seconds until all is done, and how many outcomes nothing is known about yet; these are not counted."""

    seconds: float = 0.0
    n_unknown: int = 0


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What outcomes took, in seconds, by case.

    Attributes:
        per_epoch: of training.
        beside: for everything else that an outcome needs.
    """

    per_epoch: Mapping[str, float] = field(default_factory=dict[str, float])
    beside: Mapping[str, float] = field(default_factory=dict[str, float])

    @classmethod
    def of(cls, outcomes: Iterable[Mapping[str, Any]]) -> Self:
        """Return the means over `outcomes`, entries of a ledger."""
        per_epoch, beside = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
        for entry in outcomes:
            case = f"{entry['network']} on {entry['data']}"
            trained = sum(epoch["seconds"] for record in entry["history"] for epoch in record["curve"])
            if entry["epochs"] and trained:
                per_epoch[case].append(trained / entry["epochs"])
            beside[case].append(entry["seconds_to_measure"] + (0.0 if entry["epochs"] else entry["seconds"]))
        return cls(
            per_epoch={case: fmean(found) for case, found in per_epoch.items()},
            beside={case: fmean(found) for case, found in beside.items()},
        )


@dataclass(frozen=True, kw_only=True)
class Underway:
    """The outcome under way.

    Attributes:
        share: of its training, in [0, 1].
        seconds_per_epoch: as this process sees it; None where it saw too little.
    """

    node: Node
    share: float = 0.0
    seconds_per_epoch: float | None = None


def forecast(nodes: Sequence[Node], pace: Pace, *, underway: Underway | None = None, n_workers: int = 1) -> Forecast:
    """Return how long `nodes` will take, of which none is done.

    Processes share the work; but what comes from an outcome waits for it, so no number of them is faster than the
    longest chain.

    Args:
        nodes: what is still to be made, parents first.
        pace: of what was made.
        underway: what this process makes now, one of `nodes`.
        n_workers: how many processes share the rest.
    """
    total, n_unknown = 0.0, 0
    until: dict[str, float] = {}
    for node in nodes:
        seconds = _seconds(node, pace, underway)
        n_unknown += seconds is None
        total += seconds or 0.0
        before = 0.0 if node.parent is None else until.get(node.parent.key, 0.0)
        until[node.key] = before + (seconds or 0.0)
    return Forecast(seconds=max(total / max(1, n_workers), *until.values(), 0.0), n_unknown=n_unknown)


def _seconds(node: Node, pace: Pace, underway: Underway | None) -> float | None:
    """Return how long `node` takes from now on; None where nothing is known of its case."""
    case, epochs = node.case.name, node.epochs
    own = None
    if underway is not None and underway.node.case.name == case:
        own = underway.seconds_per_epoch
        epochs *= 1.0 - underway.share if node.key == underway.node.key else 1.0
    rate = pace.per_epoch.get(case, own)
    if node.epochs and rate is None:
        return None
    if not node.epochs and case not in pace.beside:
        return None
    return epochs * (rate or 0.0) + pace.beside.get(case, 0.0)
