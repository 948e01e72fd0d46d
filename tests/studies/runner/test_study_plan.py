"""Unfolding a study: parents first, keys that depend on what decides an outcome alone, and clear errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from dwindle.errors import SettingError
from dwindle.studies.check import require_sound
from dwindle.studies.plan import Choice, Node, unfold
from dwindle.studies.read import load_study, read_study


def changed(study_file: Path, old: str, new: str) -> str:
    text = study_file.read_text()
    assert old in text
    return text.replace(old, new)


def test_each_outcome_comes_after_its_parent(nodes: Sequence[Node]) -> None:
    assert [node.stage.name for node in nodes] == ["dense", "pruned", "pruned", "tuned", "tuned"]
    seen: set[str] = set()
    for node in nodes:
        assert node.parent is None or node.parent.key in seen
        seen.add(node.key)
    assert len(seen) == len(nodes)


def test_keys_are_those_of_trainings_that_are_under_way(nodes: Sequence[Node]) -> None:
    """What enters a key may never change: finished trainings would be lost."""
    assert [node.key for node in nodes] == KEYS


KEYS = ["fe18d9d608659647", "ad65b8d19a1e5838", "b9fba7ec36a11c1e", "b9df8111e91112ed", "1c024e9496f96183"]


def test_the_study_the_preset_and_the_seeds_of_others_do_not_enter_a_key(
    study_file: Path, nodes: Sequence[Node]
) -> None:
    other = read_study(changed(study_file, 'name = "mine"', 'name = "yours"'), where="yours")
    again = unfold(other, Choice(preset="quick", seeds=(7, 0)))
    assert {node.key for node in nodes} < {node.key for node in again}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs = 2", 'epochs = "$epochs"', r"\$epochs -> \$epochs leads back to itself"),
        ("epochs = 2", 'epochs = "$other"\nother = ["$epochs"]', r"\$epochs -> \$other -> \$epochs"),
        ("epochs = 2", "epoch = 2", r"stage 'dense': '\$epochs' has no value; the nearest known one is 'epoch'"),
        ("sparsity = 0.9", "sparsity = 1.5", "mine, Small on Digits: stage 'pruned'.*1.5"),
        ('type = "PruneWeights"', 'type = "PruneWeight"', "unknown technique 'PruneWeight'"),
        ('"$sparsity"', '"$sparsity", sparsty = 1', "sparsty"),
    ],
)
def test_a_value_that_does_not_fit_is_one_error(study_file: Path, old: str, new: str, message: str) -> None:
    study = read_study(changed(study_file, old, new), where="mine")
    with pytest.raises(SettingError, match=message):
        unfold(study, Choice(preset="quick"))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"preset": "quik"}, "has no preset 'quik'; the nearest known one is 'quick'"),
        ({"preset": "quick", "table": "2"}, "has no table '2'"),
        ({"preset": "quick", "networks": ("Smal",)}, "no network 'Smal'"),
        ({"preset": "quick", "data": ("MNIST",)}, "no data set 'MNIST'"),
    ],
)
def test_a_choice_of_what_is_not_there_is_one_error(study_file: Path, choice: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        unfold(load_study(study_file), Choice(**choice))


@pytest.mark.parametrize(("seeds", "message"), [((0, 0), "twice"), ((-1,), "out of range"), ((2**63,), "out of range")])
def test_seeds_that_cannot_be_are_refused(seeds: tuple[int, ...], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Choice(seeds=seeds)


def test_a_choice_that_leaves_nothing_says_why() -> None:
    with pytest.raises(SettingError, match="nothing to run: table 3 is about Fashion-MNIST, and preset smoke"):
        unfold(load_study("tian"), Choice(preset="smoke", table="3"))


def test_a_table_takes_what_it_is_compared_with(study_file: Path) -> None:
    text = changed(study_file, 'stage = "tuned", quantity = "accuracy_drop"', 'stage = "pruned", quantity = "sparsity"')
    found = unfold(read_study(text, where="mine"), Choice(preset="quick", table="1"))
    assert [node.stage.name for node in found] == ["dense", "pruned", "pruned"]


def test_axes_that_multiply_without_end_are_refused(study_file: Path) -> None:
    axes = "".join(f"[axes.a{i}]\n" + "".join(f"v{j} = {{}}\n" for j in range(20)) for i in range(5))
    over = ", ".join(f'"a{i}"' for i in range(5))
    text = changed(study_file, 'over = ["rate"]', f"over = [{over}]").replace("[axes.rate]", f"{axes}[axes.rate]")
    text = text.replace('"$sparsity"', "0.5").split("[[tables]]", maxsplit=1)[0]
    with pytest.raises(SettingError, match="stage 'pruned': more than 100,000 outcomes"):
        unfold(read_study(text, where="mine"), Choice(preset="quick"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("mine.py:build", "mine.py:built", "has no function 'built'"),
        ("mine.py:build", "nowhere.py:build", "there is no file"),
        ("width = 8", "widht = 8", "Small on Digits: build = .*widht"),
        ("load_digits_splits", "load_digit_splits", "no function 'load_digit_splits'"),
        ("batch_size = 400", 'batch_size = "many"', "training.batch_size = 'many'"),
        ("learning_rate = 0.1", "learning_rate = nan", "training.learning_rate = nan"),
        ("learning_rate = 0.1", "learning_rate = 0.1\npatience = 0", "training.patience = 0"),
        ("learning_rate = 0.1", "learning_rate = 0.1\nschedule = [1]", r"training.schedule = \[1\]"),
        (
            'type = "PruneWeights", sparsity = "$sparsity"',
            'type = "QuantizeWeights"',
            "stage 'tuned': step 3, FineTune",
        ),
    ],
)
def test_what_would_fail_after_hours_is_found_before_any_work(
    study_file: Path, old: str, new: str, message: str
) -> None:
    study = read_study(changed(study_file, old, new), where="mine")
    with pytest.raises(SettingError, match=message):
        require_sound(unfold(study, Choice(preset="quick")), study_file.parent)


def test_studies_of_the_package_are_sound() -> None:
    study = load_study("tian")
    for preset in study.presets:
        for as_published in (False, True):
            nodes = unfold(study, Choice(preset=preset, as_published=as_published, seeds=(0,)))
            require_sound(nodes, Path())  # raises what would fail later
            assert {node.stage.name for node in nodes} == {stage.name for stage in study.stages}
