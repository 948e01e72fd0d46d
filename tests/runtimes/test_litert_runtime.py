"""This file tests LiteRT's adapter: answers, codes at the edges of a file, the order of inputs."""

from __future__ import annotations

import numpy as np
import pytest

from dwindle.artifact import Artifact
from dwindle.bench.deployment import QUANTIZED_BOUND, model_outputs
from dwindle.errors import MeasurementError, NetworkError
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


def test_what_has_no_code_is_refused(int8):
    nan = np.full((1, 2, 8, 8), np.nan, np.float32)
    with LiteRtRuntime().load(int8) as session, pytest.raises(NetworkError, match="holds NaN, which has no code"):
        session.run(nan)


def test_values_beyond_the_grid_fall_on_its_ends(int8):
    ends = [np.full((1, 2, 8, 8), value, np.float32) for value in (np.inf, 1e6, -np.inf, -1e6)]
    with LiteRtRuntime().load(int8) as session:
        answers = [session.run(value)[0] for value in ends]
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[2], answers[3])
    assert np.isfinite(answers).all()


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


def test_outputs_that_cannot_be_read_are_one_error():
    interpreter = Signed(["args_0"])
    session = LiteRtSession.of(interpreter)
    interpreter.get_tensor = lambda index: np.zeros((1, 2)).reshape(5)
    with pytest.raises(MeasurementError, match=r"litert failed on inputs of shape \[\(1, 2\)\]"):
        session.run(np.zeros((1, 2), np.int32))


def test_a_file_that_contradicts_itself_is_one_error(int8, monkeypatch):
    def contradict():
        raise ValueError("Invalid tensor index 15466512 exceeds max tensor index 17")

    interpreter = Interpreter(["args_0"])
    interpreter.get_input_details = contradict
    monkeypatch.setattr(LiteRtRuntime, "interpreter", lambda self, artifact, n_threads: interpreter)
    message = r"cannot load .*Invalid tensor index .*export it again"
    with pytest.raises(MeasurementError, match=message), LiteRtRuntime().load(int8):
        pass


def test_a_missing_signature_leaves_the_order_of_the_file():
    interpreter = Interpreter(["b_1", "a_0"])
    interpreter.get_signature_list = dict
    session = LiteRtSession.of(interpreter)
    assert session.input_names == ("b_1", "a_0")
    assert session.inputs[0] == InputSpec(name="b_1", dtype=np.dtype(np.int32), type_name="int32", shape=(1, 2))
