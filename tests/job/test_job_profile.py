"""This file tests that a job profiles its files, says what it could not profile, and can leave it out."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import dwindle as dw
from dwindle.bench.ledger import Ledger
from dwindle.errors import MeasurementError, SettingError
from dwindle.job import profiling
from dwindle.job.job import Data, Job
from dwindle.job.load import load_job
from dwindle.job.run import run_job
from dwindle.network.fabric_trainer import FabricTrainer


@pytest.fixture
def job(tmp_path):
    torch.manual_seed(0)
    split = TensorDataset(torch.randn(32, 1, 6, 6), torch.arange(32) % 3)
    data = Data(name="made", train=split, validation=split, test=split, class_names=("a", "b", "c"))
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()

    def make(**settings):
        return Job(
            name="tiny",
            network=network,
            data=data,
            recipe=dw.Recipe((dw.PruneWeights(sparsity=0.9),)),
            trainer=FabricTrainer(train=split, validation=split, batch_size=16, learning_rate=0.01, workdir=tmp_path),
            out=tmp_path / "out",
            latency_seconds=0.05,
            **settings,
        )

    return make


def profiles(job):
    return {e.data["role"]: e.data for e in Ledger(job.out / "ledger.jsonl").read() if e.kind == profiling.PROFILE}


def test_both_files_are_profiled_and_the_report_says_why(job):
    tiny = job()
    outcome = run_job(tiny)
    found = profiles(tiny)
    assert list(found) == ["dense", "compressed"]
    assert found["dense"]["name"] == "dense.onnx"
    assert profiling.LEAST_RUNS <= found["dense"]["profile"]["n_runs"] <= 30
    page = outcome.report.read_text()
    assert "Where the time goes" in page
    assert "of the weights are zero, but onnxruntime multiplies them like any other number" in page


def test_it_can_be_left_out(job):
    tiny = job(profiles_operators=False)
    assert "Where the time goes" not in run_job(tiny).report.read_text()
    assert not profiles(tiny)


def test_a_profile_that_fails_ends_no_job(job, monkeypatch):
    def fail(*_, **__):
        raise MeasurementError("the disk is full")

    monkeypatch.setattr(profiling, "profile_artifact", fail)
    tiny = job()
    outcome = run_job(tiny)
    assert "No profile of both files: the disk is full; the disk is full" in outcome.report.read_text()
    assert outcome.summary


def test_formats_that_onnxruntime_does_not_load_are_left_alone(job, tmp_path):
    tiny = job()
    ledger = Ledger(tmp_path / "ledger.jsonl")
    empty = dw.CompressedModel.dense(tiny.network)
    deployed = dw.deploy(empty, torch.randn(1, 1, 6, 6), tmp_path, formats=("onnx",))
    other = type(deployed)(artifacts={}, n_dense_weights=1)
    profiling.profile_files(tiny, ledger, other, reference=deployed.artifacts["onnx"], measured=None)
    assert not ledger.path.exists()


def test_the_setting_in_a_job_file(job_folder):
    path = job_folder / "job.toml"
    assert load_job(path).profiles_operators
    path.write_text(path.read_text().replace("[output]", "[output]\nprofile = false", 1))
    assert not load_job(path).profiles_operators


def test_files_of_other_engines_are_measured_each_on_its_own(job):
    pytest.importorskip("openvino")
    tiny = job(formats=("xml", "dwn"))
    run_job(tiny)
    entries = [entry.data for entry in Ledger(tiny.out / "ledger.jsonl").read() if entry.kind == "measurement"]
    answered = {data["runtime"].split()[0] for data in entries if data["metric"]["name"] == "accuracy"}
    assert answered == {"onnxruntime", "openvino"}


def test_a_job_needs_a_file_that_the_dense_network_is_compared_in(job):
    with pytest.raises(SettingError, match=r"formats are xml, but the dense network is compared with"):
        job(formats=("xml",))
