"""This file tests estimates of energy against work counted by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dwindle.bench.energy.estimate import energy_of, estimated_energy, prices
from dwindle.bench.energy.work import Work, work_of
from dwindle.bench.measurement import ENERGY, Estimate
from dwindle.errors import MeasurementError, SettingError

FLOAT = TensorProto.FLOAT


def model(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], shape: list[int | None]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_a_convolution_costs_its_places_times_its_window() -> None:
    weights = {"w": np.ones((8, 2, 3, 3), np.float32)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"], group=2), helper.make_node("Relu", ["a"], ["y"])]
    work = work_of(model(nodes, weights, [1, 4, 10, 10]))
    assert work.macs == {"float32": 8 * 64 * 18}
    assert work.weight_bytes == 4 * 144
    assert work.moved_bytes == 4 * (400 + 512)  # the activation function is part of the convolution


def test_small_weights_that_are_cut_and_joined_before_use_have_shapes() -> None:
    weights = {"w": np.ones((8, 4), np.float32), "0": np.array([0]), "4": np.array([4]), "8": np.array([8])}
    nodes = [
        helper.make_node("Slice", ["w", "0", "4"], ["first"]),
        helper.make_node("Slice", ["w", "4", "8"], ["second"]),
        helper.make_node("Concat", ["second", "first"], ["turned"], axis=0),
        helper.make_node("Gemm", ["x", "turned"], ["y"], transB=1),
    ]
    work = work_of(model(nodes, weights, [None, 4]))
    assert work.macs == {"float32": 32}


def test_integers_and_linear_layers_are_told_apart() -> None:
    weights = {
        "w": np.ones((100, 30), np.int8), "v": np.ones((30, 5), np.float32), "s": np.float32(0.1), "z": np.int8(0)
    }  # fmt: skip
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"]),
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["a"]),
        helper.make_node("QuantizeLinear", ["a", "s", "z"], ["aq"]),
        helper.make_node("DequantizeLinear", ["aq", "s", "z"], ["ad"]),
        helper.make_node("MatMul", ["ad", "v"], ["y"]),
    ]
    work = work_of(model(nodes, weights, [None, 100]))
    assert work.macs == {"int8": 3000, "float32": 150}


def test_a_recurrent_layer_costs_its_weights_at_every_step() -> None:
    weights = {"w": np.ones((1, 40, 6), np.float32), "r": np.ones((1, 40, 10), np.float32)}
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=10)
    assert work_of(model([node], weights, [7, 2, 6])).macs == {"float32": 7 * 2 * 40 * 16}


CODES = {"s": np.float32(0.1), "z": np.int8(0), "u": np.uint8(0)}


@pytest.mark.parametrize(
    ("node", "weight", "macs"),
    [
        (helper.make_node("ConvInteger", ["c", "w"], ["r"]), np.ones((8, 4, 3, 3), np.int8), 8 * 64 * 36),
        (
            helper.make_node("QLinearConv", ["c", "s", "u", "w", "s", "z", "s", "u"], ["r"], pads=[1] * 4, group=2),
            np.ones((8, 2, 3, 3), np.int8),
            8 * 100 * 18,
        ),
        (
            helper.make_node("QLinearMatMul", ["c", "s", "u", "w", "s", "z", "s", "u"], ["r"]),
            np.ones((10, 7), np.int8),
            4 * 10 * 7 * 10,
        ),
        (helper.make_node("MatMulInteger", ["c", "w"], ["r"]), np.ones((10, 7), np.int8), 4 * 10 * 7 * 10),
    ],
)
def test_operations_on_codes_are_counted_by_their_weights(node: onnx.NodeProto, weight: np.ndarray, macs: int) -> None:
    quantize = helper.make_node("QuantizeLinear", ["x", "s", "u"], ["c"])
    cast = helper.make_node("Cast", ["r"], ["y"], to=FLOAT)
    assert work_of(model([quantize, node, cast], CODES | {"w": weight}, [1, 4, 10, 10])).macs == {"int8": macs}


def test_a_transposed_convolution_spreads_every_value_of_its_input() -> None:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], group=2)
    work = work_of(model([node], {"w": np.ones((4, 3, 2, 2), np.float32)}, [1, 4, 10, 10]))
    assert work.macs == {"float32": 4 * 100 * 3 * 4}


@pytest.mark.parametrize(("trans_a", "trans_b"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_product_costs_the_same_whichever_side_is_transposed(trans_a: int, trans_b: int) -> None:
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transA=trans_a, transB=trans_b)
    shape, weight = ([100, 2] if trans_a else [2, 100]), ((5, 100) if trans_b else (100, 5))
    assert work_of(model([node], {"w": np.ones(weight, np.float32)}, shape)).macs == {"float32": 2 * 100 * 5}


@pytest.mark.parametrize("op", ["QGemm", "MatMulNBits", "Einsum"])
def test_what_multiplies_in_an_unknown_way_has_no_estimate(op: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    attributes = {"equation": "ij,jk->ik"} if op == "Einsum" else {}
    node = helper.make_node(op, ["x", "w"], ["y"], domain="" if op == "Einsum" else "com.microsoft", **attributes)
    onnx.save(model([node], {"w": np.ones((100, 30), np.float32)}, [2, 100]), path)
    with pytest.raises(MeasurementError, match=f"the multiplications of '{op}' are not counted here; measure it"):
        estimated_energy(path)


@pytest.mark.parametrize(
    ("codes_in", "codes_of_weights", "codes_out", "kind"),
    [
        ("z", True, "", "int8"),
        ("z", True, "z", "int8"),
        ("z16", True, "", "int16"),
        ("z", False, "z", "float32"),
        ("", True, "z", "float32"),
    ],
)
def test_what_is_multiplied_decides_the_price_and_not_what_the_sums_become(
    codes_in: str, codes_of_weights: bool, codes_out: str, kind: str
) -> None:
    weights = CODES | {"z16": np.int16(0), "w": np.ones((100, 30), np.int8), "f": np.ones((100, 30), np.float32)}
    before = [
        helper.make_node("QuantizeLinear", ["x", "s", codes_in], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", codes_in], ["xd"]),
        helper.make_node("Reshape", ["xd", "shape"], ["xr"]),
    ]
    after = [
        helper.make_node("QuantizeLinear", ["a", "s", codes_out], ["aq"]),
        helper.make_node("DequantizeLinear", ["aq", "s", codes_out], ["y"]),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"]),
        *(before if codes_in else []),
        helper.make_node(
            "MatMul", ["xr" if codes_in else "x", "wd" if codes_of_weights else "f"], ["a" if codes_out else "y"]
        ),
        *(after if codes_out else []),
    ]
    work = work_of(model(nodes, weights | {"shape": np.array([-1, 100])}, [1, 100]))
    assert work.macs == {kind: 3000}


def test_a_file_with_a_fixed_batch_is_priced_for_one_example() -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    eight, one, any_batch = (work_of(model([node], {"w": np.ones((9, 3), np.float32)}, [n, 9])) for n in (8, 1, None))
    assert (eight.n_examples, one.n_examples, any_batch.n_examples) == (8, 1, 1)
    assert energy_of(eight).operations == pytest.approx(energy_of(one).operations)
    assert energy_of(eight).values == pytest.approx(energy_of(any_batch).values)
    assert energy_of(eight).weights == pytest.approx(energy_of(one).weights / 8)  # read once for all eight
    assert energy_of(eight).method.endswith("a call of 8 examples, divided by 8")


def test_what_does_not_keep_the_first_size_is_no_batch() -> None:
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transA=1)
    assert work_of(model([node], {"w": np.ones((9, 3), np.float32)}, [9, 4])).n_examples == 1


def test_prices_are_those_of_the_paper() -> None:
    paid = prices()
    assert paid.mac_pj == pytest.approx({"int8": 0.3, "int16": 0.9, "float16": 1.5, "float32": 4.6})
    assert paid.access_pj["dram"] == (1300 + 2600) / 2
    assert "Horowitz" in paid.source


def test_what_does_not_fit_into_the_cache_is_paid_as_dram() -> None:
    work = Work(macs={}, weight_bytes=8 * 1000, moved_bytes=8 * 500, living_bytes=2000)
    fits, weights_out, none_fits = (energy_of(work, cache_bytes=n) for n in (1 << 20, 9_000, 1_000))
    assert (fits.weights, fits.values) == pytest.approx((1000 * 100e-9, 500 * 100e-9))
    assert (weights_out.weights, weights_out.values) == pytest.approx((1000 * 1950e-9, 500 * 20e-9))
    assert (none_fits.weights, none_fits.values) == pytest.approx((1000 * 1950e-9, 500 * 1950e-9))
    assert "weights from DRAM, values in a cache" in weights_out.method
    with pytest.raises(SettingError, match="cache_bytes must be positive"):
        energy_of(work, cache_bytes=0)


def test_an_estimate_is_no_measurement(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    onnx.save(model([node], {"w": np.ones((100, 30), np.float32)}, [None, 100]), path)
    parts = estimated_energy(path)
    assert isinstance(parts.estimate, Estimate)
    assert parts.estimate.metric == ENERGY
    assert parts.estimate.value == pytest.approx(3000 * 4.6e-9 + (4 * 3000 + 4 * 130) * 12.5e-9)


def test_files_that_tell_nothing_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "net.tflite"
    other.write_bytes(b"anything")
    with pytest.raises(MeasurementError, match=r"is no \.onnx or \.dwn file"):
        estimated_energy(other)
    with pytest.raises(MeasurementError, match="cannot be read"):
        estimated_energy(tmp_path / "absent.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\xff\xff\xff")
    with pytest.raises(MeasurementError, match="is no ONNX model"):
        estimated_energy(broken)
    unknown = tmp_path / "unknown.onnx"
    node = helper.make_node("Strange", ["x"], ["y"], domain="com.example")
    onnx.save(model([node], {}, [1, 100]), unknown)
    with pytest.raises(MeasurementError, match="the energy cannot be estimated"):
        estimated_energy(unknown)
