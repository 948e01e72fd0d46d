"""Hostile study files: one error that names the place, before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from dwindle.errors import SettingError
from dwindle.studies.read import known_studies, load_study, read_study

TITLED_ALIKE = """
[[tables]]
id = "2"
title = "Pruned"
rows = ["network"]
where = { data = "Digits" }
columns = [{ title = "drop", stage = "tuned", quantity = "accuracy_drop" }]

[[tables]]
"""


def test_a_study_is_found_by_name_and_by_path(study_file: Path) -> None:
    assert "tian" in known_studies()
    assert load_study("tian").name == "tian"
    assert load_study(study_file).title == "Mine"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "Mine"', 'titel = "Mine"', "unknown key 'titel'; the nearest known one is 'title'"),
        ('source = "nobody"', "", "needs source"),
        ('name = "mine"', 'name = "../mine"', "'../mine' names folders and files"),
        ('"2x" = { sparsity = 0.5 }', '"2x" = 0.5', "axes.rate.2x must be a table"),
        ("[axes.rate]", "[axes.data]", "axes.data: that is what cases or layers are told apart by"),
        ('after = "pruned"', 'after = "tuned"', "stage 'tuned' comes after 'tuned', which no stage before it"),
        ('after = "dense"', 'after = "denser"', "stage 'pruned' comes after 'denser'"),
        ('over = ["rate"]', 'over = ["rates"]', "stage 'pruned' goes over 'rates'; the nearest known one is 'rate'"),
        ('against = "dense"', 'against = "sparse"', "stage 'pruned' is taken against 'sparse'"),
        ('name = "tuned"', 'name = "dense"', "stage 'dense' is there twice"),
        ("seeds = [0]", "seeds = [-1]", "presets.quick has the seed -1"),
        ("seeds = [0]", "seeds = []", "at least one data set, and seeds"),
        ('data = ["Digits"]', 'data = ["MNIST"]', "presets.quick names the data set 'MNIST'"),
        ("seeds = [0]", "seeds = [0]\nby_data = { MNIST = {} }", "presets.quick.by_data names 'MNIST'"),
        ("seeds = [0]", "seeds = [0]\nby_data = { Digits = 3 }", "presets.quick.by_data.Digits must be a table"),
        ("seeds = [0]", 'seeds = [0]\naxes = { rate = "2x" }', "presets.quick.axes.rate must be a list"),
        ("seeds = [0]", "seeds = [0]\naxes = { rate = [[1]] }", r"presets.quick.axes.rate names \[1\]"),
        ("[presets.longer]", "[presets]\nlonger = 3\n[presets.other]", "presets"),
        ('stage = "tuned"', 'stage = "tune"', "table '1', column 'drop' names the stage 'tune'"),
        ('where = { data = "Digits" }', 'where = { data = "MNIST" }', "table '1' names the data 'MNIST'"),
        ('where = { data = "Digits" }', "", "column 'drop': stage 'tuned' has a figure for each data"),
        ('published = "drop"', 'published = "drops"', "no published row has a figure called 'drops'"),
        ('published = [{ network = "Small", ', "published = [{ ", "published row 1 does not say its network"),
        ("[[tables]]", TITLED_ALIKE, "title of a table 'Pruned' is there twice; rename one"),
        ("batch_size = 400", "batch_sise = 400", "unknown key 'batch_sise'"),
        ('title = "Mine"', "title = 3", "expected str"),
    ],
)
def test_what_does_not_fit_together_is_one_error(study_file: Path, old: str, new: str, message: str) -> None:
    text = study_file.read_text()
    assert old in text
    with pytest.raises(SettingError, match=message):
        read_study(text.replace(old, new), where="mine.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = ", "mine.toml is not TOML"),
        ("", "Study needs name, title"),
        ("x = " + "[" * 100_000, "mine.toml is not TOML"),
        ("x = " + "1" * 5_000, "mine.toml is not TOML: .*digits"),
        ('name = "a"\ntitle = "b"\nsource = "c"\ncases = []\nstages = []\n[presets]\n', "at least one case"),
    ],
)
def test_text_that_is_no_study_is_one_error(text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        read_study(text, where="mine.toml")


def test_a_file_that_cannot_be_read_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingError, match="not UTF-8"):
        load_study(tmp_path / "a.toml")
    with pytest.raises(SettingError, match="cannot be read"):
        load_study(tmp_path / "none.toml")
    with pytest.raises(SettingError, match="unknown study 'tain'; the nearest known one is 'tian'"):
        load_study("tain")
