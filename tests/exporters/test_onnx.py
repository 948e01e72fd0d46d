"""This file tests the ONNX exporter: metadata, preprocessing, the same bytes again, and a disk that refuses."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from dwindle.errors import ExportError
from dwindle.exporters import onnx as exporter_module
from dwindle.exporters.onnx import OnnxExporter
from dwindle.exporters.options import ExportOptions
from dwindle.exporters.preprocessing import Preprocessing
from dwindle.network.compressed import CompressedModel
from dwindle.runtimes.onnxruntime import OnnxRuntime


@pytest.fixture(scope="module")
def model() -> CompressedModel:
    torch.manual_seed(0)
    return CompressedModel.dense(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)))


def test_raw_bytes_of_a_camera_give_the_networks_answer(model, tmp_path):
    preprocessing = Preprocessing(
        scale=1 / 255, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), is_uint8=True, channels_last=True
    )
    options = ExportOptions(preprocessing=preprocessing, class_names=("a", "b", "c"))
    exporter = OnnxExporter(notes={"by": "me"}, options=options)
    path = tmp_path / "model.onnx"
    artifact = exporter.export(model, torch.zeros(1, 3, 8, 8), path)
    image = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    ready = (torch.from_numpy(image).permute(0, 3, 1, 2) / 255 - torch.tensor(preprocessing.mean).view(3, 1, 1)) / (
        torch.tensor(preprocessing.std).view(3, 1, 1)
    )
    with OnnxRuntime().load(artifact) as session, torch.no_grad():
        np.testing.assert_allclose(session.run(image)[0], model.network(ready).numpy(), atol=1e-5)
    notes = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(notes["class_names"]) == ["a", "b", "c"]
    assert json.loads(notes["preprocessing"])["std"] == [0.2, 0.3, 0.25]
    assert notes["by"] == "me"
    assert notes["dwindle.digest"] == model.digest() == artifact.origin
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    again = exporter.export(model, torch.zeros(1, 3, 8, 8), tmp_path / "again.onnx")
    assert again.sha256 == artifact.sha256


def test_a_full_disk_leaves_nothing_behind(model, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(ExportError, match=r"cannot write \d+ bytes to .*; free space or choose another folder"):
        OnnxExporter().export(model, torch.zeros(1, 3, 8, 8), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_the_file_is_as_readable_as_any_other_new_file(model, tmp_path):
    (tmp_path / "other").touch()
    OnnxExporter().export(model, torch.zeros(1, 3, 8, 8), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_weights_beyond_one_message_are_an_obstacle(model, tmp_path, monkeypatch):
    assert OnnxExporter().obstacles(model) == []
    monkeypatch.setattr(exporter_module, "LARGEST_FILE", 100)
    with pytest.raises(ExportError, match="bytes of weights pass through one protobuf message, which holds 100"):
        OnnxExporter().export(model, torch.zeros(1, 3, 8, 8), tmp_path / "model.onnx")
