"""This file tests artifacts of one file and of two."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
import pytest

from dwindle.artifact import Artifact, files_of
from dwindle.bench.file_needs import needs_of
from dwindle.bench.probes.size import file_at, require_unchanged
from dwindle.errors import MeasurementError


@pytest.fixture
def xml(tmp_path: Path) -> Path:
    (tmp_path / "m.xml").write_bytes(b"graph")
    (tmp_path / "m.bin").write_bytes(b"weights")
    return tmp_path / "m.xml"


def test_hash_and_size_cover_every_file(xml: Path) -> None:
    artifact = Artifact.of(xml, origin="abc")
    assert artifact == Artifact(
        path=xml, format="xml", sha256=hashlib.sha256(b"graphweights").hexdigest(), size_bytes=12, origin="abc"
    )
    xml.with_suffix(".bin").write_bytes(b"others!")
    assert Artifact.of(xml).sha256 != artifact.sha256


def test_other_formats_are_one_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"graph")
    path.with_suffix(".bin").write_bytes(b"of something else")
    assert files_of(path) == (path,)
    assert Artifact.of(path).size_bytes == 5


def test_a_missing_file_is_named(xml: Path) -> None:
    artifact = Artifact.of(xml)
    xml.with_suffix(".bin").unlink()
    with pytest.raises(MeasurementError, match=r"m\.bin cannot be read \(No such file.*\); put it back, m\.xml keeps"):
        file_at(xml)
    with pytest.raises(MeasurementError, match=r"m\.bin cannot be read .*only a file on disk can be measured"):
        require_unchanged(artifact)
    xml.unlink()
    with pytest.raises(MeasurementError, match=r"m\.xml cannot be read .*; name an existing file"):
        file_at(xml)


def split(folder: Path, location: str = "m.onnx.data") -> Path:
    """Write an ONNX model that keeps its weights in `location`."""
    tensor = onnx.TensorProto(
        name="w", data_type=onnx.TensorProto.FLOAT, dims=[500], data_location=onnx.TensorProto.EXTERNAL
    )
    tensor.external_data.add(key="location", value=location)
    graph = onnx.GraphProto(initializer=[tensor])
    path = folder / "m.onnx"
    path.write_bytes(onnx.ModelProto(graph=graph).SerializeToString())
    return path


def test_external_data_of_an_onnx_model_count(tmp_path: Path) -> None:
    path, data = split(tmp_path, "sub/m.data"), tmp_path / "sub" / "m.data"
    data.parent.mkdir()
    data.write_bytes(bytes(2_000))
    assert files_of(path) == (path, data)
    artifact = Artifact.of(path)
    assert artifact.size_bytes == path.stat().st_size + 2_000
    assert artifact.sha256 == hashlib.sha256(path.read_bytes() + bytes(2_000)).hexdigest()
    data.write_bytes(b"1" * 2_000)
    with pytest.raises(MeasurementError, match=r"m\.onnx has changed since"):
        require_unchanged(artifact)


def test_external_data_of_inner_graphs_count(tmp_path: Path) -> None:
    model = onnx.load(split(tmp_path), load_external_data=False)
    branch = onnx.AttributeProto(name="then_branch", type=onnx.AttributeProto.GRAPH, g=model.graph)
    node = onnx.NodeProto(op_type="If", attribute=[branch])
    outer = tmp_path / "outer.ONNX"
    outer.write_bytes(onnx.ModelProto(graph=onnx.GraphProto(node=[node])).SerializeToString())
    assert files_of(outer) == (outer, tmp_path / "m.onnx.data")


def test_missing_external_data_is_one_error(tmp_path: Path) -> None:
    path = split(tmp_path)
    for measure in (file_at, needs_of):
        with pytest.raises(MeasurementError, match=r"m\.onnx\.data cannot be read .*; put it back, m\.onnx keeps"):
            measure(path)


@pytest.mark.parametrize("location", ["/etc/passwd", "../m.data", "a/../../m.data", "C:\\m.data", "..\\m.data", ""])
def test_external_data_outside_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    with pytest.raises(MeasurementError, match=r"m\.onnx keeps weights in .*no file of its folder; save"):
        file_at(split(tmp_path, location))


def test_a_model_that_keeps_its_data_is_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[500], raw_data=bytes(2_000))
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor])).SerializeToString())
    monkeypatch.setattr(onnx, "ModelProto", None)
    assert Artifact.of(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
