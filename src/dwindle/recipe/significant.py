"""This file turns selections by significance into names, on the network as it was given to the recipe."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, cast

from torch import nn

from dwindle.network.compressed import CompressedModel
from dwindle.network.select import Select
from dwindle.network.significance.significance import Judged, Significance
from dwindle.technique import Context, Needs, Technique, evidence_of, needs_of_criterion, recorded

SKIPPED = "skipped"
"""Key of the decisions of a step that had nothing to do."""


@dataclass(frozen=True, slots=True)
class Settled:
    """A step whose selection is names alone, and what they were chosen by; `is_idle` where none was left."""

    step: Technique
    judged: Judged | None = None
    is_idle: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Choices:
    """Chooses layers for all steps of a recipe on one network, so that two sides of one choice share them out.

    Attributes:
        network: the network as it was given, before the first step; it stays as it is.
        context: data to judge by.
    """

    network: nn.Module
    context: Context
    _judged: dict[tuple[Significance, tuple[str, ...]], Judged] = field(default_factory=dict[Any, Judged])

    def settle(self, step: Technique) -> Settled:
        """Return `step` with the names that its selection stands for.

        Raises:
            SelectionError: a pattern matches nothing, or no layer can be judged.
            DwindleError: whatever the criterion raises.
        """
        select = select_of(step)
        if select is None or select.significance is None:
            return Settled(step)
        judged = self._judge(select.significance, select.pool(self.network))
        names = judged.on(select.significance.side)
        if not names:
            return Settled(step, judged, is_idle=True)
        return Settled(cast("Technique", replace(cast("Any", step), select=Select(names=names))), judged)

    def _judge(self, significance: Significance, pool: tuple[str, ...]) -> Judged:
        key = replace(significance, side="significant"), pool
        if key not in self._judged:
            self._judged[key] = significance.judge(self.network, evidence_of(self.context), pool)
        return self._judged[key]


def select_of(step: Technique) -> Select | None:
    """Return what `step` selects weights by; None where it does not."""
    select = getattr(step, "select", None)
    return select if isinstance(select, Select) else None


def needs_of_selection(step: Technique) -> Needs:
    """Return what choosing the layers of `step` needs, beside what the step itself does."""
    select = select_of(step)
    if select is None or select.significance is None:
        return Needs.NOTHING
    return needs_of_criterion(select.significance.by)


def skipped(settled: Settled, model: CompressedModel, context: Context) -> CompressedModel:
    """Return `model` with a record that the step found no layer on its side."""
    return recorded(settled.step, model, context, decisions={SKIPPED: "no layer is on this side"})


def explained(model: CompressedModel, judged: Judged | None) -> CompressedModel:
    """Return `model` whose last record says what the layers of the step were chosen by."""
    if judged is None:
        return model
    record = model.history[-1]
    decisions = {**record.decisions, "significance": judged.to_plain()}
    return replace(model, history=(*model.history[:-1], replace(record, decisions=decisions)))
