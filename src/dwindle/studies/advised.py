"""This file reads from the outcomes of a study what advice weighs: every file of a case beside its dense network."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from dwindle.core.statistics import Interval
from dwindle.report.advice import Advice, advise
from dwindle.report.methods import methods_of
from dwindle.report.weighed import Candidate, Question
from dwindle.studies.matching import cases_of
from dwindle.studies.results import Finding, Results, Spot
from dwindle.studies.shown import Advised, Quantity
from dwindle.studies.study import Case, Stage, Study

_SIZES: Final[Mapping[str, Quantity]] = {".dwn": "size_bytes", ".onnx": "onnx_bytes", "zipped .onnx": "zipped_bytes"}


def advice_of(study: Study, results: Results) -> tuple[Advice, ...]:
    """Return what the outcomes of each case say; nothing of cases that say nothing.

    Raises:
        SettingError: the study lacks the preset of the results.
        StudyError: a figure in the ledger is no number.
    """
    if study.advice is None:
        return ()
    cases = cases_of(study, study.preset(results.variant.preset))
    given = (_Files(study, results, study.advice, case).advice() for case in cases)
    return tuple(advice for advice in given if advice.statements or advice.tested)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A candidate, where it is in the results, and how many seeds it has."""

    candidate: Candidate
    spot: Spot
    n_seeds: int


@dataclass(frozen=True, slots=True)
class _Files:
    """The files of one case."""

    study: Study
    results: Results
    asked: Advised
    case: Case

    def advice(self) -> Advice:
        found = list(self._candidates())
        spots = {one.candidate.name: one.spot for one in found}

        def drop_between(first: Candidate, second: Candidate) -> Interval | None:
            ours, theirs = spots[first.name], spots[second.name]
            return _interval(self.results.difference("accuracy", [theirs], [ours]))

        question = Question(
            dense=self._sizes(Spot(stage=self.asked.dense, network=self.case.network, data=self.case.data)),
            candidates=tuple(one.candidate for one in found),
            max_drop=self.asked.max_drop,
            drop_between=drop_between,
            n_trainings=min((one.n_seeds for one in found if one.n_seeds), default=0),
        )
        return advise(question, about=self.case.name)

    def _candidates(self) -> Iterator[_Found]:
        """Yield the files that were measured; those of dense networks are no candidates."""
        preset = self.study.preset(self.results.variant.preset)
        for stage in self.study.stages:
            if self.asked.stages and stage.name not in self.asked.stages:
                continue
            axes = self.study.axes_of(stage)
            for place in itertools.product(*(self.study.options_of(axis, preset) for axis in axes)):
                at = dict(zip(axes, place, strict=True))
                spot = Spot(stage=stage.name, network=self.case.network, data=self.case.data, at=at)
                if (found := self._candidate(stage, spot)) is not None:
                    yield found

    def _candidate(self, stage: Stage, spot: Spot) -> _Found | None:
        steps, sizes = self._steps(stage, spot), self._sizes(spot)
        methods = methods_of(steps or ())
        if not methods.kinds or not sizes:
            return None
        drop = self.results.mean("accuracy_drop", [replace(spot, against=stage.against)])
        candidate = Candidate(
            name=f"{stage.words} ({', '.join(spot.at.values())})" if spot.at else stage.words,
            methods=methods,
            sizes=sizes,
            drop=_interval(drop),
            speedup=_interval(self.results.mean("speedup", [spot])),
        )
        return _Found(candidate=candidate, spot=spot, n_seeds=0 if drop is None else drop.n_seeds)

    def _steps(self, stage: Stage, spot: Spot) -> list[Mapping[str, Any]] | None:
        """Return the steps that made an outcome, without those of the dense network; None where it was not made."""
        if stage.name == self.asked.dense:
            return []
        before = [] if stage.after is None else self._steps(self.study.stage(stage.after), spot)
        recipe = self.results.recipe(replace(spot, stage=stage.name))
        return None if before is None or recipe is None else [*before, *recipe]

    def _sizes(self, spot: Spot) -> dict[str, Interval]:
        found = {name: _interval(self.results.mean(quantity, [spot])) for name, quantity in _SIZES.items()}
        return {name: interval for name, interval in found.items() if interval is not None}


def _interval(found: Finding | None) -> Interval | None:
    return None if found is None else Interval(found.value, found.low, found.high, found.n_seeds)
