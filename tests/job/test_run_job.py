from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dwindle.bench.ledger import Ledger
from dwindle.cli.main import run
from dwindle.container.reader import read
from dwindle.errors import SettingError
from dwindle.job.check import check_job
from dwindle.job.load import load_job
from dwindle.job.run import run_job


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["dwindle", *arguments])
    with pytest.raises(SystemExit) as stopped:
        run()
    return int(stopped.value.code or 0)


def test_a_job_ends_in_files_that_were_measured(
    job_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "compress", str(job_folder / "job.toml"), "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    out = job_folder / "files"
    assert summary == json.loads((out / "summary.json").read_text())
    size_bytes = (out / "model.dwn").stat().st_size
    assert summary["size_bytes"] == size_bytes
    n_dense = 16 * 9 + 16 + 32 + 64 * 16 * 3 + 3
    assert summary["compression_ratio"] == pytest.approx(4 * n_dense / size_bytes)
    assert summary["accuracy_drop_low"] <= summary["accuracy_drop_points"] <= summary["accuracy_drop_high"]
    kinds = {entry.kind for entry in Ledger(out / "ledger.jsonl").read()}
    assert kinds >= {"run", "stage", "artifact", "measurement", "tensor", "confusion", "summary", "latency_samples"}
    assert read(out / "model.dwn").metadata["class_names"] == []
    for tensor in (entry.data for entry in Ledger(out / "ledger.jsonl").read() if entry.kind == "tensor"):
        if "centroids" in tensor:  # drawn over the histogram, so on its scale: the outermost are its ends
            edges = tensor["histogram"]["edges"]
            assert min(tensor["centroids"]) <= edges[0] + 1e-6
            assert max(tensor["centroids"]) >= edges[-1] - 1e-6
    page = (out / "report.html").read_text()
    assert "<html" in page
    assert "tiny" in page
    assert call(monkeypatch, "inspect", str(out / "model.dwn"), "--json") == 0
    sizes = json.loads(capsys.readouterr().out)
    parts = ("header_bytes", "graph_bytes", "encoded_bytes", "overhead_bytes")
    assert sum(sizes[part] for part in parts) == sizes["file_bytes"] == size_bytes
    assert sizes["compression_ratio"] == pytest.approx(summary["compression_ratio"])
    assert call(monkeypatch, "inspect", str(out / "model.dwn")) == 0
    assert f"{size_bytes:,} bytes" in capsys.readouterr().out


def test_a_violated_budget_is_an_exit_code(
    job_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = '[[recipe.steps]]\ntype = "PruneWeights"\nsparsity = 0.5\n\n'
    head, _, tail = (job_folder / "job.toml").read_text().partition("[[recipe.steps]]")
    output = tail.partition("[output]")[2]
    job = f'{head}{steps}[output]\nformats = ["dwn"]\nprofile = false{output}\n[budget]\nmax_size = "100B"\n'
    (job_folder / "job.toml").write_text(job)
    assert call(monkeypatch, "compress", str(job_folder / "job.toml")) == 3
    assert "violated" in capsys.readouterr().out


def test_an_interrupted_run_goes_on_where_it_was(job_folder: Path) -> None:
    job = (job_folder / "job.toml").read_text().replace("epochs = 2", "epochs = 400")
    (job_folder / "job.toml").write_text(job)
    command = [sys.executable, "-m", "dwindle.cli.main", "compress", str(job_folder / "job.toml")]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A shell starts background jobs with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    work = job_folder / "files" / "work"
    deadline = time.monotonic() + 60
    while not list(work.glob("*.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    # Where Ctrl-C met text that was being executed, Python 3.11 ends by the signal, after our exit; shells say 130.
    assert process.returncode in {130, -signal.SIGINT}, errors
    assert b"goes on where it was" in errors
    first_seen: list[int] = []

    def watch(what: str, done: int, total: int) -> None:
        if what.startswith("fine_tune") and total > 0:
            first_seen.append(done)

    loaded = load_job(job_folder / "job.toml", report_progress=watch)
    outcome = run_job(loaded)
    assert first_seen[0] > 1, "training began again at its first step"
    assert [record.technique for record in outcome.model.history][1] == "FineTune"
    assert len(outcome.model.history[1].curve) == 400


def replace_in(folder: Path, old: str, new: str) -> Path:
    path = folder / "job.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        pytest.param(
            "batch_size", "batchsize", "unknown key 'batchsize'; the nearest known one is 'batch_size'", id="key"
        ),
        pytest.param("seed = 1", "seed = 'one'", "seed: expected int, got 'one'", id="type"),
        pytest.param("mine.py:network", "mine.py:netwrk", "has no function 'netwrk'; it has", id="function"),
        pytest.param("mine.py:network", "nine.py:network", "there is no file", id="file"),
        pytest.param("mine.py:network", "mine.py", "write it as path/to/file.py:function", id="reference"),
        pytest.param("mine.py:data", "mine.py:lonely", "returned nothing; return", id="no data"),
        pytest.param('"mine.py:data"', '"mine.py:data"\narguments = {m = 1}', "unexpected keyword", id="argument"),
        pytest.param(
            '"mine.py:data"', '"mine.py:data"\narguments = {n = 0}', "the train split is empty", id="empty data"
        ),
        pytest.param('"mine.py:data"', '"mine.py:data"\narguments = {side = 9}', "(?i)shape|input", id="input shape"),
        pytest.param('"mine.py:data"', '"mine.py:data"\narguments = {largest_label = 7}', "label", id="labels"),
        pytest.param(
            "[output]", '[[recipe.steps]]\ntype = "QuantizeWeights"\n\n[output]', "QuantizeWeights", id="twice"
        ),
        pytest.param(
            "sparsity = 0.5", 'sparsity = 0.5\nselect = {names = ["fc*"]}', "'fc\\*' matches no weight", id="pattern"
        ),
        pytest.param("sparsity = 0.5", "sparsity = 1.5", "sparsity", id="setting"),
        pytest.param('"PruneWeights"', '"PruneWeigths"', "nearest known one is 'PruneWeights'", id="technique"),
        pytest.param(
            'folder = "files"', 'folder = "files"\nformats = ["onx"]', "nearest known one is 'onnx'", id="format"
        ),
    ],
)
def test_a_bad_job_gets_one_clear_error(
    job_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    old: str,
    new: str,
    message: str,
) -> None:
    import re

    path = replace_in(job_folder, old, new)
    assert call(monkeypatch, "compress", str(path), "--check") == 1
    errors = capsys.readouterr().err.replace("\n", " ")
    assert errors.count("error:") == 1
    assert "Traceback" not in errors
    assert re.search(message, errors), errors


def test_a_pickle_is_refused_and_never_opened(
    job_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (job_folder / "mine.safetensors").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    assert call(monkeypatch, "compress", str(job_folder / "job.toml")) == 1
    assert "safetensors" in capsys.readouterr().err
    assert not Path("owned").exists()


def test_nan_weights_are_refused(
    job_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(job_folder / "mine.safetensors")
    state["0.weight"][0] = float("nan")
    save_file(state, job_folder / "mine.safetensors")
    assert call(monkeypatch, "compress", str(job_folder / "job.toml")) == 1
    assert "NaN" in capsys.readouterr().err


def test_a_network_that_cannot_be_captured_names_its_line(
    job_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from safetensors.torch import save_file

    path = replace_in(job_folder, "mine.py:network", "mine.py:batchless")
    torch.manual_seed(0)
    save_file({"layer.weight": torch.randn(3, 64), "layer.bias": torch.zeros(3)}, job_folder / "mine.safetensors")
    assert call(monkeypatch, "compress", str(path)) == 1
    errors = capsys.readouterr().err
    assert "mine.py" in errors
    assert "x.sum() > 0" in errors or "line" in errors


@pytest.mark.parametrize("value", ["1" * 5_000, "[" * 20_000, "\udcff", "["])
def test_a_file_that_is_no_toml_is_one_clear_error(tmp_path: Path, value: str) -> None:
    (tmp_path / "job.toml").write_bytes(f"seed = {value}".encode(errors="surrogateescape"))
    with pytest.raises(SettingError, match=r"job\.toml is not (TOML|UTF-8 text)"):
        load_job(tmp_path / "job.toml")


def test_checking_costs_no_work(
    job_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "compress", str(job_folder / "job.toml"), "--check") == 0
    assert "nothing wrong found" in capsys.readouterr().out
    assert not (job_folder / "files").exists()


def test_check_job_lists_every_problem(job_folder: Path) -> None:
    from dwindle.errors import RecipeError

    extra = '[[recipe.steps]]\ntype = "Cluster"\n\n[[recipe.steps]]\ntype = "FineTune"\nepochs = 1\n\n[output]'
    replace_in(job_folder, "[output]", extra)
    with pytest.raises(RecipeError, match=r"(?s)step 5.*Cluster.*step 6.*FineTune"):
        check_job(load_job(job_folder / "job.toml"))


def test_a_job_names_optimizer_and_schedule(job_folder: Path) -> None:
    path = replace_in(job_folder, "[training]", '[training]\noptimizer = "adamw"\nschedule = "mine.py:constant"')
    with (job_folder / "mine.py").open("a") as mine:
        mine.write("\n\ndef constant(progress):\n    return 1.0\n")
    (curve,) = [record.curve for record in run_job(load_job(path)).model.history if record.curve]
    assert [figures["learning_rate"] for figures in curve] == [0.02, 0.02]
    unknown = replace_in(job_folder, '"adamw"', '"adam"')
    with pytest.raises(SettingError, match=r"training.optimizer = 'adam': .*adamw.*file.py:function"):
        load_job(unknown)
