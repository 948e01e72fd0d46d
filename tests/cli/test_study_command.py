"""`dwindle study`: list, show, run and report, and which exit code means what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from dwindle.cli import study_bars
from dwindle.cli.main import app
from dwindle.cli.study_bars import StudyBars
from dwindle.errors import SettingError, StudyError
from dwindle.studies.forecast import Forecast
from dwindle.studies.progress import Progress

STUDY = """
name = "mine"
title = "Mine"
source = "nobody"
differences = ["Everything."]

[training]
batch_size = 400
learning_rate = 0.1
augment = "none"

[presets.quick]
about = "Seconds."
data = ["Digits"]
seeds = [0]

[[cases]]
network = "Small"
data = "Digits"
build = "mine.py:build"
load = "dwindle.data.digits:load_digits_splits"

[[cases]]
network = "Broken"
data = "Digits"
build = "mine.py:breaks"
load = "dwindle.data.digits:load_digits_splits"

[[stages]]
name = "dense"
about = "trained"
steps = [{ type = "FineTune", epochs = 1 }]

[[stages]]
name = "more"
after = "dense"
steps = [{ type = "FineTune", epochs = 1 }]

[[tables]]
id = "1"
title = "Dense"
rows = ["data", "network"]
columns = [{ title = "accuracy, %", stage = "dense", quantity = "accuracy", published = "acc" }]
published = [{ data = "Digits", network = "Small", acc = 97.5 }]
"""
CODE = """
from torch import nn


def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def breaks():
    raise RuntimeError("out of luck")
"""


@pytest.fixture
def study(tmp_path: Path) -> str:
    """Return the path of a study of two networks, one of which cannot be built."""
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "mine.toml").write_text(STUDY)
    return str(tmp_path / "mine.toml")


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["study", *arguments])


def test_the_list_names_studies_and_presets() -> None:
    assert "--preset smoke: Seconds" in call("list").stdout
    studies = {study["name"]: study for study in json.loads(call("list", "--json").stdout)["studies"]}
    assert set(studies) == {"abishek", "few_bits", "guides", "predic", "qin", "tian"}
    tian = studies["tian"]
    assert {"smoke", "laptop", "full"} <= set(tian["presets"])
    assert "3" in tian["tables"]


def test_show_says_how_much_work_it_is_and_writes_nothing(study: str, tmp_path: Path) -> None:
    shown = call("show", study)
    assert shown.exit_code == 0
    assert "preset quick: Seconds." in shown.stdout
    assert "4 outcomes, 4 epochs; 0 outcomes done" in shown.stdout
    assert "- Everything." in shown.stdout
    plain = json.loads(call("show", study, "--networks", "small", "--seeds", "0, 3", "--json").stdout)
    assert (plain["n"], plain["n_done"], plain["n_unknown"], plain["seeds"]) == (4, 0, 4, [0, 3])
    assert not (tmp_path / "out").exists()


def test_a_run_makes_what_it_can_writes_the_pages_and_fails_where_something_failed(study: str, tmp_path: Path) -> None:
    ran = call("run", study, "--threads", "1")
    assert ran.exit_code == 1
    assert "97.5" in ran.stdout
    assert "failed: 1 of 4 outcomes; left out because of that: 1" in ran.stderr
    assert "Broken on Digits, seed 0: dense: " in ran.stderr
    assert "out of luck" in ran.stderr
    out = tmp_path / "out/studies/mine"
    assert "97.5" in (out / "mine.md").read_text()
    assert "97.5" in (out / "mine.html").read_text()

    (out / "mine.md").unlink()
    assert call("report", study).exit_code == 0
    assert (out / "mine.md").exists()

    again = call("run", study, "--networks", "Small", "--json")
    assert again.exit_code == 0
    plain = json.loads(again.stdout)
    assert (plain["n"], plain["n_done"], plain["failed"], plain["n_left_out"]) == (2, 2, [], 0)
    assert plain["files"] == ["out/studies/mine/mine.md", "out/studies/mine/mine.html"]


def test_a_wrong_call_is_one_error_before_any_work(study: str, tmp_path: Path) -> None:
    assert call("run", study, "--seeds", "one").exit_code == 2
    assert isinstance(call("run", study, "--preset", "quik").exception, SettingError)
    assert isinstance(call("run", study, "--networks", "Large").exception, SettingError)
    assert isinstance(call("run", "tain").exception, SettingError)
    assert isinstance(call("run", study, "--out", study).exception, StudyError)
    assert isinstance(call("report", study).exception, StudyError)
    assert not (tmp_path / "out").exists()


def test_a_log_gets_a_line_for_each_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(record=True, width=200, soft_wrap=True, force_terminal=False)
    monkeypatch.setattr(study_bars, "stderr", console)
    with StudyBars() as bars:
        for step in range(3):
            bars(Progress(n_done=0, n=2, doing="a", step=step, n_steps=3, forecast=Forecast(n_unknown=2)))
        bars(Progress(n_done=1, n=2, forecast=Forecast(seconds=90.0, n_unknown=1), n_workers=2))
    assert console.export_text().splitlines() == [
        "[0/2] a (time left not known yet)",
        "[1/2] waiting for other processes (at least 1 min 30 s left, 2 processes)",
    ]


def test_a_terminal_gets_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(record=True, width=200, force_terminal=True)
    monkeypatch.setattr(study_bars, "stderr", console)
    with StudyBars() as bars:
        bars(Progress(n_done=1, n=4, doing="[b]a[/b]", step=2, n_steps=3, forecast=Forecast(seconds=5.0)))
    shown = console.export_text()
    assert "about 5.00 s left" in shown
    assert "1/4" in shown
    assert "[b]a[/b]" in shown
    assert "2/3" in shown
