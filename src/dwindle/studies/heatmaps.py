"""This file lays out where the time of a call goes: classes of operations across, outcomes down, as a tinted table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dwindle.bench.probes.operator_classes import CLASSES, ENGINE
from dwindle.report.words import DASH, fixed
from dwindle.studies.asked import Asked
from dwindle.studies.outcome import Outcome

LEAST_SHARE: Final = 0.01
"""A class that no outcome spends so much of its time in is left out, as in the paper."""
_DEEP: Final = 60
"""Percent from which a cell is so dark that its text is light."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatCell:
    """The share of a class in percent, as text; `tint` is the same as a number, for the colour."""

    words: str
    tint: float

    @property
    def is_deep(self) -> bool:
        """Whether its background is dark."""
        return self.tint >= _DEEP


@dataclass(frozen=True, slots=True, kw_only=True)
class Heatmap:
    """A figure of the page; without rows where the ledger holds nothing of it.

    Attributes:
        classes: titles of columns.
        rows: the names of an outcome and its cells.
    """

    id: str
    title: str
    about: str
    classes: tuple[str, ...] = ()
    rows: tuple[tuple[str, tuple[HeatCell, ...]], ...] = ()
    note: str = ""


def heatmap(asked: Asked) -> Heatmap:
    """Return the shares of the outcomes that the figure asks for, each the mean over its seeds."""
    shares = dict(_shares(asked))
    groups = [g for g in (*CLASSES, ENGINE) if any(found.get(g, 0.0) >= LEAST_SHARE for found in shares.values())]
    figure = asked.figure
    return Heatmap(
        id=figure.id,
        title=figure.title,
        about=figure.about,
        classes=tuple(groups),
        rows=tuple((words, tuple(_cell(found.get(group)) for group in groups)) for words, found in shares.items()),
        note=f"Percent of the time of a call, mean over the seeds; what is always below {LEAST_SHARE:.0%} is left out.",
    )


def _shares(asked: Asked) -> list[tuple[str, dict[str, float]]]:
    rows: list[tuple[str, dict[str, float]]] = []
    for data, networks in asked.cases().items():
        for network in networks:
            for stage in asked.figure.stages:
                for at in asked.places(stage):
                    label = (data, network, stage, frozenset(at.items()))
                    found = [o for o in asked.results.outcomes if _label(o) == label and o.operators]
                    words = f"{network} on {data}: {asked.study.stage(stage).words_at(at)}"
                    rows += [(words, _mean([outcome.operators for outcome in found]))] if found else []
    return rows


def _label(outcome: Outcome) -> tuple[str, str, str, frozenset[tuple[str, str]]]:
    return (outcome.data, outcome.network, outcome.stage, frozenset(outcome.at.items()))


def _mean(shares: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for each in shares for name in each)
    return {name: sum(each.get(name, 0.0) for each in shares) / len(shares) for name in names}


def _cell(share: float | None) -> HeatCell:
    if share is None:
        return HeatCell(words=DASH, tint=0.0)
    percent = 100.0 * share
    return HeatCell(words=fixed(percent, 1), tint=round(min(percent, 100.0), 1))
