"""This file judges the files of a job by its budget: each on its engine, and the job as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dwindle.bench.budget import Budget, Verdict, worst
from dwindle.bench.measure import Measured
from dwindle.bench.measurement import Estimate
from dwindle.bench.verdicts import Judged, Ruling, judge_files
from dwindle.job.estimating import Unmeasured


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What came of a budget.

    Attributes:
        rulings: the one that counts for each bound, with the sha256 of its file.
        files: each file on each engine.
    """

    rulings: tuple[tuple[str, Ruling], ...]
    files: tuple[Judged, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of the rulings."""
        return worst(ruling.verdict for _, ruling in self.rulings)

    @property
    def words(self) -> dict[str, str]:
        """Each bound's verdict with its figures."""
        return {ruling.bound: ruling.words() for _, ruling in self.rulings}

    @property
    def plain_files(self) -> list[dict[str, Any]]:
        """The verdict on each file and engine as JSON values."""
        return [
            {
                "file": one.name,
                "runtime": one.runtime,
                "verdict": one.verdict.value,
                "bounds": {ruling.bound: ruling.words() for ruling in one.rulings},
            }
            for one in self.files
        ]

    def to_plain(self) -> dict[str, Any]:
        """Return the entry of the ledger: for each bound its limit, its verdict, and the file that it rests on."""
        return {
            "verdict": self.verdict.value,
            "bounds": {ruling.bound: ruling.limit for _, ruling in self.rulings},
            "verdicts": {ruling.bound: ruling.verdict.value for _, ruling in self.rulings},
            "rests_on": {ruling.bound: file for file, ruling in self.rulings},
            "files": self.plain_files,
        }


def judge_job(budget: Budget, every: Sequence[Measured], estimates: Sequence[Unmeasured]) -> Judgement:
    """Judge the first file, the one that the summary speaks of; the others are there for comparison.

    A bound of which nothing was measured there is judged by those files of which something was: only some engines plan
    an arena. An estimate decides nothing.
    """
    guesses: dict[str, list[Estimate]] = {}
    for one in estimates:
        if isinstance(one.said, Estimate):
            guesses.setdefault(one.file.sha256, []).append(one.said)
    measurements = [m for measured in every for m in measured.measurements]
    files = every[0].artifacts
    judged = judge_files(budget, measurements, files=files, estimates=guesses)
    rulings = tuple(_deciding(bound, judged, first=files[0].sha256) for bound in budget.bounds)
    return Judgement(rulings=rulings, files=judged)


def _deciding(bound: str, judged: Sequence[Judged], *, first: str) -> tuple[str, Ruling]:
    found = [(one.artifact, ruling) for one in judged for ruling in one.rulings if ruling.bound == bound]
    own = [pair for pair in found if pair[0] == first]
    measured = [[pair for pair in some if pair[1].measured is not None] for some in (own, found)]
    deciding = next(filter(None, (*measured, own)))
    verdict = worst(ruling.verdict for _, ruling in deciding)
    return next(pair for pair in deciding if pair[1].verdict is verdict)
