"""This file tests ExecuTorch's adapter: answers, wrong inputs and hostile files."""

from __future__ import annotations

import operator

import numpy as np
import pytest

from dwindle.artifact import Artifact
from dwindle.bench.deployment import FLOAT_BOUND, QUANTIZED_BOUND, model_outputs
from dwindle.errors import MeasurementError, NetworkError, RuntimeUnavailableError, SettingError
from dwindle.runtimes import executorch
from dwindle.runtimes.executorch import ExecuTorchRuntime

pytest.importorskip("executorch", reason="needs executorch")


@pytest.mark.parametrize(("name", "bound"), [("float", FLOAT_BOUND), ("int8", QUANTIZED_BOUND)])
def test_files_answer_as_the_model(name, bound, engine_file, engine_models, engine_images):
    (ours,) = model_outputs(engine_models[name], engine_images)
    with ExecuTorchRuntime().load(engine_file(name, "pte")) as session:
        (theirs,) = session.run(engine_images.numpy())
        (again,) = session.run(engine_images.numpy())
    assert np.abs(ours - theirs).max() <= bound * np.abs(ours).max()
    np.testing.assert_array_equal(theirs, again)


def test_the_file_tells_its_inputs(engine_file):
    with ExecuTorchRuntime().load(engine_file("int8", "pte")) as session:
        (spec,) = session.inputs
        assert session.input_names == ("input_0",)
    assert (spec.dtype, spec.shape) == (np.float32, (1, 2, 8, 8))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), "takes 1 inputs"),
        ((np.zeros((1, 2, 8, 8), np.float32),) * 2, "takes 1 inputs .*got 2"),
        ((np.zeros((0, 2, 8, 8), np.float32),), r"must be float32 of shape \(1, 2, 8, 8\).*got float32 of shape \(0,"),
        ((np.zeros((1, 2, 8, 9), np.float32),), r"got float32 of shape \(1, 2, 8, 9\)"),
        ((np.zeros((1, 2, 8, 8), np.float64),), "got float64"),
        ((np.float32(1),), r"got float32 of shape \(\)"),
    ],
)
def test_wrong_inputs_are_one_error_each(given, message, engine_file):
    with ExecuTorchRuntime().load(engine_file("float", "pte")) as session, pytest.raises(NetworkError, match=message):
        session.run(*given)


def test_what_is_no_number_stays_none(engine_file):
    with ExecuTorchRuntime().load(engine_file("float", "pte")) as session:
        (answer,) = session.run(np.full((1, 2, 8, 8), np.inf, np.float32))
    assert not np.isfinite(answer).all()


CORRUPT = {
    "empty": lambda data: b"",
    "text": lambda data: b"this is no model\n" * 100,
    "another format": lambda data: b"\x1c\x00\x00\x00TFL3" + data[8:],
    "noise": lambda data: np.random.default_rng(2).bytes(4096),
    "the beginning alone": operator.itemgetter(slice(8)),
    "truncated": lambda data: data[: len(data) // 2],
    "noise behind the beginning": lambda data: data[:8] + np.random.default_rng(1).bytes(4096),
}
"""Noise as such ends the process where an engine is given it: ExecuTorch 1.5 checks less than it should."""


@pytest.mark.parametrize("kind", CORRUPT)
def test_a_file_that_is_none_is_one_error(kind, engine_file, tmp_path):
    path = tmp_path / "model.pte"
    path.write_bytes(CORRUPT[kind](engine_file("float", "pte").path.read_bytes()))
    with pytest.raises(MeasurementError, match="export it again"), ExecuTorchRuntime().load(Artifact.of(path)):
        pass


def test_other_formats_missing_files_and_no_threads_are_refused(engine_file, tmp_path):
    runtime = ExecuTorchRuntime()
    absent = Artifact(path=tmp_path / "absent.pte", format="pte", sha256="0", size_bytes=1)
    with pytest.raises(MeasurementError, match=r"cannot read .*absent\.pte: No such file"), runtime.load(absent):
        pass
    other = Artifact(path=tmp_path / "m.onnx", format="onnx", sha256="0", size_bytes=1)
    with pytest.raises(MeasurementError, match=r"executorch loads \.pte files, not 'onnx'"), runtime.load(other):
        pass
    with pytest.raises(SettingError, match="at least 1"), runtime.load(engine_file("float", "pte"), n_threads=0):
        pass


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(executorch.importlib.util, "find_spec", lambda name: None)
    absent = Artifact(path=tmp_path / "absent.pte", format="pte", sha256="0", size_bytes=1)
    assert ExecuTorchRuntime().name == "executorch not installed"
    with pytest.raises(RuntimeUnavailableError, match=r"'dwindle\[executorch\]'"), ExecuTorchRuntime().load(absent):
        pass


def test_threads_are_those_that_were_asked_for(engine_file, engine_images):
    for n_threads in (2, 1):
        with ExecuTorchRuntime().load(engine_file("float", "pte"), n_threads=n_threads) as session:
            portable, _ = executorch._engine()
            assert portable._threadpool_get_thread_count() == n_threads
            assert np.isfinite(session.run(engine_images.numpy()[:1])[0]).all()
