"""This file searches for hyperparameters at random: each trial trains a stage anew, and validation images judge it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from dwindle.bench.ledger import Ledger
from dwindle.errors import DwindleError, SettingError, StudyError
from dwindle.studies.check import require_sound
from dwindle.studies.draw import draw
from dwindle.studies.locks import Locks
from dwindle.studies.make import Workshop
from dwindle.studies.outcome import as_table
from dwindle.studies.plan import Choice, Node, unfold
from dwindle.studies.run import require_folder
from dwindle.studies.study import Search, Study, Values

TRIAL: Final = "trial"
TRIALS: Final = "search.jsonl"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came of one draw.

    Attributes:
        number: of the draw, from 0.
        settings: what was drawn.
        accuracy: the best on the validation split, a fraction; None where the training failed.
        epochs: how many were trained.
        error: why it failed.
    """

    number: int
    settings: Mapping[str, Any]
    accuracy: float | None = None
    epochs: int = 0
    error: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Searcher:
    """A random search of a study, resumable and shared by all processes that are given the same folder.

    Attributes:
        study: it says what is searched, in its `[search]`.
        preset: whose values hold where the draw does not say otherwise.
        folder: its `search.jsonl` holds the trials, its `work` the trained networks.
        home: "file.py:function" in the study is relative to it.
        seed: of the draws; the training has the first seed of the preset.
        on_trial: called with each trial that is finished.
    """

    study: Study
    preset: str
    folder: Path
    home: Path
    seed: int = 0
    on_trial: Callable[[Trial], None] | None = None

    def run(self, n_trials: int) -> tuple[Trial, ...]:
        """Make those of the first `n_trials` that nobody has made or makes; return all that are finished, best first.

        Raises:
            SettingError: the study says nothing to search, or something in it does not fit.
            RuntimeUnavailableError: Optuna is not installed.
            StudyError: the folder cannot be used.
            LedgerError: the trials cannot be read or written.
        """
        search = search_of(self.study)
        if n_trials < 1:
            raise SettingError(f"a search makes at least one trial, got {n_trials}")
        require_folder(self.folder)
        locks, shop = Locks(self.folder / "claims"), Workshop(folder=self.folder, home=self.home)
        for number in range(n_trials):
            settings = draw(search.space, seed=self.seed, number=number)
            node = node_of(self.study, search, self.preset, settings=settings)
            require_sound([node], self.home)
            with locks.take(f"search-{node.key}") as is_ours:
                if is_ours and self._identity(settings) not in self._done():
                    self._note(_trial(shop, node, number=number, settings=settings))
                    locks.forget(f"search-{node.key}")
        wanted = {self._identity(draw(search.space, seed=self.seed, number=n)) for n in range(n_trials)}
        return ranked(trial for identity, trial in self._done().items() if identity in wanted)

    def _note(self, trial: Trial) -> None:
        entry = {**vars(trial), "study": self.study.name, "preset": self.preset, "seed": self.seed}
        self._ledger.append(TRIAL, entry)
        if self.on_trial is not None:
            self.on_trial(trial)

    @property
    def _ledger(self) -> Ledger:
        return Ledger(self.folder / TRIALS)

    def _done(self) -> dict[str, Trial]:
        """Return the finished trials of this preset by what was drawn."""
        entries = self._ledger.read() if self._ledger.path.exists() else ()
        found: dict[str, Trial] = {}
        for entry in entries:
            data = entry.data
            if entry.kind == TRIAL and (data.get("study"), data.get("preset")) == (self.study.name, self.preset):
                trial = read_trial(data)
                found[self._identity(trial.settings)] = trial
        return found

    @staticmethod
    def _identity(settings: Mapping[str, Any]) -> str:
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def search_of(study: Study) -> Search:
    """Return what `study` searches.

    Raises:
        SettingError: it says nothing.
    """
    if study.search is None:
        raise SettingError(f"study {study.name} has nothing to search; describe it in its [search]")
    return study.search


def node_of(study: Study, search: Search, preset: str, *, settings: Values) -> Node:
    """Return the outcome that `settings` stand for: the searched stage of the searched case, with these values."""
    stage = study.stage(search.stage)
    case = next(case for case in study.cases if case.name == search.case)
    alone = replace(
        study,
        cases=(replace(case, stages=(), start=None),),
        stages=(replace(stage, values={**stage.values, **settings}, judges_layers=False),),
    )
    seed = study.preset(preset).seeds[0]
    (node,) = unfold(alone, Choice(preset=preset, seeds=(seed,)))
    return node


def ranked(trials: Any) -> tuple[Trial, ...]:
    """Return trials, the best first; those that failed last."""
    return tuple(sorted(trials, key=lambda trial: (trial.accuracy is None, -(trial.accuracy or 0.0), trial.number)))


def read_trial(data: Mapping[str, Any]) -> Trial:
    """Return the trial that an entry holds.

    Raises:
        StudyError: it holds none.
    """
    number, accuracy = data.get("number"), data.get("accuracy")
    is_share = accuracy is None or (isinstance(accuracy, int | float) and 0 <= accuracy <= 1)
    if not isinstance(number, int) or not is_share:
        raise StudyError(f"a trial of the search has number {number!r} and accuracy {accuracy!r}; restore {TRIALS}")
    return Trial(
        number=number,
        settings=as_table(data.get("settings")),
        accuracy=accuracy,
        epochs=int(data.get("epochs", 0)),
        error=str(data.get("error", "")),
    )


def _trial(shop: Workshop, node: Node, *, number: int, settings: Mapping[str, Any]) -> Trial:
    try:
        model = shop.model(node)
    except DwindleError as error:  # a draw may diverge: that is what it shows
        return Trial(number=number, settings=settings, error=str(error))
    curve = [epoch for record in model.history for epoch in record.curve]
    best = max((epoch["validation_accuracy"] for epoch in curve if "validation_accuracy" in epoch), default=None)
    return Trial(number=number, settings=settings, accuracy=best, epochs=len(curve))
