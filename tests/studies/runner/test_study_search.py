"""This file tests the random search for hyperparameters: draws, trials, resuming, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dwindle.errors import RuntimeUnavailableError, SettingError, StudyError
from dwindle.studies import draw as drawing
from dwindle.studies import search as searching
from dwindle.studies.draw import draw
from dwindle.studies.make import Workshop
from dwindle.studies.read import load_study
from dwindle.studies.search import TRIALS, Searcher, Trial, ranked, read_trial
from dwindle.studies.study import Study

SPACE = """
[search]
case = "Small on Digits"
stage = "dense"
n_trials = 3

[search.space]
rate = [0.1, 0.01, 1e30]
epochs = { low = 1, high = 3 }

[[cases]]
"""
DRAWN: list[dict[str, Any]] = [{"rate": 0.1, "epochs": 2}, {"rate": 1e30, "epochs": 1}, {"rate": 0.01, "epochs": 1}]


def searched(study_file: Path, more: str = SPACE) -> Study:
    text = (
        study_file.read_text().replace("[[cases]]\n", more, 1).replace("learning_rate = 0.1", 'learning_rate = "$rate"')
    )
    study_file.write_text(text.replace("epochs = 2\n", "epochs = 2\nrate = 0.1\n", 1))
    return load_study(study_file)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "draw", lambda space, *, seed, number: DRAWN[number])


def searcher(study: Study, home: Path, **more: Any) -> Searcher:
    return Searcher(study=study, preset="quick", folder=home / "out", home=home, **more)


@pytest.mark.usefixtures("drawn")
def test_trials_are_ranked_by_validation_and_one_that_diverges_is_last(study_file: Path) -> None:
    trials = searcher(searched(study_file), study_file.parent).run(3)
    assert [trial.number for trial in trials] == [0, 2, 1]
    best, other, failed = trials
    assert best.accuracy is not None
    assert other.accuracy is not None
    assert 1 >= best.accuracy >= other.accuracy > 0
    assert (best.epochs, other.epochs) == (2, 1)
    assert failed.accuracy is None
    assert "lower the learning rate" in failed.error or "NaN" in failed.error


@pytest.mark.usefixtures("drawn")
def test_what_was_tried_is_not_tried_again(study_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, home, seen = searched(study_file), study_file.parent, list[int]()
    first = searcher(study, home, on_trial=lambda trial: seen.append(trial.number)).run(2)
    monkeypatch.setattr(Workshop, "model", lambda self, node: pytest.fail("trained again"))
    again = searcher(study, home, on_trial=lambda trial: seen.append(trial.number)).run(2)
    assert again == first
    assert seen == [0, 1]


@pytest.mark.usefixtures("drawn")
def test_another_preset_is_another_search(study_file: Path) -> None:
    study, home = searched(study_file), study_file.parent
    searcher(study, home).run(1)
    other = Searcher(study=study, preset="longer", folder=home / "out", home=home)
    other.run(1)
    assert (home / "out" / TRIALS).read_text().count('"trial"') == 2


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('case = "Small on Digits"', 'case = "Small"', "search names the case 'Small'"),
        ('stage = "dense"', 'stage = "pruned"', "does not start from random weights"),
        ('stage = "dense"', 'stage = "dens"', "nearest known one is 'dense'"),
        ("n_trials = 3", "n_trials = 0", "at least one trial"),
        ("low = 1, high = 3", "low = 3, high = 1", "goes up from low to high"),
        ("low = 1, high = 3", "low = 1", "whole numbers low, high and step"),
        ("low = 1, high = 3", "low = 0.5, high = 3", "whole numbers low, high and step"),
        ("[0.1, 0.01, 1e30]", "[]", "at least one value"),
        ("[0.1, 0.01, 1e30]", '"0.1"', "a list of at least one value"),
        ("[0.1, 0.01, 1e30]", "[[0.1]]", "texts and numbers"),
    ],
)
def test_a_search_that_does_not_fit_is_one_error(study_file: Path, old: str, new: str, words: str) -> None:
    assert old in SPACE
    with pytest.raises(SettingError, match=words):
        searched(study_file, SPACE.replace(old, new, 1))


def test_a_study_that_searches_nothing_says_so(study_file: Path) -> None:
    with pytest.raises(SettingError, match="nothing to search"):
        searcher(load_study(study_file), study_file.parent).run(1)


@pytest.mark.usefixtures("drawn")
def test_no_trials_are_refused(study_file: Path) -> None:
    with pytest.raises(SettingError, match="at least one trial"):
        searcher(searched(study_file), study_file.parent).run(0)


@pytest.mark.parametrize("data", [{}, {"number": "1"}, {"number": 1, "accuracy": 2.0}, {"number": 1, "accuracy": "x"}])
def test_a_trial_that_is_none_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match="restore"):
        read_trial(data)


def test_equal_trials_keep_their_order() -> None:
    trials = [Trial(number=n, settings={}, accuracy=a) for n, a in ((0, 0.5), (1, None), (2, 0.7), (3, 0.5))]
    assert [trial.number for trial in ranked(trials)] == [2, 0, 3, 1]


def test_without_optuna_one_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(RuntimeUnavailableError, match=r"dwindle\[search\]"):
        draw({"rate": [0.1]}, seed=0, number=0)


def test_draws_lie_in_the_space_and_depend_on_their_number_alone() -> None:
    pytest.importorskip("optuna")
    space = {"size": {"low": 16, "high": 128, "step": 16}, "rate": [1e-5, 1e-1], "name": ["a", "b"]}
    found = [draw(space, seed=0, number=n) for n in range(40)]
    assert {one["size"] for one in found} == set(range(16, 129, 16))
    assert {one["rate"] for one in found} == {1e-5, 1e-1}
    assert found == [draw(space, seed=0, number=n) for n in range(40)]
    assert found != [draw(space, seed=1, number=n) for n in range(40)]


def test_a_draw_refuses_what_is_no_space() -> None:
    with pytest.raises(SettingError, match=r"search\.space\.rate"):
        drawing.draw({"rate": []}, seed=0, number=0)
