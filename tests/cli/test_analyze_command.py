"""This file tests `dwindle analyze`: the table, the page, JSON, and wrong calls."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from dwindle.cli.analyze import STANDARD, analyze
from dwindle.errors import DwindleError
from dwindle.job.criteria import DEFAULT

MINE = """
import torch
from torch import nn
from torch.utils.data import TensorDataset


class Unread:
    def __len__(self):
        return 5

    def __getitem__(self, number):
        raise RuntimeError("the test split was read")


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3))


def data():
    split = TensorDataset(torch.randn(80, 6), torch.arange(80) % 3)
    return split, split, Unread()
"""
JOB = """
name = "tiny"
[network]
build = "mine.py:network"
checkpoint = "none"
[data]
load = "mine.py:data"
[[recipe.steps]]
type = "QuantizeWeights"
"""
QUICK = ["--criteria", "binary,deviation", "--n-runs", "0"]


@pytest.fixture
def app():
    built = typer.Typer()
    built.command()(analyze)
    return built


@pytest.fixture
def job(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "job.toml").write_text(JOB)
    return tmp_path / "job.toml"


def test_prints_every_layer_and_writes_the_page_without_reading_the_test_split(app, job):
    done = CliRunner().invoke(app, [str(job), *QUICK])
    assert done.exit_code == 0, done.output
    for words in ("0.weight: keep 8 bits", "2.weight: ", "loss when binary decides", "time: no time was asked for"):
        assert words in done.output
    assert "<h1>" in (job.parent / "out/analysis.html").read_text()
    assert json.loads((job.parent / "out/analysis.json").read_text())["about"]["validation_examples"] == 80


def test_json_is_one_object_and_the_folder_is_chosen(app, job, tmp_path):
    done = CliRunner().invoke(app, [str(job), *QUICK, "--json", "--out", str(tmp_path / "there")])
    found = json.loads(done.stdout)
    assert [criterion["name"] for criterion in found["criteria"]] == ["binary", "deviation"]
    assert found["page"] == str(tmp_path / "there/analysis.html")
    assert (tmp_path / "there/analysis.html").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--criteria", "two_n"], "two_nn"),
        (["--criteria", ","], "at least one criterion"),
        (["--threshold", "inf"], "finite"),
        (["--n-examples", "0"], "at least 1"),
    ],
)
def test_a_wrong_setting_is_an_error_before_any_work(app, job, options, words):
    done = CliRunner().invoke(app, [str(job), *options])
    assert isinstance(done.exception, DwindleError)
    assert words in str(done.exception)
    assert not (job.parent / "out").exists()


def test_a_folder_that_cannot_be_written_is_one_error(app, job, tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = CliRunner().invoke(app, [str(job), *QUICK, "--out", str(tmp_path / "file")])
    assert isinstance(done.exception, DwindleError)
    assert "cannot be written" in str(done.exception)


def test_the_standard_criteria_are_those_of_the_library():
    assert tuple(STANDARD.split(",")) == DEFAULT
