"""This file tests LiteRT's adapter: answers, codes at the edges of a file, and hostile files."""

from __future__ import annotations

import operator
from pathlib import Path

import numpy as np
import pytest

from dwindle.artifact import Artifact
from dwindle.bench.deployment import QUANTIZED_BOUND, model_outputs
from dwindle.errors import MeasurementError, NetworkError, RuntimeUnavailableError, SettingError
from dwindle.runtimes import litert
from dwindle.runtimes.litert import LiteRtRuntime, LiteRtSession
from dwindle.runtimes.protocol import InputSpec

pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert")


@pytest.fixture
def int8(engine_file) -> Artifact:
    return engine_file("int8", "tflite")


@pytest.mark.parametrize("delegated", [True, False])
@pytest.mark.parametrize("name", ["int8", "int16"])
def test_files_answer_as_the_model_through_either_kernels(name, delegated, engine_file, engine_models, engine_images):
    (ours,) = model_outputs(engine_models[name], engine_images)
    with LiteRtRuntime(delegated=delegated).load(engine_file(name, "tflite"), n_threads=2) as session:
        (theirs,) = session.run(engine_images.numpy())
    bound = QUANTIZED_BOUND if name == "int8" else 1e-3
    assert np.abs(ours - theirs).max() <= bound * np.abs(ours).max()
    assert np.array_equal(ours.argmax(1), theirs.argmax(1))


def test_the_file_tells_its_inputs(int8):
    with LiteRtRuntime().load(int8) as session:
        (spec,) = session.inputs
        assert session.input_names == (spec.name,)
    assert (spec.dtype, spec.shape) == (np.float32, (1, 2, 8, 8))
    assert spec.type_name.startswith("int8 codes, scale 0.00")


def test_a_batch_is_answered_example_by_example(int8, engine_images):
    images = engine_images.numpy()
    with LiteRtRuntime().load(int8) as session:
        (together,) = session.run(images[:3])
        alone = [session.run(images[i : i + 1])[0] for i in range(3)]
    np.testing.assert_array_equal(together, np.concatenate(alone))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), "takes 1 inputs"),
        ((np.zeros((1, 2, 8, 8), np.float32),) * 2, "takes 1 inputs .*got 2"),
        ((np.zeros((0, 2, 8, 8), np.float32),), r"must be float32 of shape \(1, 2, 8, 8\).*got float32 of shape \(0,"),
        ((np.zeros((1, 2, 8, 9), np.float32),), r"got float32 of shape \(1, 2, 8, 9\)"),
        ((np.zeros((2, 8, 8), np.float32),), r"got float32 of shape \(2, 8, 8\)"),
        ((np.float32(1),), r"got float32 of shape \(\)"),
        ((np.zeros((1, 2, 8, 8), np.float64),), "got float64"),
        ((np.zeros((1, 2, 8, 8), np.int8),), "got int8"),
        ((np.full((1, 2, 8, 8), np.nan, np.float32),), "holds NaN, which has no code"),
    ],
)
def test_wrong_inputs_are_one_error_each(given, message, int8):
    with LiteRtRuntime().load(int8) as session, pytest.raises(NetworkError, match=message):
        session.run(*given)


def test_values_beyond_the_grid_fall_on_its_ends(int8):
    ends = [np.full((1, 2, 8, 8), value, np.float32) for value in (np.inf, 1e6, -np.inf, -1e6)]
    with LiteRtRuntime().load(int8) as session:
        answers = [session.run(value)[0] for value in ends]
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[2], answers[3])
    assert np.isfinite(answers).all()


CORRUPT = {
    "empty": lambda data: b"",
    "text": lambda data: b"this is no model\n" * 100,
    "another format": lambda data: b"\x1c\x00\x00\x00ET12" + data[8:],
    "noise": lambda data: np.random.default_rng(0).bytes(4096),
    "the beginning alone": operator.itemgetter(slice(8)),
    "truncated": lambda data: data[: len(data) // 2],
    "noise behind the beginning": lambda data: data[:8] + np.random.default_rng(1).bytes(4096),
}


@pytest.mark.parametrize("kind", CORRUPT)
def test_a_file_that_is_none_is_one_error(kind, int8, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(CORRUPT[kind](int8.path.read_bytes()))
    with pytest.raises(MeasurementError, match="export it again"), LiteRtRuntime().load(Artifact.of(path)):
        pass


def test_other_formats_missing_files_and_no_threads_are_refused(int8, tmp_path):
    absent = Artifact(path=tmp_path / "absent.tflite", format="tflite", sha256="0", size_bytes=1)
    with (
        pytest.raises(MeasurementError, match=r"cannot read .*absent\.tflite: No such file"),
        LiteRtRuntime().load(absent),
    ):
        pass
    other = Artifact(path=tmp_path / "m.onnx", format="onnx", sha256="0", size_bytes=1)
    with pytest.raises(MeasurementError, match=r"litert loads \.tflite files, not 'onnx'"), LiteRtRuntime().load(other):
        pass
    with pytest.raises(SettingError, match="n_threads must be at least 1"), LiteRtRuntime().load(int8, n_threads=0):
        pass


def test_without_the_package_it_says_what_to_install(int8, monkeypatch):
    monkeypatch.setattr(litert.importlib.util, "find_spec", lambda name: None)
    assert LiteRtRuntime().name == "litert not installed"
    with pytest.raises(RuntimeUnavailableError, match=r"pip install 'dwindle\[litert\]'"), LiteRtRuntime().load(int8):
        pass


def test_its_name_tells_the_kernels():
    assert LiteRtRuntime(delegated=False).name == f"{LiteRtRuntime().name} (built-in kernels)"
    assert LiteRtRuntime().name.startswith("litert 2.")


class Interpreter:
    """Tells what an interpreter tells, and gives back what it was given."""

    def __init__(self, names, dtype=np.int32, *, fails=False):
        details = {name: self.detail(i, name, dtype) for i, name in enumerate(names)}
        self.details, self.fails, self.held = details, fails, {}

    @staticmethod
    def detail(index, name, dtype):
        grid = {"scales": np.zeros(0), "zero_points": np.zeros(0)}
        return {"name": name, "index": index, "dtype": dtype, "shape": [1, 2], "quantization_parameters": grid}

    def get_input_details(self):
        return list(self.details.values())

    get_output_details = get_input_details

    def get_signature_list(self):
        return {"serving_default": {}}

    def get_signature_runner(self, name):
        return self

    def set_tensor(self, index, value):
        self.held[index] = value

    def get_tensor(self, index):
        return self.held[index]

    def invoke(self):
        if self.fails:
            raise RuntimeError("Node 3 failed to invoke")


class Signed(Interpreter):
    def get_input_details(self):
        return self.details

    get_output_details = get_input_details


def test_inputs_come_in_the_order_of_their_numbers():
    names = [f"args_{i}" for i in (10, 2, 0, 1, 11, *range(3, 10))]
    session = LiteRtSession.of(Signed(names))
    assert session.input_names == tuple(f"args_{i}" for i in range(12))
    assert LiteRtSession.of(Signed(["b", "a"])).input_names == ("b", "a")


def test_torchs_indices_become_those_of_the_file_where_they_fit():
    session = LiteRtSession.of(Signed(["args_0"]))
    (answer,) = session.run(np.array([[1, 2]]))
    assert (answer.dtype, answer.tolist()) == (np.int32, [[1, 2]])
    with pytest.raises(NetworkError, match="must be int32"):
        session.run(np.array([[1, 1 << 40]]))


def test_an_engine_that_fails_is_one_error():
    session = LiteRtSession.of(Signed(["args_0"], fails=True))
    with pytest.raises(MeasurementError, match=r"litert failed on inputs of shape \[\(1, 2\)\]: Node 3 failed"):
        session.run(np.zeros((1, 2), np.int32))


def test_a_missing_signature_leaves_the_order_of_the_file():
    interpreter = Interpreter(["b_1", "a_0"])
    interpreter.get_signature_list = dict
    session = LiteRtSession.of(interpreter)
    assert session.input_names == ("b_1", "a_0")
    assert session.inputs[0] == InputSpec(name="b_1", dtype=np.dtype(np.int32), type_name="int32", shape=(1, 2))


def test_the_sample_is_a_file_of_its_own(int8: Artifact) -> None:
    assert Artifact.of(Path(int8.path), origin=int8.origin) == int8
