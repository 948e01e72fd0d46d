"""This file tests jobs that deploy a student: whose file it is, what it is compared with, and what a job may name."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import dwindle as dw
from dwindle.artifact import Artifact
from dwindle.bench.ledger import Ledger
from dwindle.cli.main import run
from dwindle.container.reader import read
from dwindle.errors import DwindleError, SettingError
from dwindle.job.check import check_job
from dwindle.job.load import load_job
from dwindle.job.run import run_job
from dwindle.runtimes.torch import TorchRuntime

STUDENT = '[student]\nbuild = "mine.py:network"\narguments = {width = 3}\n'
DISTILL = '[[recipe.steps]]\ntype = "Distill"\nstudent = "student"\nepochs = 2\nlearning_rate = 0.05\n'
OUTPUT = '[output]\nfolder = "files"\nlatency_seconds = 0.1\n'
N_STUDENT = 3 * 9 + 3 + 6 + 64 * 3 * 3 + 3
N_DENSE = 16 * 9 + 16 + 32 + 64 * 16 * 3 + 3


def job_of(folder: Path, *, tables: str = STUDENT, steps: str = DISTILL) -> Path:
    path = folder / "job.toml"
    head = path.read_text().partition("[[recipe.steps]]")[0]
    path.write_text(f"{head}\n{tables}\n{steps}\n{OUTPUT}")
    return path


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["dwindle", *arguments])
    with pytest.raises(SystemExit) as stopped:
        run()
    return int(stopped.value.code or 0)


def test_the_file_is_that_of_the_student_and_the_figures_say_so(
    job_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = job_of(job_folder)
    outcome = run_job(load_job(path))
    assert sum(p.numel() for p in outcome.model.network.parameters()) == N_STUDENT
    assert outcome.model.n_dense_weights == N_DENSE
    out = job_folder / "files"
    summary = json.loads((out / "summary.json").read_text())
    words = f"the student 'student' (Sequential with {N_STUDENT:,} weights) in place of the dense network"
    assert words in summary["deployed"]
    assert summary["compression_ratio"] == pytest.approx(4 * N_DENSE / (out / "model.dwn").stat().st_size)
    (described,) = (entry.data for entry in Ledger(out / "ledger.jsonl").read() if entry.kind == "run")
    assert described["baseline"] == "the network as given"
    page = re.sub(r"&#39;|&apos;", "'", (out / "report.html").read_text())
    assert f"The files hold {words}" in page
    assert read(out / "model.dwn").metadata["n_dense_weights"] == N_DENSE
    capsys.readouterr()
    assert call(monkeypatch, "bench", str(out / "model.dwn"), "--seconds", "0.1", "--no-memory", "--json") == 0
    assert json.loads(capsys.readouterr().out)
    assert call(monkeypatch, "export", str(out / "model.dwn"), "--to", "onnx", "--out", "again.onnx", "--json") == 0
    assert call(monkeypatch, "compress", str(path)) == 0  # every step comes from the cache
    assert "in the files" in capsys.readouterr().out


def test_torch_runs_the_file_in_the_student(job_folder: Path) -> None:
    outcome = run_job(load_job(job_of(job_folder)))
    artifact = Artifact.of(job_folder / "files/model.dwn")
    names: dict[str, object] = {}
    exec((job_folder / "mine.py").read_text(), names)
    inputs = torch.randn(4, 1, 8, 8)
    with TorchRuntime(network=names["network"](3)).load(artifact) as session:
        (found,) = session.run(inputs.numpy())
    with torch.no_grad():
        np.testing.assert_allclose(found, outcome.model.network.eval()(inputs).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_an_assistant_stands_between_and_later_steps_work_on_the_student(job_folder: Path) -> None:
    tables = f'{STUDENT}[networks.assistant]\nbuild = "mine.py:network"\narguments = {{width = 8}}\n'
    steps = (
        DISTILL.replace('"student"', '"assistant"')
        + DISTILL
        + '[[recipe.steps]]\ntype = "Cluster"\ncodebook_size = 8\nselect = {names = ["4.weight"]}\n'
        + '[[recipe.steps]]\ntype = "QuantizeStatic"\n'
    )
    outcome = run_job(load_job(job_of(job_folder, tables=tables, steps=steps)))
    assert [type(edit).__name__ for edit in outcome.model.edits[:2]] == ["Replaced", "Replaced"]
    assert [record.technique for record in outcome.model.history] == ["Distill", "Distill", "Cluster", "QuantizeStatic"]
    assert outcome.summary["parity_is_within_bound"]
    assert 4 * N_DENSE / outcome.summary["size_bytes"] == pytest.approx(outcome.summary["compression_ratio"])


def test_a_student_starts_where_a_job_of_its_own_would(job_folder: Path) -> None:
    job = load_job(job_of(job_folder))
    alone = job_folder / "alone.toml"
    text = (job_folder / "job.toml").read_text()
    alone.write_text(
        text.replace('"mine.safetensors"', '"none"\narguments = {width = 3}').replace("[student]", "[networks.other]")
    )
    plain = load_job(alone)
    for name, tensor in plain.network.state_dict().items():
        assert torch.equal(tensor, job.networks["student"].state_dict()[name]), name


@pytest.mark.parametrize(
    ("tables", "steps", "message"),
    [
        ("", DISTILL, "step 1, Distill.*names the network 'student', which the context does not offer; none is known"),
        (STUDENT, DISTILL.replace('"student"', '"studnet"'), "'studnet'.*nearest known one is 'student'"),
        (f'{STUDENT}[networks.student]\nbuild = "mine.py:network"\n', DISTILL, "the same network; keep one"),
        ('[networks]\nstudent = "mine.py:network"\n', DISTILL, "networks.student must be a table with build"),
        ('[networks.student]\nbuid = "mine.py:network"\n', DISTILL, "unknown key 'buid'.*'build'"),
        ('[student]\nbuild = "mine.py:lonely"\n', DISTILL, "returned NoneType, not an nn.Module"),
        (STUDENT.replace("width = 3", "widht = 3"), DISTILL, "networks.student.arguments.*widht"),
        (f'{STUDENT}checkpoint = "absent.safetensors"\n', DISTILL, "absent.safetensors cannot be read"),
        (f'{STUDENT}checkpoint = "mine.safetensors"\n', DISTILL, r"shape \(16,.* in the checkpoint and \(3,"),
        (STUDENT, f'{DISTILL}distillation = {{teachers = ["nobody"]}}\n', "names the network 'nobody'"),
    ],
    ids=["none", "name", "twice", "no table", "key", "nothing", "argument", "absent", "shape", "teacher"],
)
def test_a_mistake_is_one_clear_error_before_any_work(job_folder: Path, tables: str, steps: str, message: str) -> None:
    path = job_of(job_folder, tables=tables, steps=steps)
    with pytest.raises(DwindleError) as caught:
        check_job(load_job(path))
    assert re.search(message, str(caught.value).replace("\n", " ")), str(caught.value)
    assert not (job_folder / "files").exists()


def test_a_student_of_other_classes_is_seen_before_any_work(job_folder: Path) -> None:
    code = (job_folder / "mine.py").read_text()
    more = "\n\ndef wide():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5))\n"
    (job_folder / "mine.py").write_text(code + more)
    path = job_of(job_folder, tables='[student]\nbuild = "mine.py:wide"\n')
    with pytest.raises(dw.errors.RecipeError, match=r"student answers \(2, 5\) and its teacher \(2, 3\)"):
        check_job(load_job(path))


def test_a_student_that_does_not_take_the_data_is_seen_before_any_work(job_folder: Path) -> None:
    code = (job_folder / "mine.py").read_text()
    (job_folder / "mine.py").write_text(code + "\n\ndef narrow():\n    return nn.Linear(5, 3)\n")
    path = job_of(job_folder, tables='[student]\nbuild = "mine.py:narrow"\n')
    with pytest.raises(dw.errors.RecipeError, match="its student does not take the example"):
        check_job(load_job(path))


def test_a_job_spec_says_what_is_wrong_with_a_table_of_networks() -> None:
    from dwindle.job.spec import DataSpec, JobSpec, NetworkSpec

    spec = JobSpec(
        network=NetworkSpec(build="a.py:b", checkpoint=None),
        data=DataSpec(load="a.py:b"),
        recipe={},
        networks={"one": {"build": "a.py:b", "checkpoint": 3}},
    )
    with pytest.raises(SettingError, match=r"job\.toml: networks\.one"):
        spec.further(where="job.toml")


@pytest.mark.slow
def test_the_example_of_a_student_by_way_of_an_assistant_runs(repository: Path, tmp_path: Path) -> None:
    outcome = run_job(load_job(repository / "examples/digits/distill.toml", out=tmp_path))
    assert outcome.summary["compression_ratio"] > 10
    assert outcome.summary["accuracy"] > 0.9
    assert "in place of the dense network" in outcome.summary["deployed"]
