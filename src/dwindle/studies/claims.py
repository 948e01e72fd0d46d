"""This file judges the claims of a study: confirmed, refuted or undecided, by the intervals of what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from dwindle.studies.results import Finding, Results
from dwindle.studies.study import Claim, Condition, Study

N_SEEDS_NEEDED: Final = 3
"""Fewer trainings say too little about the spread between trainings: whatever the interval, nothing is decided."""


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
        left: mean over what matches the left side; None where nothing was run.
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
    """Return what `results` say of `claim`."""
    raise NotImplementedError
