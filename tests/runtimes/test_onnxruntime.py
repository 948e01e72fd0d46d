"""This file tests the onnxruntime adapter on a graph written by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import parser
from torch import nn

from dwindle.artifact import Artifact
from dwindle.bench.deployment import deploy
from dwindle.container.session import EngineOptions, session_options
from dwindle.core.ranges import Calibration, MinMax
from dwindle.errors import MeasurementError, NetworkError, SettingError
from dwindle.network.compressed import CompressedModel
from dwindle.processor import Processor
from dwindle.runtimes.onnxruntime import OnnxRuntime
from dwindle.technique import Context
from dwindle.techniques.quantize_static import QuantizeStatic

MODEL = """<ir_version: 10, opset_import: ["" : 21]>
g (float[batch,3] x) => (float[batch,3] y, float[batch,3] z) { y = Neg (x)  z = Relu (x) }"""


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    path = tmp_path / "model.onnx"
    onnx.save(parser.parse_model(MODEL), path)
    return Artifact.of(path)


def test_it_runs_any_batch(artifact):
    with OnnxRuntime().load(artifact, n_threads=1) as session:
        assert session.input_names == ("x",)
        for n in (1, 5):
            x = np.full((n, 3), 2.0, dtype=np.float32)
            y, z = session.run(x)
            np.testing.assert_array_equal(y, -x)
            np.testing.assert_array_equal(z, x)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, 4), np.float32), r"'x' must be float32 of shape \('batch', 3\), got float32 of shape \(2, 4\)"),
        (np.zeros((2, 3, 1), np.float32), r"got float32 of shape \(2, 3, 1\)"),
        (np.zeros((2, 3), np.float64), r"must be float32 .* got float64"),
    ],
)
def test_a_wrong_input_is_refused(artifact, x, message):
    with OnnxRuntime().load(artifact) as session, pytest.raises(NetworkError, match=message):
        session.run(x)


def test_a_wrong_number_of_inputs_is_refused(artifact):
    x = np.zeros((1, 3), np.float32)
    with OnnxRuntime().load(artifact) as session, pytest.raises(NetworkError, match=r"takes 1 inputs .* got 2"):
        session.run(x, x)


def test_a_failure_of_the_engine_names_the_shapes(tmp_path):
    path = tmp_path / "model.onnx"
    text = MODEL.replace(
        "y = Neg (x)  z = Relu (x)", "y = Add (x, x)  c = Constant <value_ints: ints = [7, 7]> ()  z = Reshape (x, c)"
    )
    onnx.save(parser.parse_model(text), path)
    x = np.zeros((1, 3), np.float32)
    with (
        OnnxRuntime().load(Artifact.of(path)) as session,
        pytest.raises(MeasurementError, match=r"failed on inputs of shape \[\(1, 3\)\]"),
    ):
        session.run(x)


def test_a_broken_file_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(MeasurementError, match=r"cannot load .*model\.onnx"), OnnxRuntime().load(Artifact.of(path)):
        pass


def test_the_name_tells_the_version_and_the_arithmetic():
    assert OnnxRuntime().name.split()[1][0].isdigit()
    assert OnnxRuntime(is_exact=False).name.endswith(" (saturating)")
    assert OnnxRuntime().formats == ("onnx", "dwn")


def test_seven_bit_weights_need_no_exact_products(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(16, 24, 3), nn.ReLU(), nn.Conv2d(24, 8, 3))
    x = torch.rand(2, 16, 12, 12) * 4
    with torch.no_grad():  # extreme weights beside each other, under large activations: what saturates first
        for parameter in network.parameters():
            parameter.copy_(parameter.sign() * parameter.abs().max())
    step = QuantizeStatic(weights=7, calibration=Calibration(method=MinMax()))
    model = step.apply(CompressedModel.dense(network.eval()), Context(example=x, calibration=[x]))
    artifact = deploy(model, x, tmp_path, formats=("onnx",)).artifacts["onnx"]
    answers = []
    for is_exact in (True, False):
        with OnnxRuntime(is_exact=is_exact).load(artifact) as session:
            answers.append(session.run(x.numpy())[0])
    np.testing.assert_array_equal(*answers)


def test_the_defaults_are_those_of_every_measurement_so_far(monkeypatch):
    monkeypatch.setattr("dwindle.container.session.this_processor", lambda: Processor("old", ("avx", "avx2")))
    options = session_options(3)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
    assert options.execution_mode.name == "ORT_SEQUENTIAL"
    assert options.graph_optimization_level.name == "ORT_ENABLE_ALL"
    entries = ("session.intra_op.allow_spinning", "session.x64quantprecision", "session.qdq_matmulnbits_accuracy_level")
    assert [options.get_session_config_entry(entry) for entry in entries] == ["0", "1", "1"]
    assert not options.enable_profiling
    assert OnnxRuntime().options == EngineOptions()


@pytest.mark.parametrize(
    ("features", "entry"), [((), "1"), (("avx2", "avx512f"), "1"), (("avx2", "avx_vnni"), "0"), (("avx512_vnni",), "0")]
)
def test_only_processors_whose_products_saturate_are_slowed_down(monkeypatch, features, entry):
    monkeypatch.setattr("dwindle.container.session.this_processor", lambda: Processor("", features))
    for is_exact, expected in ((True, entry), (False, "0")):
        options = session_options(1, EngineOptions(is_exact=is_exact))
        assert options.get_session_config_entry("session.x64quantprecision") == expected


def test_exact_products_keep_all_their_bits_on_this_processor(tmp_path):  # with VNNI, so do all others
    network = nn.Linear(64, 4, bias=False)
    network.weight.data = torch.tensor([1.0, 1.0, -1.0, -1.0]).repeat(4, 16)
    x = torch.rand(32, 64, generator=torch.Generator().manual_seed(0))
    x[0] = network.weight[0] > 0  # two products of 255 and 127 that stand beside each other do not fit into 16 bits
    step = QuantizeStatic(calibration=Calibration(method=MinMax()))
    model = step.apply(CompressedModel.dense(network.eval()), Context(example=x, calibration=[x]))
    artifact = deploy(model, x, tmp_path, formats=("onnx",)).artifacts["onnx"]
    with OnnxRuntime().load(artifact) as session:
        answers = session.run(x.numpy())[0]
    np.testing.assert_allclose(answers, network(x).detach().numpy(), atol=0.3)
    assert answers[0].max() > 31


def test_options_reach_the_engine():
    chosen = OnnxRuntime(graph_level="basic", execution="parallel", n_inter_threads=2, spins=True, is_exact=False)
    options = session_options(1, chosen.options)
    assert options.inter_op_num_threads == 2
    assert options.execution_mode.name == "ORT_PARALLEL"
    assert options.graph_optimization_level.name == "ORT_ENABLE_BASIC"
    entries = ("session.intra_op.allow_spinning", "session.inter_op.allow_spinning", "session.x64quantprecision")
    assert [options.get_session_config_entry(entry) for entry in entries] == ["1", "1", "0"]


@pytest.mark.parametrize("level", ["none", "basic", "extended"])
def test_every_graph_level_gives_the_same_answers(artifact, level):
    x = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    runtime = OnnxRuntime(graph_level=level, execution="parallel", n_inter_threads=2)
    with runtime.load(artifact, n_threads=2) as session:
        y, z = session.run(x)
    np.testing.assert_array_equal(y, -x)
    np.testing.assert_array_equal(z, np.maximum(x, 0))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, ""),
        ({"graph_level": "none"}, " (graph level none)"),
        ({"spins": True}, " (spinning)"),
        (
            {"is_exact": False, "execution": "parallel", "n_inter_threads": 4},
            " (saturating, parallel, 4 inter threads)",
        ),
    ],
)
def test_the_name_tells_what_differs_from_the_defaults(settings, words):
    assert OnnxRuntime(**settings).name == OnnxRuntime().name + words


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"graph_level": "most"}, "graph_level must be one of all, extended, basic, none; got 'most'"),
        ({"execution": "both"}, "execution must be one of sequential, parallel; got 'both'"),
        ({"n_inter_threads": 0, "execution": "parallel"}, "n_inter_threads must be 1 to 1024, got 0"),
        ({"n_inter_threads": 10**9, "execution": "parallel"}, "n_inter_threads must be 1 to 1024"),
        ({"n_inter_threads": 2}, "no effect in sequential execution"),
    ],
)
def test_options_that_cannot_work_are_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        OnnxRuntime(**settings)
