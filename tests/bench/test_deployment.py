"""This file tests deployment: files on disk, each with its parity, and one clear error where that cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from dwindle.artifact import Artifact
from dwindle.bench import deployment
from dwindle.bench.deployment import deploy, model_outputs
from dwindle.container import read
from dwindle.errors import ExportError, SettingError
from dwindle.network.compressed import CompressedModel

EXAMPLE = torch.linspace(-1, 1, 3 * 6).reshape(3, 6)


@pytest.fixture
def model() -> CompressedModel:
    return CompressedModel.dense(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)).eval())


def test_every_format_becomes_a_file_with_parity(model: CompressedModel, tmp_path: Path) -> None:
    metadata = {"class_names": ["a", "b", "c", "d"], "note": "plain"}
    result = deploy(model, EXAMPLE, tmp_path / "new" / "folder", metadata=metadata)
    assert list(result.artifacts) == ["dwn", "onnx"]
    for name, artifact in result.artifacts.items():
        assert artifact == Artifact.of(artifact.path, origin=model.digest())
        assert artifact.path == tmp_path / "new" / "folder" / f"model.{name}"
        parity, agreement = (m for m in result.parity if m.artifact == artifact.sha256)
        assert parity.conditions["format"] == name
        assert parity.conditions["within_bound"] == "yes"
        assert parity.n == agreement.n == len(EXAMPLE)
        assert agreement.value == 1.0
    assert result.n_dense_weights == 6 * 5 + 5 + 5 * 4 + 4
    assert result.origin == model.digest()
    assert read(result.artifacts["dwn"].path).metadata["class_names"] == ["a", "b", "c", "d"]
    notes = {p.key: p.value for p in onnx.load(result.artifacts["onnx"].path).metadata_props}
    assert notes["class_names"] == '["a", "b", "c", "d"]'
    assert notes["note"] == "plain"


def test_the_name_and_the_formats_are_the_callers(model: CompressedModel, tmp_path: Path) -> None:
    result = deploy(model, EXAMPLE, tmp_path, formats=("onnx",), name="dense")
    assert [path.name for path in tmp_path.iterdir()] == ["dense.onnx"]
    assert {m.artifact for m in result.parity} == {result.artifacts["onnx"].sha256}


def test_unknown_formats_and_none_are_refused(model: CompressedModel, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="unknown format 'onx'; the nearest known one is 'onnx'"):
        deploy(model, EXAMPLE, tmp_path, formats=("dwn", "onx"))
    with pytest.raises(SettingError, match="at least one format; known are dwn, onnx"):
        deploy(model, EXAMPLE, tmp_path, formats=())


class Obstructed:
    format = "stone"

    def obstacles(self, model: CompressedModel) -> list[str]:
        return ["no chisel", "no time"]

    def export(self, model: CompressedModel, example: torch.Tensor, path: Path) -> Artifact:
        raise NotImplementedError


def test_all_obstacles_are_named_before_anything_is_written(
    model: CompressedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment, "EXPORTERS", {**deployment.EXPORTERS, "stone": lambda metadata: Obstructed()})
    with pytest.raises(ExportError, match="cannot be written: stone: no chisel; stone: no time"):
        deploy(model, EXAMPLE, tmp_path, formats=("dwn", "stone"))
    assert not list(tmp_path.iterdir())


class Quadrupled:
    """Writes another model than it was given."""

    format = "onnx"

    def obstacles(self, model: CompressedModel) -> list[str]:
        return []

    def export(self, model: CompressedModel, example: torch.Tensor, path: Path) -> Artifact:
        from dwindle.exporters.onnx import OnnxExporter

        with torch.no_grad():
            for parameter in model.network.parameters():
                parameter.mul_(2)
        other = CompressedModel.dense(model.network)
        with torch.no_grad():
            for parameter in model.network.parameters():
                parameter.div_(2)
        return OnnxExporter().export(other, example, path)


def test_a_file_that_answers_otherwise_is_found_out(
    model: CompressedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment, "EXPORTERS", {"onnx": lambda metadata: Quadrupled()})
    result = deploy(model, EXAMPLE, tmp_path, formats=("onnx",))
    parity = result.parity[0]
    assert parity.conditions["within_bound"] == "no"
    (reference,) = model_outputs(model, EXAMPLE)
    assert parity.value > 0.1 * np.abs(reference).max()


class Mapped(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": x}


def test_a_network_that_returns_no_tensors_has_no_reference() -> None:
    with pytest.raises(ExportError, match="the network returns dict"):
        model_outputs(CompressedModel.dense(Mapped()), EXAMPLE)
