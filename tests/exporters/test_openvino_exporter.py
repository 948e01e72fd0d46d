"""This file tests the exporter to OpenVINO IR: what was claimed is in the files, which are never of two models."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from dwindle.artifact import Artifact
from dwindle.bench.deployment import model_outputs
from dwindle.container.integer import integer_form
from dwindle.core.ranges import Calibration, MinMax
from dwindle.errors import ExportError, RuntimeUnavailableError
from dwindle.exporters import openvino as exporter_module
from dwindle.exporters.graph import build_graph
from dwindle.exporters.graph_cache import GraphCache
from dwindle.exporters.native import to_record
from dwindle.exporters.onnx import OnnxExporter
from dwindle.exporters.openvino import OpenVinoExporter, constants
from dwindle.exporters.options import ExportOptions
from dwindle.network.compressed import CompressedModel
from dwindle.runtimes.onnxruntime import OnnxRuntime
from dwindle.runtimes.openvino import OpenVinoRuntime
from dwindle.technique import Context
from dwindle.techniques.cluster import Cluster
from dwindle.techniques.prune_weights import PruneWeights
from dwindle.techniques.quantize_static import QuantizeStatic

pytest.importorskip("openvino", reason="needs openvino")


@functools.cache
def small() -> CompressedModel:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
    return CompressedModel.dense(nn.Sequential(*layers).eval())


IMAGES = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@functools.cache
def made(*steps) -> CompressedModel:
    model, context = small(), Context(example=IMAGES[:2], calibration=[IMAGES])
    for step in steps:
        model = step.apply(model, context)
    return model


GRAPHS = GraphCache()


@functools.cache
def graph_of(model: CompressedModel) -> onnx.ModelProto:
    """Capture a model once for all tests."""
    return build_graph(model, IMAGES[:2], options=ExportOptions(), cache=GRAPHS)


def export(model: CompressedModel, path: Path, **notes: str) -> Artifact:
    return OpenVinoExporter(notes=notes).export(model, IMAGES[:2], path, graph=graph_of(model))


STEPS = {
    "dense": (),
    "int8": (QuantizeStatic(weights=7),),
    "pruned, clustered, int8": (PruneWeights(sparsity=0.6), Cluster(codebook_size=16), QuantizeStatic(weights=7)),
    "clustered": (Cluster(codebook_size=16),),
}
BOUNDS = {"dense": 1e-5, "clustered": 1e-5, "int8": 0.02, "pruned, clustered, int8": 0.05}
"""Of the largest difference, as a fraction of the largest answer; a code on the edge may fall to either side."""


@pytest.mark.parametrize("name", STEPS)
def test_the_files_answer_as_the_model(tmp_path, name):
    model = made(*STEPS[name])
    artifact = export(model, tmp_path / "model.xml")
    ours = model_outputs(model, IMAGES)[0]
    with OpenVinoRuntime().load(artifact) as session:
        (theirs,) = session.run(IMAGES.numpy())
    assert np.abs(ours - theirs).max() <= BOUNDS[name] * np.abs(ours).max()


@pytest.mark.parametrize("name", ["int8", "pruned, clustered, int8"])
def test_our_integers_and_scales_survive(tmp_path, name):
    model = made(*STEPS[name])
    export(model, tmp_path / "model.xml")
    kept = constants(tmp_path / "model.xml")
    for weight in ("0.weight", "4.weight"):
        form = integer_form(to_record(model.encodings[weight]))
        codes = kept[f"{weight}/codes"] if name == "int8" else kept[f"{weight}/table"][kept[f"{weight}/indices"]]
        assert codes.dtype == np.int8
        np.testing.assert_array_equal(codes, form.codes)
        np.testing.assert_array_equal(kept[f"{weight}/scale"], form.scale)
        np.testing.assert_array_equal(kept[f"{weight}/zero_point"], form.zero_point)


def test_seven_bit_weights_cannot_saturate(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(16, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)).eval()
    x = 4 * torch.rand(2, 16, 6, 6)
    with torch.no_grad():  # every product as large as it can be, which 8 bits would clip on processors without VNNI
        for parameter in network.parameters():
            parameter.copy_(parameter.sign() * parameter.abs().max())
    step = QuantizeStatic(weights=7, calibration=Calibration(method=MinMax()))
    model = step.apply(CompressedModel.dense(network), Context(example=x, calibration=[x]))
    graph = build_graph(model, x)
    artifact = OpenVinoExporter().export(model, x, tmp_path / "model.xml", graph=graph)
    reference = OnnxExporter().export(model, x, tmp_path / "model.onnx", graph=graph)
    with OpenVinoRuntime().load(artifact) as session, OnnxRuntime().load(reference) as exact:
        (theirs,), (ours,) = session.run(x.numpy()), exact.run(x.numpy())
    np.testing.assert_allclose(theirs, ours, atol=1e-5 * np.abs(ours).max())


def test_an_integer_that_openvino_changes_is_an_error(tmp_path, monkeypatch):
    model = made(QuantizeStatic(weights=7))
    kept = exporter_module.constants

    def meddled(path: Path):
        found = kept(path)
        return {**found, "4.weight/codes": found["4.weight/codes"] + np.int8(1)}

    monkeypatch.setattr(exporter_module, "constants", meddled)
    with pytest.raises(ExportError, match=r"does not keep '4.weight/codes' as it is"):
        export(model, tmp_path / "model.xml")
    assert list(tmp_path.iterdir()) == []


def test_the_same_model_gives_the_same_bytes(tmp_path):
    model = made(QuantizeStatic(weights=7))
    one, other = (export(model, tmp_path / f"{i}.xml") for i in range(2))
    assert one.sha256 == other.sha256
    assert one.size_bytes == sum((tmp_path / f"0{end}").stat().st_size for end in (".xml", ".bin"))


def test_the_file_tells_what_it_is(tmp_path):
    model = small()
    export(model, tmp_path / "model.xml", task="digits")
    text = (tmp_path / "model.xml").read_text()
    assert model.digest() in text
    assert 'task value="digits"' in text


def test_float16_halves_the_weights(tmp_path):
    export(small(), tmp_path / "full.xml")
    half = OpenVinoExporter(options=ExportOptions(float_type="float16"))
    artifact = half.export(small(), IMAGES[:2], tmp_path / "half.xml")
    sizes = [(tmp_path / f"{name}.bin").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.55 * sizes[0]
    with OpenVinoRuntime().load(artifact) as session:
        (answer,) = session.run(IMAGES.numpy())
    ours = model_outputs(small(), IMAGES)[0]
    assert np.abs(ours - answer).max() <= 0.01 * np.abs(ours).max()


def test_a_fixed_batch_is_in_the_file(tmp_path):
    exporter = OpenVinoExporter(options=ExportOptions(batch_size=1))
    artifact = exporter.export(small(), IMAGES[:1], tmp_path / "model.xml")
    with OpenVinoRuntime().load(artifact) as session:
        assert session.inputs[0].shape == (1, 1, 8, 8)
        (answers,) = session.run(IMAGES.numpy())
    np.testing.assert_allclose(answers, model_outputs(small(), IMAGES)[0], atol=1e-5)


def test_where_files_cannot_be_written_nothing_is_left(tmp_path):
    (tmp_path / "model.xml").mkdir()
    with pytest.raises(ExportError, match=r"cannot write .*model\.xml"):
        export(small(), tmp_path / "model.xml")
    assert [path.name for path in tmp_path.iterdir()] == ["model.xml"]


def test_what_cannot_be_written_leaves_the_earlier_files(tmp_path, monkeypatch):
    before = export(small(), tmp_path / "model.xml")
    monkeypatch.setattr(exporter_module, "_require_integers", _refuse)
    with pytest.raises(ExportError, match="full"):
        export(made(QuantizeStatic(weights=7)), tmp_path / "model.xml")
    assert Artifact.of(tmp_path / "model.xml").sha256 == before.sha256


@pytest.mark.parametrize("n_moved", [0, 1])
def test_a_process_that_ends_between_two_files_leaves_no_mixed_pair(tmp_path, monkeypatch, n_moved):
    export(small(), tmp_path / "model.xml")
    moved: list[Path] = []
    move = Path.replace

    def ends(path: Path, target: Path) -> Path:
        if target.parent == tmp_path and len(moved) == n_moved:
            raise KeyboardInterrupt
        moved.extend([target] if target.parent == tmp_path else [])
        return move(path, target)

    monkeypatch.setattr(Path, "replace", ends)
    with pytest.raises(KeyboardInterrupt):
        export(made(QuantizeStatic(weights=7)), tmp_path / "model.xml")
    assert [path.name for path in tmp_path.iterdir()] == ["model.bin"]


def _refuse(*_paths: Path) -> None:
    raise OSError(28, "the disk is full")


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeUnavailableError, match=r"pip install 'dwindle\[openvino\]'"):
        export(small(), tmp_path / "model.xml")
