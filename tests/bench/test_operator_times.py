"""This file tests that a profile adds up, and that its classes are those of the operations."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import dwindle as dw
from dwindle.artifact import Artifact
from dwindle.bench.probes.operator_classes import CLASSES, ENGINE, class_of
from dwindle.bench.probes.operator_times import ClassTime, OperatorProfile, measure_operators, profile_of, unavailable
from dwindle.errors import MeasurementError, RuntimeUnavailableError, SettingError
from dwindle.runtimes.call_times import CallTimes, Kernel
from dwindle.runtimes.fake import FakeRuntime
from dwindle.runtimes.onnxruntime import OnnxRuntime
from dwindle.settings import from_plain, to_plain

X = np.zeros((2, 3, 8, 8), np.float32)


@pytest.mark.parametrize(
    ("kind", "engine", "group"),
    [
        ("Conv", "onnxruntime", "convolution"),
        ("NhwcFusedConv", "onnxruntime", "convolution"),
        ("ConvInteger", "onnxruntime", "convolution"),
        ("Convolution IGEMM", "executorch", "convolution"),
        ("_slow_conv2d_forward", "torch", "convolution"),
        ("QGemm", "onnxruntime", "matrix multiplication"),
        ("MatMulIntegerToFloat", "onnxruntime", "matrix multiplication"),
        ("FullyConnectedQuantizedLegacy", "openvino", "matrix multiplication"),
        ("linear_dynamic", "torch", "matrix multiplication"),
        ("addmm", "torch", "matrix multiplication"),
        ("DynamicQuantizeLSTM", "onnxruntime", "recurrent"),
        ("LSTMSequence", "openvino", "recurrent"),
        ("GRU", "onnxruntime", "recurrent"),
        ("QuantizeLinear", "onnxruntime", "quantize"),
        ("FakeQuantize", "openvino", "quantize"),
        ("quantized_decomposed::quantize_per_tensor", "executorch", "quantize"),
        ("DequantizeLinear", "onnxruntime", "dequantize"),
        ("quantized_decomposed::dequantize_per_channel", "executorch", "dequantize"),
        ("Convert", "executorch", "quantize"),
        ("Convert", "openvino", "data movement"),
        ("Relu", "onnxruntime", "activation"),
        ("QLinearSigmoid", "onnxruntime", "activation"),
        ("LogSoftmax", "onnxruntime", "activation"),
        ("Clamp", "executorch", "activation"),
        ("LayerNormalization", "onnxruntime", "normalization"),
        ("MVN", "openvino", "normalization"),
        ("QLinearGlobalAveragePool", "onnxruntime", "pooling"),
        ("MaxPool", "onnxruntime", "pooling"),
        ("ReduceMean", "onnxruntime", "pooling"),
        ("QLinearAdd", "onnxruntime", "elementwise"),
        ("Mul", "onnxruntime", "elementwise"),
        ("Subgraph", "openvino", "elementwise"),
        ("ReorderInput", "onnxruntime", "data movement"),
        ("QLinearConcat", "onnxruntime", "data movement"),
        ("Static Reshape", "executorch", "data movement"),
        ("Cast", "onnxruntime", "data movement"),
        ("SomethingNew", "onnxruntime", "other"),
        ("", "", "other"),
    ],
)
def test_kinds_of_all_engines_have_their_class(kind, engine, group):
    assert class_of(kind, engine=engine) == group
    assert group in CLASSES


def times_of(ms, engine_ms=None, wall_ms=None, kinds=("Conv", "QuantizeLinear", "DequantizeLinear")):
    ms = np.asarray(ms, dtype=float)
    kernels = tuple(Kernel(name=f"{kind}{i}", kind=kind) for i, kind in enumerate(kinds))
    wall = ms.sum(axis=1) * 2 if wall_ms is None else np.asarray(wall_ms, dtype=float)
    return CallTimes(kernels=kernels, ms=ms, engine_ms=engine_ms, wall_ms=wall)


def profiled(times, runtime="onnxruntime 1.0"):
    return profile_of(times, runtime, artifact="a" * 64, unprofiled_ms=1.0)


@given(
    ms=st.lists(st.lists(st.floats(0.001, 10), min_size=3, max_size=3), min_size=2, max_size=12),
    engine=st.floats(0, 2),
    rest=st.floats(0, 3),
)
def test_classes_add_up_to_the_coverage_and_nothing_is_made_up(ms, engine, rest):
    ms = np.array(ms)
    wall = ms.sum(axis=1) + engine + rest
    found = profiled(times_of(ms, engine_ms=np.full(len(ms), engine), wall_ms=wall))
    assert sum(each.share for each in found.classes) == pytest.approx(found.coverage)
    cut = len(ms) // 4 if len(ms) >= 8 else 0
    kept = np.argsort(wall, kind="stable")[cut : len(ms) - cut]
    assert (found.n_runs, found.n_calls) == (len(kept), len(ms))
    assert found.coverage == pytest.approx(float(((ms.sum(axis=1) + engine) / wall)[kept].mean()))
    assert found.wall_ms == pytest.approx(float(wall[kept].mean()))
    assert sum(o.ms for o in found.operations) + engine == pytest.approx(sum(each.ms for each in found.classes))
    assert sum(o.share for o in found.operations) + found.share_of(ENGINE) == pytest.approx(found.coverage)
    both = found.share_of("quantize", "dequantize")
    assert found.quantizing.share == pytest.approx(both)
    assert found.quantizing.low <= found.quantizing.share <= found.quantizing.high
    assert found.quantizing.n_operations == 2


def test_what_operations_explain_is_told_without_what_is_left_of_the_run():
    """Of operations that are a tenth of their run: all classes add up to it by construction."""
    ms = np.array([[0.5, 0.3, 0.2], [0.4, 0.3, 0.3]])
    found = profiled(times_of(ms, engine_ms=10.0 - ms.sum(axis=1), wall_ms=[10.0, 10.0]))
    assert found.coverage == pytest.approx(1.0)
    assert found.coverage_of_operations == pytest.approx(0.1)


def test_an_engine_that_does_not_tell_of_its_run_has_no_class_of_its_own():
    found = profiled(times_of([[1, 0.1, 0.1], [1, 0.2, 0.1]]))
    assert ENGINE not in {each.group for each in found.classes}
    assert found.coverage == found.coverage_of_operations == pytest.approx(0.5)


def test_disturbed_calls_do_not_count():
    calm = [[1.0, 0.5, 0.5]] * 12
    disturbed = [[90.0, 0.5, 0.5], [0.1, 0.5, 0.5]]
    found = profiled(times_of(calm + disturbed, wall_ms=[3.0] * 12 + [200.0, 0.2]))
    assert found.ms_of("convolution") == pytest.approx(1.0)
    assert found.coverage == pytest.approx(2 / 3)
    assert (found.n_runs, found.n_calls) == (8, 14)


def test_slowest_first_and_nothing_quantized_is_nothing():
    found = profiled(times_of([[1, 3, 2], [1, 3, 2]], kinds=("Relu", "Conv", "MaxPool")))
    assert [operation.kind for operation in found.operations] == ["Conv", "MaxPool", "Relu"]
    assert (found.quantizing.ms, found.quantizing.share, found.quantizing.n_operations) == (0, 0, 0)


def test_one_call_says_nothing_of_the_spread():
    with pytest.raises(MeasurementError, match="at least two"):
        profiled(times_of([[1, 1, 1]]))


def test_a_profile_survives_its_plain_form():
    found = profiled(times_of([[1, 0.1, 0.1], [1, 0.2, 0.1]], engine_ms=np.array([0.1, 0.2])))
    assert from_plain(OperatorProfile, to_plain(found), where="profile") == found


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_what_is_no_time_is_no_profile(value):
    with pytest.raises(MeasurementError, match="profile again"):
        ClassTime(group="convolution", n_operations=1, ms=value, share=0.5, low=0.4, high=0.6)
    plain = to_plain(profiled(times_of([[1, 0.1, 0.1], [1, 0.2, 0.1]]))) | {"wall_ms": value}
    with pytest.raises(MeasurementError, match="profile again"):
        from_plain(OperatorProfile, plain, where="profile")


@pytest.fixture(scope="module")
def int8(tmp_path_factory):
    torch.manual_seed(0)
    images = torch.randn(8, 3, 8, 8)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()
    context = dw.Context(example=images[:1], calibration=[images])
    model = dw.Recipe((dw.QuantizeStatic(),)).run(dw.CompressedModel.dense(network), context)
    return dw.deploy(model, images[:1], tmp_path_factory.mktemp("int8"), formats=("onnx", "dwn")).artifacts


@pytest.mark.parametrize("suffix", ["onnx", "dwn"])
def test_a_real_file(int8, suffix):
    found = measure_operators(int8[suffix], (X,), OnnxRuntime(), n_runs=5)
    assert (found.n_runs, found.batch, found.n_threads) == (5, 2, 1)
    assert found.artifact == int8[suffix].sha256
    assert 0.2 < found.coverage <= 1.0  # a call of some ten microseconds: the way from Python into the engine shows
    assert found.quantizing.n_operations >= 1
    assert found.of("convolution")[0].numbers == "int8"


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
def test_a_real_file_on_openvino(int8):
    from dwindle.runtimes.openvino import OpenVinoRuntime

    found = measure_operators(int8["onnx"], (X,), OpenVinoRuntime(), n_runs=10)
    assert (found.n_runs, found.calls_per_run) == (5, 2)
    assert {"convolution", "matrix multiplication"} <= {each.group for each in found.classes}


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
def test_of_a_file_of_one_batch_size_one_call_is_profiled(tmp_path):
    from dwindle.runtimes.openvino import OpenVinoRuntime

    model = dw.CompressedModel.dense(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval())
    options = dw.ExportOptions(batch_size=1)
    file = dw.deploy(model, torch.from_numpy(X[:1]), tmp_path, formats=("onnx",), options=options).artifacts["onnx"]
    found = measure_operators(file, (np.concatenate([X] * 4),), OpenVinoRuntime(), n_runs=10)
    assert found.batch == 1
    assert found.coverage <= 1.0


@pytest.mark.parametrize(("n_runs", "n_threads"), [(1, 1), (0, 1), (-3, 1), (10_001, 1), (5, 0)])
def test_absurd_settings(int8, n_runs, n_threads):
    with pytest.raises(SettingError, match="a profile takes"):
        measure_operators(int8["onnx"], (X,), OnnxRuntime(), n_runs=n_runs, n_threads=n_threads)


def test_engines_that_do_not_tell_say_so(int8, tmp_path):
    with pytest.raises(RuntimeUnavailableError, match="does not tell the time of its operations"):
        measure_operators(int8["onnx"], (X,), FakeRuntime())
    litert = pytest.importorskip("dwindle.runtimes.litert")
    assert "benchmark_model" in (unavailable(litert.LiteRtRuntime()) or "")
    other = tmp_path / "net.pte"
    other.write_bytes(b"nothing")
    with pytest.raises(MeasurementError, match=r"does not run \.pte files"):
        measure_operators(Artifact.of(other), (X,), OnnxRuntime())
