"""This file tests what engines tell of the time of their operations."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import dwindle as dw
from dwindle.artifact import Artifact
from dwindle.errors import MeasurementError, NetworkError
from dwindle.processor import Processor
from dwindle.runtimes import onnx_profile, torch_profile
from dwindle.runtimes.call_times import CallTimes, Kernel
from dwindle.runtimes.onnxruntime import OnnxRuntime
from dwindle.runtimes.torch import TorchRuntime

HAS_OPENVINO = importlib.util.find_spec("openvino") is not None
X = np.zeros((1, 3, 8, 8), np.float32)


def network():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    images = torch.randn(8, 3, 8, 8)
    dense = dw.CompressedModel.dense(network())
    int8 = dw.Recipe((dw.QuantizeStatic(),)).run(dense, dw.Context(example=images[:1], calibration=[images]))
    found = {}
    for name, model in {"fp32": dense, "int8": int8}.items():
        deployed = dw.deploy(model, images[:1], folder, formats=("onnx", "dwn"), name=name)
        found |= {f"{name}.{suffix}": artifact for suffix, artifact in deployed.artifacts.items()}
    return found


@pytest.fixture
def loop(tmp_path):
    """A graph whose Loop runs an Add and a Mul four times: operations inside an operation."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["still"]),
            helper.make_node("Mul", ["value", "factor"], ["product"]),
            helper.make_node("Add", ["product", "factor"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, [64, 64]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [64, 64]),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [64, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [64, 64])],
        [
            numpy_helper.from_array(np.array(4), "n"),
            numpy_helper.from_array(np.full((64, 64), 0.5, np.float32), "factor"),
        ],
    )
    path = tmp_path / "loop.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return Artifact.of(path)


def test_every_call_of_onnxruntime_is_told_with_its_run(files):
    found = onnx_profile.profile(OnnxRuntime(), files["fp32.onnx"], (X,), n_runs=4)
    assert found.ms.shape == (4, len(found.kernels))
    assert {"Conv", "Gemm"} <= {kernel.kind.removeprefix("Fused") for kernel in found.kernels}
    assert found.engine_ms is not None
    assert (found.ms.sum(axis=1) + found.engine_ms <= found.wall_ms + 0.002).all()  # the run lies within the call


def test_operations_inside_an_operation_count_once(loop):
    found = onnx_profile.profile(OnnxRuntime(), loop, (np.zeros((64, 64), np.float32),), n_runs=3)
    kinds = {kernel.kind for kernel in found.kernels}
    assert {"Loop", "Mul", "Add"} <= kinds
    assert (found.ms >= 0).all()
    assert (found.ms.sum(axis=1) <= found.wall_ms).all()


@pytest.mark.parametrize("suffix", ["onnx", "dwn"])
def test_integer_operations_are_told_from_floats(files, suffix):
    found = onnx_profile.profile(OnnxRuntime(), files[f"int8.{suffix}"], (X,), n_runs=2)
    by_kind = {kernel.kind: kernel.numbers for kernel in found.kernels}
    assert by_kind["QLinearConv"] == "int8"
    floats = onnx_profile.profile(OnnxRuntime(), files[f"fp32.{suffix}"], (X,), n_runs=2)
    assert {k.numbers for k in floats.kernels if "Conv" in k.kind} == {"float32"}


@pytest.mark.parametrize("features", [("avx2",), ("avx512_vnni",)])  # packed weights are told with the first alone
def test_what_rounds_its_inputs_multiplies_bytes(monkeypatch, tmp_path, features):
    monkeypatch.setattr("dwindle.container.session.this_processor", lambda: Processor("", features))
    torch.manual_seed(0)
    rows = torch.randn(8, 4, 6)
    perceptron, recurrent = nn.Sequential(nn.Linear(6, 5)), LastOf(nn.LSTM(6, 5, batch_first=True))
    for made, kind in ((perceptron, "DynamicQuantizeMatMul"), (recurrent, "DynamicQuantizeLSTM")):
        dense = dw.CompressedModel.dense(made.eval())
        model = dw.Recipe((dw.QuantizeDynamic(),)).run(dense, dw.Context(example=rows[:1], calibration=[rows]))
        artifact = dw.deploy(model, rows[:1], tmp_path, formats=("onnx",), name=kind).artifacts["onnx"]
        found = onnx_profile.profile(OnnxRuntime(), artifact, (rows[:1].numpy(),), n_runs=2)
        assert {k.numbers for k in found.kernels if kind in k.kind} == {"int8"}


class LastOf(nn.Module):
    def __init__(self, layer: nn.LSTM) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)[0][:, -1]


def test_options_of_the_engine_hold_while_it_is_profiled(files):
    found = onnx_profile.profile(OnnxRuntime(graph_level="none"), files["int8.onnx"], (X,), n_runs=2)
    assert {"Conv", "QuantizeLinear", "DequantizeLinear", "Relu"} <= {kernel.kind for kernel in found.kernels}


@pytest.fixture
def branches(tmp_path):
    """A graph of two equal branches, which can run at the same time."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "left_weight"], ["left"]),
            helper.make_node("MatMul", ["x", "right_weight"], ["right"]),
            helper.make_node("Add", ["left", "right"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [64, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [64, 64])],
        [
            numpy_helper.from_array(np.full((64, 64), value, np.float32), name)
            for name, value in (("left_weight", 0.5), ("right_weight", 0.25))
        ],
    )
    path = tmp_path / "branches.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return Artifact.of(path)


def test_operations_side_by_side_are_refused_for_their_times_do_not_add_up(branches):
    x = np.zeros((64, 64), np.float32)
    with pytest.raises(MeasurementError, match="profile with execution='sequential'"):
        onnx_profile.profile(OnnxRuntime(execution="parallel", n_inter_threads=2), branches, (x,), n_runs=2)
    found = onnx_profile.profile(OnnxRuntime(graph_level="none"), branches, (x,), n_runs=2)
    assert sorted(kernel.kind for kernel in found.kernels) == ["Add", "MatMul", "MatMul"]


def test_wrong_inputs_are_told_before_anything_is_profiled(files, tmp_path):
    with pytest.raises(NetworkError, match="must be float32"):
        onnx_profile.profile(OnnxRuntime(), files["fp32.onnx"], (X.astype(np.float64),), n_runs=2)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    with pytest.raises(MeasurementError, match="cannot load"):
        onnx_profile.profile(OnnxRuntime(), Artifact.of(broken), (X,), n_runs=2)


def test_torch_tells_operators_without_those_inside_them(files):
    found = torch_profile.profile(TorchRuntime(network=network), files["fp32.dwn"], (X,), n_runs=3)
    assert found.ms.shape == (3, len(found.kernels))
    kinds = {kernel.kind for kernel in found.kernels}
    assert "addmm" in kinds
    assert any("conv" in kind for kind in kinds)
    assert found.engine_ms is not None
    assert (found.ms.sum(axis=1) + found.engine_ms <= found.wall_ms * 1.05).all()


@pytest.mark.skipif(not HAS_OPENVINO, reason="openvino is not installed")
def test_openvino_tells_means_of_compiled_models(files):
    from dwindle.runtimes import openvino_profile
    from dwindle.runtimes.openvino import OpenVinoRuntime

    found = openvino_profile.profile(OpenVinoRuntime(), files["int8.onnx"], (X,), n_runs=12)
    assert (len(found.wall_ms), found.calls_per_sample) == (5, 3)
    assert found.engine_ms is None
    assert {kernel.numbers for kernel in found.kernels if kernel.kind == "Convolution"} == {"int8"}
    few = openvino_profile.profile(OpenVinoRuntime(), files["fp32.onnx"], (X,), n_runs=2)
    assert (len(few.wall_ms), few.calls_per_sample) == (2, 1)
    assert {kernel.numbers for kernel in few.kernels if kernel.kind == "Convolution"} == {"float32"}


@pytest.mark.slow
def test_executorch_tells_what_its_delegate_does(tmp_path):
    executorch_profile = pytest.importorskip("dwindle.runtimes.executorch_profile")
    runtime = pytest.importorskip("dwindle.runtimes.executorch").ExecuTorchRuntime()
    if runtime.unavailable():
        pytest.skip(runtime.unavailable())
    images = torch.randn(8, 3, 8, 8)
    dense = dw.CompressedModel.dense(network())
    int8 = dw.Recipe((dw.QuantizeStatic(),)).run(dense, dw.Context(example=images[:1], calibration=[images]))
    artifact = dw.deploy(int8, images[:1], tmp_path, formats=("pte",)).artifacts["pte"]
    found = executorch_profile.profile(runtime, artifact, (X,), n_runs=3)
    assert found.ms.shape == (3, len(found.kernels))
    assert {k.numbers for k in found.kernels if k.kind.startswith("Convolution")} == {"int8"}
    assert found.engine_ms is not None
    assert (found.ms.sum(axis=1) <= found.wall_ms + 0.01).all()


@pytest.mark.parametrize(
    ("name", "kind", "numbers"),
    [
        ("Convolution (NHWC, QC8) IGEMM #12", "Convolution IGEMM", "int8"),
        ("Fully Connected (NC, F32) GEMM #1", "Fully Connected GEMM", "float32"),
        ("Fully Connected (NC, QD8, F32, QC8W) GEMM #1", "Fully Connected GEMM", "float32"),
        ("Transpose (ND, X8) #1", "Transpose", ""),
        ("native_call_quantize_per_tensor.out", "quantize_per_tensor", ""),
        ("", "", ""),
        ("no brackets", "no brackets", ""),
    ],
)
def test_names_of_executorch_are_taken_apart(name, kind, numbers):
    executorch_profile = pytest.importorskip("dwindle.runtimes.executorch_profile")
    kernel = executorch_profile._kernel(name, "place")
    assert (kernel.kind, kernel.numbers, kernel.name) == (kind, numbers, "place")


@pytest.mark.parametrize("wall", [[], [0.0], [float("nan")], [-1.0]])
def test_times_that_are_none_are_refused(wall):
    with pytest.raises(MeasurementError, match="profile"):
        CallTimes(
            kernels=(Kernel(name="a", kind="Conv"),),
            ms=np.zeros((len(wall), 1)),
            engine_ms=None,
            wall_ms=np.array(wall),
        )


def test_a_profile_of_other_calls_is_refused():
    with pytest.raises(MeasurementError, match="did not tell of every call"):
        CallTimes(kernels=(), ms=np.zeros((2, 1)), engine_ms=None, wall_ms=np.ones(2))
