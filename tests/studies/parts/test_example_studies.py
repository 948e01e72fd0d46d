"""This file tests that the studies among the examples can be run: every preset, every setting, every function."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from dwindle.studies.check import require_sound
from dwindle.studies.plan import Choice, unfold
from dwindle.studies.read import load_study

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
STUDIES = [path for path in sorted(EXAMPLES.rglob("*.toml")) if "stages" in tomllib.loads(path.read_text())]


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_preset_is_sound(path: Path) -> None:
    study = load_study(str(path))
    for preset in study.presets:
        nodes = unfold(study, Choice(preset=preset))
        assert nodes
        require_sound(nodes, path.parent)


def test_there_are_such_studies() -> None:
    assert {path.stem for path in STUDIES} >= {"channels", "recurrent"}
