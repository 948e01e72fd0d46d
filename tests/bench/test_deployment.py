"""This file tests deployment: files on disk, each with its parity, and one clear error where that cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dwindle.artifact import Artifact
from dwindle.bench import deployment
from dwindle.bench.deployment import deploy, model_outputs
from dwindle.container import read
from dwindle.errors import ExportError, RuntimeUnavailableError, SettingError
from dwindle.exporters import graph
from dwindle.exporters.graph_cache import GraphCache
from dwindle.exporters.options import ExportOptions
from dwindle.exporters.preprocessing import Preprocessing
from dwindle.network import simulate as simulate_module
from dwindle.network.capture import Captured, capture
from dwindle.network.compressed import CompressedModel
from dwindle.runtimes.onnxruntime import OnnxRuntime
from dwindle.technique import Context
from dwindle.techniques.cluster import Cluster
from dwindle.techniques.quantize_static import QuantizeStatic

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


def test_the_network_is_captured_once_for_all_formats_and_parity(
    model: CompressedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []

    def counted(network: nn.Module, example: torch.Tensor) -> Captured:
        calls.append(network)
        return capture(network, example)

    for module in (deployment, graph, simulate_module):
        monkeypatch.setattr(module, "capture", counted)
    result = deploy(model, EXAMPLE, tmp_path)
    assert len(calls) == 1
    for artifact in result.artifacts.values():
        alone = deploy(model, EXAMPLE, tmp_path / "alone", formats=(artifact.format,))
        assert alone.artifacts[artifact.format].sha256 == artifact.sha256


def test_files_through_one_cache_are_the_files_without(model: CompressedModel, tmp_path: Path) -> None:
    graphs = GraphCache()
    context = Context(example=EXAMPLE, calibration=[EXAMPLE])
    clustered = Cluster(codebook_size=3).apply(model, context)
    quantized = QuantizeStatic().apply(clustered, context)
    for made in (model, quantized, clustered):  # the last without the quantizers of the one before
        fast = deploy(made, EXAMPLE, tmp_path / "with", graphs=graphs)
        slow = deploy(made, EXAMPLE, tmp_path / "without")
        assert {f: a.sha256 for f, a in fast.artifacts.items()} == {f: a.sha256 for f, a in slow.artifacts.items()}
        assert fast.parity == slow.parity
        assert fast.origin == made.digest()
    assert len(graphs) == 1


def test_raw_inputs_decide_parity_where_a_file_preprocesses(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 2)).eval()
    preprocessing = Preprocessing(
        scale=1 / 255, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), is_uint8=True, channels_last=True
    )
    options = ExportOptions(preprocessing=preprocessing, class_names=("cat", "dog"), batch_size=4)
    result = deploy(CompressedModel.dense(network), torch.randn(3, 3, 6, 6), tmp_path, options=options)
    for artifact in result.artifacts.values():
        parity = next(m for m in result.parity if m.artifact == artifact.sha256)
        assert parity.conditions["within_bound"] == "yes"
        assert parity.n == 4
        with OnnxRuntime().load(artifact) as session:
            (value,) = session.session.get_inputs()
            assert (value.type, value.shape) == ("tensor(uint8)", [4, 6, 6, 3])
    assert read(result.artifacts["dwn"].path).metadata["class_names"] == ["cat", "dog"]
    assert read(result.artifacts["dwn"].path).metadata["preprocessing"]["is_uint8"] is True


def test_options_that_do_not_fit_are_refused_before_anything_is_written(model: CompressedModel, tmp_path: Path) -> None:
    cases: list[tuple[ExportOptions, str]] = [
        (ExportOptions(class_names=("a",)), "1 class names for 4 outputs"),
        (ExportOptions(preprocessing=Preprocessing(mean=(0.0, 1.0))), "2 values of mean, but the input has 6 channels"),
    ]
    for options, message in cases:
        with pytest.raises(ExportError, match=message):
            deploy(model, EXAMPLE, tmp_path / "out", options=options)
    assert not list(tmp_path.iterdir())


class Obstructed:
    format = "stone"

    def obstacles(self, model: CompressedModel) -> list[str]:
        return ["no chisel", "no time"]

    def export(self, model: CompressedModel, example: torch.Tensor, path: Path, *, graph: onnx.ModelProto) -> Artifact:
        raise NotImplementedError


def test_all_obstacles_are_named_before_anything_is_written(
    model: CompressedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        deployment, "EXPORTERS", {**deployment.EXPORTERS, "stone": lambda metadata, options: Obstructed()}
    )
    with pytest.raises(ExportError, match="cannot be written: stone: no chisel; stone: no time"):
        deploy(model, EXAMPLE, tmp_path, formats=("dwn", "stone"))
    assert not list(tmp_path.iterdir())


class Quadrupled:
    """Writes another model than it was given."""

    format = "onnx"

    def obstacles(self, model: CompressedModel) -> list[str]:
        return []

    def export(self, model: CompressedModel, example: torch.Tensor, path: Path, *, graph: onnx.ModelProto) -> Artifact:
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
    monkeypatch.setattr(deployment, "EXPORTERS", {"onnx": lambda metadata, options: Quadrupled()})
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


def test_formats_of_other_engines_stand_beside_ours_each_with_its_parity(
    engine_models, engine_images, engine_file, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files for LiteRT and ExecuTorch take seconds to write, so those of the session are put in place."""
    pytest.importorskip("openvino", reason="needs openvino")
    sources = {name: engine_file("int8", name) for name in ("tflite", "pte")}

    class Copied:
        def __init__(self, source: Artifact) -> None:
            self.source, self.format = source, source.format

        def obstacles(self, model: CompressedModel) -> list[str]:
            return []

        def export(self, model: CompressedModel, example: object, path: Path, *, graph: object) -> Artifact:
            path.write_bytes(self.source.path.read_bytes())
            return Artifact.of(path, origin=model.digest())

    copied = {name: lambda metadata, options, source=source: Copied(source) for name, source in sources.items()}
    monkeypatch.setattr(deployment, "EXPORTERS", {**deployment.EXPORTERS, **copied})
    formats = ("dwn", "onnx", "tflite", "pte", "xml")
    result = deploy(engine_models["int8"], engine_images, tmp_path, formats=formats)
    assert tuple(result.artifacts) == formats
    assert {path.suffix for path in tmp_path.iterdir()} == {".dwn", ".onnx", ".tflite", ".pte", ".xml", ".bin"}
    parity = {m.conditions["format"]: m for m in result.parity if m.metric.name == "parity"}
    assert {name: m.conditions["within_bound"] for name, m in parity.items()} == dict.fromkeys(formats, "yes")
    assert [m.value for m in result.parity if m.metric.name == "top1_agreement"] == [1.0] * len(formats)
    engines = [parity[name].runtime.split()[0] for name in formats]
    assert engines == ["onnxruntime", "onnxruntime", "litert", "executorch", "openvino"]


def test_an_engine_that_is_missing_is_an_obstacle(
    model: CompressedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(file_format: str) -> object:
        raise RuntimeUnavailableError("the package openvino is missing: pip install 'dwindle[openvino]'")

    monkeypatch.setattr(deployment, "engine_for", absent)
    with pytest.raises(ExportError, match="cannot be written: xml: the package openvino is missing"):
        deploy(model, EXAMPLE, tmp_path, formats=("xml",))
    assert not list(tmp_path.iterdir())


class Residual(nn.Module):
    """A residual block as many write it, with operations that change their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6 * 36, 4)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = functional.gelu(self.first(x))
        shortcut *= 0.1
        found = functional.relu(self.second(shortcut) + shortcut, inplace=True)
        return self.head(functional.dropout(found, 0.5, self.training).flatten(1))


def test_operations_in_place_are_quantized_where_they_were_measured(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(64, 1, 6, 6)
    model = QuantizeStatic().apply(
        CompressedModel.dense(Residual().eval()), Context(example=inputs[:2], calibration=[inputs])
    )
    gap, agreement = deploy(model, inputs, tmp_path, formats=("onnx",)).parity
    (answers,) = model_outputs(model, inputs)
    assert gap.value < 0.02 * np.abs(answers).max()
    assert agreement.value > 0.9
