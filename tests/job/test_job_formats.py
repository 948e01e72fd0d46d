"""This file tests what becomes of a job one of whose formats cannot be written: before any work, and at the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dwindle.artifact import Artifact
from dwindle.bench import deployment
from dwindle.cli import outcome
from dwindle.cli.main import run
from dwindle.errors import ExportError
from dwindle.exporters import litert
from dwindle.exporters.litert_environment import INSTALL
from dwindle.exporters.options import ExportOptions
from dwindle.job.load import load_job
from dwindle.job.run import run_job
from dwindle.network.compressed import CompressedModel
from dwindle.runtimes.onnxruntime import OnnxRuntime


class Stubborn:
    """An exporter that nothing stands against until it writes."""

    def __init__(self, metadata: Mapping[str, Any], options: ExportOptions) -> None:
        del metadata, options
        self.format = "tflite"

    def obstacles(self, model: CompressedModel) -> list[str]:
        return []

    def export(self, model: CompressedModel, example: object, path: Path, *, graph: object) -> Artifact:
        path.write_bytes(b"half")
        raise ExportError("LiteRT's converter refuses the network: it is Monday")


@pytest.fixture
def job_file(job_folder: Path) -> Path:
    """A job without training that asks for .dwn and .tflite."""
    path = job_folder / "job.toml"
    head, _, tail = path.read_text().partition("[[recipe.steps]]")
    steps = '[[recipe.steps]]\ntype = "PruneWeights"\nsparsity = 0.5\n\n'
    output = '[output]\nformats = ["dwn", "tflite"]\nprofile = false' + tail.partition("[output]")[2]
    path.write_text(f"{head}{steps}{output}")
    return path


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["dwindle", *arguments])
    with pytest.raises(SystemExit) as stopped:
        run()
    return int(stopped.value.code or 0)


def test_a_converter_that_is_absent_is_found_before_any_work(
    job_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(litert, "converter_python", lambda: None)
    assert call(monkeypatch, "compress", str(job_file), "--check") == 1
    told = " ".join(capsys.readouterr().err.split())
    assert f"- tflite: LiteRT's converter is not installed: {INSTALL}" in told
    with pytest.raises(ExportError, match="converter is not installed"):
        run_job(load_job(job_file))
    assert not (job_file.parent / "files").exists()


@pytest.mark.parametrize(("option", "reason"), [("float_type = 'float16'", "it computes in float32, not float16")])
def test_an_option_that_a_format_lacks_is_found_before_any_work(job_file: Path, option: str, reason: str) -> None:
    job_file.write_text(job_file.read_text().replace("profile = false", f"profile = false\n{option}"))
    with pytest.raises(ExportError, match=reason):
        run_job(load_job(job_file))


def test_a_format_that_fails_at_the_end_takes_no_other_with_it(
    job_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(deployment, "EXPORTERS", {**deployment.EXPORTERS, "tflite": Stubborn})
    monkeypatch.setattr(deployment, "engine_for", lambda file_format: OnnxRuntime())
    assert call(monkeypatch, "compress", str(job_file), "--json") == 1
    printed = capsys.readouterr()
    summary, out = json.loads(printed.out), job_file.parent / "files"
    assert summary["not_written"] == {"tflite": "LiteRT's converter refuses the network: it is Monday"}
    assert summary["size_bytes"] == (out / "model.dwn").stat().st_size
    assert not (out / "model.tflite").exists()
    assert "model.tflite is not written: LiteRT's converter refuses" in " ".join(printed.err.split())
    assert "model.tflite could not be written:" in (out / "report.html").read_text()


def test_where_no_file_is_left_to_compare_the_run_ends_with_every_reason(
    job_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment, "EXPORTERS", {"dwn": Stubborn, "tflite": Stubborn, "onnx": Stubborn})
    monkeypatch.setattr(deployment, "engine_for", lambda file_format: OnnxRuntime())
    with pytest.raises(ExportError, match=r"dwn: LiteRT's .* Monday; tflite: LiteRT's .* Monday"):
        run_job(load_job(job_file))


def test_of_a_format_of_several_files_each_is_weighed(tmp_path: Path) -> None:
    (tmp_path / "model.xml").write_bytes(bytes(4_000))
    (tmp_path / "model.bin").write_bytes(bytes(50))
    assert outcome._parts(Artifact.of(tmp_path / "model.xml")) == " (model.xml 4,000, model.bin 50)"
    assert not outcome._parts(Artifact.of(tmp_path / "model.bin"))


def test_an_operation_that_the_opset_lacks_is_found_before_any_work(job_folder: Path) -> None:
    path = job_folder / "mine.py"
    path.write_text(path.read_text().replace("nn.ReLU()", "nn.GELU()"))
    assert "GELU" in path.read_text()
    job = job_folder / "job.toml"
    job.write_text(job.read_text().replace("[output]", "[output]\nopset = 17"))
    with pytest.raises(ExportError, match=r"(?s)cannot be written.*Gelu exists from opset 20 on.*ask for a newer one"):
        run_job(load_job(job))
