"""This file tests the OpenVINO adapter on a graph written by hand."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from dwindle.artifact import Artifact
from dwindle.errors import MeasurementError, NetworkError, RuntimeUnavailableError, SettingError
from dwindle.exporters.openvino import convert
from dwindle.runtimes import openvino as runtime_module
from dwindle.runtimes.openvino import OpenVinoRuntime, OpenVinoSession, settings
from dwindle.runtimes.protocol import InputSpec

pytest.importorskip("openvino", reason="needs openvino")

MODEL = """<ir_version: 10, opset_import: ["" : 21]>
g (float[batch,3] x, int64[batch,1] n) => (float[batch,3] y, float[batch,3] z) {
  f = Cast <to = 1> (n)
  y = Add (x, f)
  z = Relu (x)
}"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(parser.parse_model(MODEL), path)
    return path


@pytest.fixture(params=["onnx", "xml"])
def artifact(request, source) -> Artifact:
    if request.param == "xml":
        convert(source, source.with_suffix(".xml"))
    return Artifact.of(source.with_suffix(f".{request.param}"))


def test_it_runs_any_batch_of_several_inputs(artifact):
    with OpenVinoRuntime().load(artifact, n_threads=1) as session:
        assert session.input_names == ("x", "n")
        assert [spec.shape for spec in session.inputs] == [(None, 3), (None, 1)]
        assert [spec.dtype for spec in session.inputs] == [np.dtype(np.float32), np.dtype(np.int64)]
        for batch in (1, 5):
            x, n = np.full((batch, 3), -2.0, np.float32), np.full((batch, 1), 7)
            y, z = session.run(x, n)
            np.testing.assert_array_equal(y, x + 7)
            np.testing.assert_array_equal(z, np.zeros_like(x))


def test_answers_are_not_overwritten_by_the_next_run(artifact):
    with OpenVinoRuntime().load(artifact) as session:
        ones, number = np.ones((1, 3), np.float32), np.zeros((1, 1), np.int64)
        first = session.run(ones, number)[0]
        session.run(5 * ones, number)
        np.testing.assert_array_equal(first, ones)


def test_inputs_may_be_strided(artifact):
    x = np.arange(12, dtype=np.float32).reshape(3, 4).T[:, ::-1]
    with OpenVinoRuntime().load(artifact) as session:
        y, _ = session.run(x, np.zeros((4, 1), np.int64))
    np.testing.assert_array_equal(y, x)


def test_wrong_inputs_are_refused(artifact):
    n = np.zeros((1, 1), np.int64)
    with OpenVinoRuntime().load(artifact) as session:
        with pytest.raises(NetworkError, match="takes 2 inputs"):
            session.run(n)
        with pytest.raises(NetworkError, match="'x' must be float32"):
            session.run(np.zeros((1, 3)), n)
        with pytest.raises(NetworkError, match=r"got float32 of shape \(1, 4\)"):
            session.run(np.zeros((1, 4), np.float32), n)


def test_batches_of_other_sizes_are_refused(artifact):
    x, n = np.zeros((2, 3), np.float32), np.zeros((3, 1), np.int64)
    with OpenVinoRuntime().load(artifact) as session, pytest.raises(NetworkError, match="hold 2, 3 examples"):
        session.run(x, n)


class Failing:
    """A request that fails as openvino's do."""

    def infer(self, *_inputs, **_options):
        raise RuntimeError("Exception from src/plugin.cpp:1\n\nno memory is left\n")


def test_a_failure_of_the_engine_names_the_shapes():
    spec = InputSpec(name="x", dtype=np.dtype(np.float32), type_name="f32", shape=(None, 3))
    session = OpenVinoSession(request=Failing(), inputs=(spec,))
    with pytest.raises(MeasurementError, match=r"failed on inputs of shape \[\(1, 3\)\]: no memory is left"):
        session.run(np.zeros((1, 3), np.float32))


@pytest.mark.parametrize("content", [b"", b"not a model", b"<?xml version='1.0'?><net></net>"])
def test_a_broken_file_is_refused(tmp_path, content, capfd):
    (tmp_path / "model.xml").write_bytes(content)
    (tmp_path / "model.bin").write_bytes(b"\0" * 64)
    with (
        pytest.raises(MeasurementError, match=r"cannot load .*model\.xml"),
        OpenVinoRuntime().load(Artifact.of(tmp_path / "model.xml")),
    ):
        pass
    assert not capfd.readouterr().err


def test_weights_that_end_too_early_are_refused(tmp_path):
    text = MODEL.replace("y = Add (x, f)", "c = Constant <value_floats: floats = [1.0, 2.0, 3.0]> ()  y = Add (x, c)")
    onnx.save(parser.parse_model(text), tmp_path / "model.onnx")
    convert(tmp_path / "model.onnx", tmp_path / "model.xml")
    weights = (tmp_path / "model.bin").read_bytes()
    (tmp_path / "model.bin").write_bytes(weights[:4])
    artifact = Artifact.of(tmp_path / "model.xml")
    with pytest.raises(MeasurementError, match="cannot load"), OpenVinoRuntime().load(artifact):
        pass


def test_a_missing_second_file_is_named(source):
    convert(source, source.with_suffix(".xml"))
    artifact = Artifact.of(source.with_suffix(".xml"))
    source.with_suffix(".bin").unlink()
    with pytest.raises(MeasurementError, match=r"model\.bin is missing"), OpenVinoRuntime().load(artifact):
        pass


def test_the_precision_is_always_told():
    assert settings(3, "f32")["INFERENCE_PRECISION_HINT"] == settings(3, "int8")["INFERENCE_PRECISION_HINT"] == "f32"
    assert settings(3, "bf16")["INFERENCE_PRECISION_HINT"] == "bf16"
    assert settings(3, "f32")["INFERENCE_NUM_THREADS"] == 3
    with pytest.raises(SettingError, match="precision must be one of f32, bf16, int8; got 'f16'"):
        OpenVinoRuntime(precision="f16")


def test_the_plugin_does_as_it_is_told(source):
    with OpenVinoRuntime().load(Artifact.of(source), n_threads=1) as session:
        compiled = session.request.get_compiled_model()
        assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
        assert compiled.get_property("NUM_STREAMS") == 1
        assert not compiled.get_property("ENABLE_CPU_PINNING")


def test_int8_needs_quantizers(artifact):
    with (
        pytest.raises(MeasurementError, match="no quantized activations"),
        OpenVinoRuntime(precision="int8").load(artifact),
    ):
        pass


def test_the_name_tells_version_and_precision(monkeypatch):
    name = OpenVinoRuntime(precision="bf16").name
    assert name.startswith("openvino 20")
    assert name.endswith(" (bf16)")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert OpenVinoRuntime().name == "openvino not installed (f32)"


@pytest.mark.parametrize(("known", "is_refused"), [(("FP32", "INT8"), True), (("FP32", "BF16"), False)])
def test_bf16_needs_a_processor_that_has_it(monkeypatch, source, known, is_refused):
    monkeypatch.setattr(runtime_module, "capabilities", lambda: known)
    engine = OpenVinoRuntime(precision="bf16")
    assert (engine.unavailable() is not None) == is_refused
    if is_refused:
        with pytest.raises(RuntimeUnavailableError, match="does not compute in bf16"):
            engine.load(Artifact.of(source))
