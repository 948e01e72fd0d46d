"""This file tests a job whose network has one output for two classes, from job.toml to the drop."""

from __future__ import annotations

import pytest

from dwindle.bench.ledger import Ledger
from dwindle.errors import DataError
from dwindle.job.check import check_job
from dwindle.job.load import load_job
from dwindle.job.run import run_job

MINE = """
import torch
from torch import nn
from torch.utils.data import TensorDataset


def build(ends_in_sigmoid=True):
    layers = [nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1)]
    return nn.Sequential(*layers, *([nn.Sigmoid()] if ends_in_sigmoid else []))


def split(n, highest):
    x = torch.randn((n, 6), generator=torch.Generator().manual_seed(n))
    return TensorDataset(x, highest * (x.sum(1) > 0).long())


def data(highest=1):
    return split(200, highest), split(40, highest), split(60, highest)
"""
TOML = """
name = "pair"

[network]
build = "mine.py:build"
checkpoint = "none"
arguments = { ends_in_sigmoid = %s }

[data]
load = "mine.py:data"
arguments = { highest = %d }

[task]
loss = "%s"

[training]
batch_size = 20
learning_rate = 0.2
patience = 5

[output]
formats = ["dwn"]
latency_seconds = 0.05

[[recipe.steps]]
type = "FineTune"
epochs = 10
%s
"""


def job_of(folder, *, loss="bce", ends_in_sigmoid="true", highest=1, more=""):
    (folder / "mine.py").write_text(MINE)
    path = folder / "job.toml"
    path.write_text(TOML % (ends_in_sigmoid, highest, loss, more))
    return load_job(path, out=folder / "out")


@pytest.mark.parametrize(("loss", "ends_in_sigmoid"), [("bce", "true"), ("bce_with_logits", "false")])
def test_the_job_measures_accuracy_and_its_drop(tmp_path, loss, ends_in_sigmoid):
    job = job_of(tmp_path, loss=loss, ends_in_sigmoid=ends_in_sigmoid)
    run_job(job)
    entries = Ledger(tmp_path / "out" / "ledger.jsonl").read()
    found = {e.data["metric"]["name"]: e.data["value"] for e in entries if e.kind == "measurement"}
    assert found["accuracy"] > 0.8
    assert "accuracy_drop" in found


def test_labels_beyond_two_classes_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"\[0, 7\]"):
        check_job(job_of(tmp_path, highest=7))


def test_logits_are_no_probabilities(tmp_path):
    with pytest.raises(DataError, match="use bce_with_logits"):
        check_job(job_of(tmp_path, ends_in_sigmoid="false"))


def test_a_teacher_needs_to_know_what_one_output_is(tmp_path):
    settings = "distillation = { alpha = 0.5%s }"
    check_job(job_of(tmp_path, more=settings % ', one_output = "probability"'))
    with pytest.raises(Exception, match="one_output"):
        check_job(job_of(tmp_path, more=settings % ""))
