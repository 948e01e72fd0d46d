"""This file judges the claims of a study: confirmed, refuted or undecided, by the intervals of what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from dwindle.report.weighed import N_TRAININGS_NEEDED
from dwindle.studies.matching import below_floor, spots_of
from dwindle.studies.results import Finding, Results, Spot
from dwindle.studies.shown import Claim, Condition, Quantity, Side
from dwindle.studies.study import Study

RULE_OF_CLAIMS: Final = (
    "A claim is confirmed where the whole interval is on its side, refuted where it is on the other, and undecided "
    "where it holds both, where outcomes are missing, or where fewer than three seeds were trained."
)


class Ruling(StrEnum):
    """What the figures say of a claim."""

    CONFIRMED = "CONFIRMED"
    REFUTED = "REFUTED"
    UNDECIDED = "UNDECIDED"
    NOT_RUN = "NOT RUN"


@dataclass(frozen=True, kw_only=True)
class JudgedCondition:
    """A condition of a claim and the figures that decide it.

    Attributes:
        left: mean over what matches the left side and was run; None where nothing was run.
        right: the same; None where nothing was run or the condition names a bound.
        difference: left - right, paired by example and seed; None where the condition names a bound.
        n_missing: outcomes that match but were not run; while there are any, nothing is decided.
        is_below_floor: whether a drop is taken against a dense network below its floor; then nothing is decided.
    """

    condition: Condition
    ruling: Ruling
    left: Finding | None = None
    right: Finding | None = None
    difference: Finding | None = None
    n_missing: int = 0
    is_below_floor: bool = False


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A claim: refuted if one of its conditions is, confirmed if all are."""

    claim: Claim
    ruling: Ruling
    conditions: tuple[JudgedCondition, ...]


def judge(claim: Claim, study: Study, results: Results) -> Judged:
    """Return what `results` say of `claim`.

    Raises:
        SettingError: the claim names a stage that the study lacks, or the study lacks the preset of the results.
        StudyError: a figure in the ledger is no number.
    """
    conditions = tuple(_judge_one(condition, study, results) for condition in claim.conditions)
    return Judged(claim=claim, ruling=_together([condition.ruling for condition in conditions]), conditions=conditions)


def _together(rulings: Sequence[Ruling]) -> Ruling:
    if Ruling.REFUTED in rulings:
        return Ruling.REFUTED
    return rulings[0] if len(set(rulings)) == 1 else Ruling.UNDECIDED


def _judge_one(condition: Condition, study: Study, results: Results) -> JudgedCondition:
    quantity = condition.left.quantity
    left = _spots(condition.left, study, results)
    right = () if condition.right is None else _spots(condition.right, study, results)
    wanted = (*left, *right)
    n_missing = results.n_missing(quantity, wanted)
    is_run = n_missing < len(wanted)
    difference = None if condition.right is None else results.difference(quantity, left, right)
    judged = JudgedCondition(
        condition=condition,
        ruling=Ruling.UNDECIDED if is_run else Ruling.NOT_RUN,
        left=_of_those_run(quantity, left, results),
        right=_of_those_run(quantity, right, results),
        difference=difference,
        n_missing=n_missing,
        is_below_floor=bool(below_floor(study, results, wanted)),
    )
    if n_missing or not is_run or judged.is_below_floor:
        return judged
    return replace(judged, ruling=_rule(condition, judged.left if condition.right is None else difference))


def _rule(condition: Condition, found: Finding | None) -> Ruling:
    """Return what the interval says: a bound may be met exactly, two sides must differ."""
    if found is None or found.n_seeds < N_TRAININGS_NEEDED:
        return Ruling.UNDECIDED
    bound = 0.0 if condition.bound is None else condition.bound
    sign = 1.0 if condition.relation == "below" else -1.0
    worst, best = sorted((sign * (found.low - bound), sign * (found.high - bound)), reverse=True)
    if worst < 0.0 or (worst == 0.0 and condition.bound is not None):
        return Ruling.CONFIRMED
    if best > 0.0 or (best == 0.0 and condition.right is not None):
        return Ruling.REFUTED
    return Ruling.UNDECIDED


def _spots(side: Side, study: Study, results: Results) -> tuple[Spot, ...]:
    preset = study.preset(results.variant.preset)
    return spots_of(study, preset, stage=side.stage, quantity=side.quantity, where=side.where)


def _of_those_run(quantity: Quantity, spots: Sequence[Spot], results: Results) -> Finding | None:
    return results.mean(quantity, [spot for spot in spots if not results.n_missing(quantity, [spot])])
