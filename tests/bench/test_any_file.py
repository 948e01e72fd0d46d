"""This file tests measuring and comparing files that dwindle did not write, down to the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

from dwindle.bench.any_file import Source, measure_file
from dwindle.bench.ledger import Ledger
from dwindle.bench.made_inputs import Shapes, made_inputs, parse_shape, read_npz, repeated
from dwindle.bench.measurement import SPEEDUP, Measurement
from dwindle.bench.plan import Plan
from dwindle.bench.protocol import LatencyProtocol
from dwindle.bench.side_by_side import compare_files, ratio_sentence
from dwindle.cli.main import app
from dwindle.errors import ContainerError, DataError, MeasurementError, SettingError
from dwindle.runtimes.protocol import InputSpec

QUICK = LatencyProtocol(min_repeats=5, max_repeats=20, n_rounds=5, n_warmup=1)
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def write(path: Path, inputs: dict[str, tuple[int, list[int | str]]], *, factor: float = 1.0) -> Path:
    """Write a file that answers the sum of its inputs, as floats, times `factor`."""
    values = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()]
    casts = [helper.make_node("Cast", [name], [f"{name}_f"], to=FLOAT) for name in inputs]
    total = helper.make_node("Sum", [f"{name}_f" for name in inputs], ["total"])
    scale = onnx.numpy_helper.from_array(np.array(factor, dtype=np.float32), "scale")
    product = helper.make_node("Mul", ["total", "scale"], ["y"])
    output = helper.make_tensor_value_info("y", FLOAT, None)
    graph = helper.make_graph([*casts, total, product], "g", values, [output], [scale])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def spec(shape: tuple[int | str | None, ...], dtype: str = "float32", name: str = "x") -> InputSpec:
    return InputSpec(name=name, dtype=np.dtype(dtype), type_name="t", shape=shape)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "plain.onnx", {"x": (FLOAT, ["batch", 4])})


# Inputs


@pytest.mark.parametrize(
    ("shape", "shapes", "expected"),
    [
        (("batch", 3, 8, 8), Shapes(), (1, 3, 8, 8)),
        ((None, 3), Shapes(batch=5), (5, 3)),
        ((2, 3), Shapes(), (2, 3)),
        ((2, 3), Shapes(batch=2), (2, 3)),
        (("n", "t", 3), Shapes(by_name={"x": (2, 7, 3)}), (2, 7, 3)),
        ((), Shapes(), ()),
    ],
)
def test_inputs_have_the_declared_shapes(
    shape: tuple[int | str | None, ...], shapes: Shapes, expected: tuple[int, ...]
) -> None:
    (made,) = made_inputs([spec(shape)], shapes)
    assert made.shape == expected
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made, made_inputs([spec(shape)], shapes)[0])


@pytest.mark.parametrize(
    ("shape", "shapes", "message"),
    [
        ((1, "height", 3), Shapes(), r"leaves sizes open; give its shape, such as --shape x=1x8x3"),
        ((4, 3), Shapes(batch=2), "fixed to a batch of 4, not 2"),
        ((4, 3), Shapes(by_name={"x": (4, 2)}), r"cannot take the shape \(4, 2\)"),
        ((4, 3), Shapes(by_name={"x": (4, 3, 1)}), "cannot take the shape"),
        ((4, 3), Shapes(by_name={"z": (4, 3)}), "no input 'z'; known: x"),
    ],
)
def test_shapes_that_do_not_fit_are_an_error(shape: tuple[int | str | None, ...], shapes: Shapes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        made_inputs([spec(shape)], shapes)


def test_indices_are_in_range_and_bytes_cover_theirs() -> None:
    index, small, byte = (made_inputs([spec((1000,), kind)], Shapes())[0] for kind in ("int64", "bool", "uint8"))
    assert not index.any()
    assert not small.any()
    assert byte.min() < 10 < 245 < byte.max()
    text = InputSpec(name="words", dtype=None, type_name="tensor(string)", shape=(1,))
    with pytest.raises(DataError, match=r"input words \(1\) tensor\(string\) has a type that no values"):
        made_inputs([text], Shapes())


@pytest.mark.parametrize("text", ["x", "x=", "=1x2", "x=1x-", "x=axb", ""])
def test_what_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match="is no shape; write it as name=1x3x224x224"):
        parse_shape(text)


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(SettingError, match="size below 1"):
        Shapes(by_name=dict([parse_shape("x=0x3")]))
    with pytest.raises(SettingError, match="batch must be at least 1"):
        Shapes(batch=0)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04broken"])
def test_what_is_no_npz_is_one_clear_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "in.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"in\.npz cannot be read as \.npz") as told:
        read_npz(path)
    assert "pickle" not in str(told.value)


def test_pickles_and_single_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", x=np.array([{}, None], dtype=object))
    with pytest.raises(DataError, match=r"objects\.npz: 'x' holds Python objects, not numbers .*; save numbers$"):
        read_npz(tmp_path / "objects.npz")
    with (tmp_path / "single.npz").open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(DataError, match="is a single array"):
        read_npz(tmp_path / "single.npz")


def test_examples_repeat_to_fill_a_batch() -> None:
    (many,) = repeated((np.array([[1.0, 2.0], [3.0, 4.0]]),), 3)
    np.testing.assert_array_equal(many, [[1, 2], [3, 4], [1, 2]])


# Measuring


def test_any_file_is_measured_without_data(file: Path) -> None:
    measured = measure_file(file, plan=Plan(latency=QUICK, cpu_time=True, load_time=True))
    names = {m.metric.name for m in measured.measurements}
    assert names == {"size", "latency", "latency_median", "latency_p90", "throughput", "cpu_time", "load_time"}
    assert measured.find("size").value == file.stat().st_size
    assert measured.find("throughput").conditions["batch"] == 32
    assert measured.find("latency").conditions["batch"] == 1
    assert measured.samples is not None
    assert measured.confusion is None


def test_a_fixed_batch_is_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "fixed.onnx", {"x": (FLOAT, [4, 3])})
    measured = measure_file(path, plan=Plan(latency=QUICK))
    assert measured.find("throughput").conditions["batch"] == measured.find("latency").conditions["batch"] == 4
    with pytest.raises(DataError, match=r"fixed\.onnx takes x \(4, 3\) float32 and cannot run float32 \(8, 3\)"):
        measure_file(path, plan=Plan(latency=QUICK), throughput_batch=8)


def test_several_inputs_of_other_types_are_made_or_read(tmp_path: Path) -> None:
    path = write(tmp_path / "two.onnx", {"a": (FLOAT, ["n", 4]), "b": (INT64, ["n", 4])})
    assert measure_file(path, plan=Plan(latency=QUICK)).find("latency").conditions["batch"] == 1
    np.savez(tmp_path / "in.npz", b=np.ones((3, 4), dtype=np.int64), a=np.ones((3, 4), dtype=np.float32))
    source = Source(inputs=tmp_path / "in.npz")
    assert measure_file(path, plan=Plan(latency=QUICK), source=source).find("latency").conditions["batch"] == 3
    np.savez(tmp_path / "in.npz", a=np.ones((3, 4), dtype=np.float32))
    with pytest.raises(DataError, match=r"lacks b \(it holds a\); save an array for each input under its name: a, b"):
        measure_file(path, plan=Plan(latency=QUICK), source=source)


def test_answers_are_scored_where_there_are_targets(file: Path, tmp_path: Path) -> None:
    logits = np.eye(4, dtype=np.float32)[np.arange(10) % 4]
    np.savez(tmp_path / "data.npz", x=logits, targets=np.where(np.arange(10) < 2, 3, np.arange(10) % 4))
    measured = measure_file(file, plan=Plan(latency=None), source=Source(labelled=tmp_path / "data.npz"))
    assert measured.find("accuracy").value == pytest.approx(0.8)
    assert measured.confusion is not None
    np.savez(tmp_path / "data.npz", x=logits)
    with pytest.raises(DataError, match="holds x but no targets; save them under the name 'targets'"):
        measure_file(file, plan=Plan(latency=None), source=Source(labelled=tmp_path / "data.npz"))
    np.savez(tmp_path / "data.npz", x=logits, targets=np.zeros(3, dtype=np.int64))
    with pytest.raises(DataError, match="one first axis of equal length"):
        measure_file(file, plan=Plan(latency=None), source=Source(labelled=tmp_path / "data.npz"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.txt", b"x", r"is no \.dwn, \.onnx, \.pte, \.tflite or \.xml file"),
        ("model.onnx", None, "cannot be read"),
        ("model.onnx", b"", "is empty"),
        ("model.onnx", b"rubbish", "cannot load"),
    ],
)
def test_what_is_no_model_is_one_clear_error(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MeasurementError, match=message):
        measure_file(path, plan=Plan(latency=QUICK))


# Comparing


def test_two_files_are_compared_with_their_answers(file: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "double.onnx", {"x": (FLOAT, ["batch", 4])}, factor=2.0)
    found = compare_files(file, other, plan=Plan(latency=QUICK))
    assert found.answers.largest == pytest.approx(found.answers.scale)
    assert found.answers.agreement == 1
    assert found.ratio.metric == SPEEDUP
    assert found.ratio.n == 5
    assert found.b.find("size").value == other.stat().st_size
    assert ("no difference" in found.sentence()) is not found.differs


def test_answers_of_other_shapes_and_inputs_are_said(file: Path, tmp_path: Path) -> None:
    pair = {"x": (FLOAT, ["batch", 4]), "z": (FLOAT, [3, 1, 1])}
    with pytest.raises(DataError, match="the two files do not take the same inputs"):
        compare_files(file, write(tmp_path / "pair.onnx", pair), plan=Plan(latency=QUICK))
    with pytest.raises(SettingError, match="a comparison takes latencies"):
        compare_files(file, file, plan=Plan(latency=None))


@pytest.mark.parametrize(
    ("value", "low", "high", "sentence"),
    [
        (2.1, 2.0, 2.2, r"^a is 2\.10x \[2\.00, 2\.20\] faster than b \(95 % interval, n = 10 rounds\)$"),
        (0.5, 0.4, 0.625, r"^b is 2\.00x \[1\.60, 2\.50\] faster than a"),
        (1.01, 0.99, 1.03, r"^no difference between a and b: 1\.010x \[0\.990, 1\.030\] holds 1"),
        (1.0, 1.0, 1.0, "^no difference"),
    ],
)
def test_the_verdict_is_one_sentence(value: float, low: float, high: float, sentence: str) -> None:
    ratio = Measurement(
        metric=SPEEDUP, value=value, low=low, high=high, n=10, artifact="a", runtime="r", machine="m", protocol="p"
    )
    assert re.search(sentence, ratio_sentence(ratio, "a", "b"))


# The command line


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_bench_prints_a_table_or_json_and_appends_to_a_ledger(file: Path, tmp_path: Path) -> None:
    options = ("--seconds", "0.05", "--no-memory", "--ledger", str(tmp_path / "ledger.jsonl"))
    assert "latency_median" in run("bench", str(file), *options)
    found = json.loads(run("bench", str(file), "--batch", "2", "--json", *options))
    assert found["file"] == "plain.onnx"
    assert found["measurements"]["latency"]["unit"] == "ms"
    assert found["measurements"]["latency"]["conditions"]["batch"] == 2
    kinds = [entry.kind for entry in Ledger(tmp_path / "ledger.jsonl").read()]
    assert kinds.count("artifact") == kinds.count("latency_samples") == 2


def test_compare_prints_the_sentence_or_json(file: Path) -> None:
    options = ("--seconds", "0.05", "--no-memory")
    assert re.search(r"no difference between A and B|is .* faster than", run("compare", str(file), str(file), *options))
    found = json.loads(run("compare", str(file), str(file), "--json", *options))
    assert found["answers"]["largest"] == 0
    assert found["speedup"]["conditions"]["level"] == 0.99
    assert found["differs"] in {True, False}


def test_what_cannot_be_held_in_memory_is_one_clear_error(file: Path) -> None:
    plan = Plan(latency=QUICK)
    with pytest.raises(DataError, match=r"the inputs cannot be held in memory .*give a smaller batch"):
        measure_file(file, plan=plan, source=Source(shapes=Shapes(batch=10**15)))
    with pytest.raises(DataError, match="the inputs cannot be held in memory"):
        measure_file(file, plan=plan, source=Source(shapes=Shapes(batch=10**20)))
    with pytest.raises(DataError, match="examples cannot be held in memory"):
        measure_file(file, plan=plan, throughput_batch=10**15)


def test_inputs_without_examples_are_refused(file: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "none.npz", x=np.zeros((0, 4), np.float32))
    with pytest.raises(DataError, match=r"holds no examples, shape .*give at least one"):
        measure_file(file, plan=Plan(latency=QUICK), source=Source(inputs=tmp_path / "none.npz"))


@pytest.mark.parametrize("place", ["labelled", "inputs"])
def test_inputs_that_are_not_finite_are_refused(place: str, file: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.npz"
    np.savez(bad, x=np.full((3, 4), np.nan, np.float32), targets=np.zeros(3, np.int64))
    with pytest.raises(DataError, match=r"bad\.npz hold NaN or infinite values; repair the data"):
        measure_file(file, plan=Plan(latency=None), source=Source(**{place: bad}))


def test_a_broken_container_is_named(file: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.dwn").write_bytes(b"text" * 20)
    with pytest.raises(ContainerError, match=r"broken\.dwn: this is not a \.dwn file"):
        compare_files(file, tmp_path / "broken.dwn", plan=Plan(latency=QUICK))


@pytest.mark.parametrize("operator", ["Identity", "SequenceConstruct"])
def test_answers_that_are_no_numbers_are_said(operator: str, tmp_path: Path) -> None:
    kind = TensorProto.STRING
    out = helper.make_tensor_value_info("y", kind, ["n"])
    if operator == "SequenceConstruct":
        out = helper.make_tensor_sequence_value_info("y", kind, None)
    values = [helper.make_tensor_value_info("x", kind, ["n"])]
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], "g", values, [out])
    path, texts = tmp_path / "texts.onnx", tmp_path / "texts.npz"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    np.savez(texts, x=np.array(["a", "b"]))
    found = compare_files(path, path, plan=Plan(latency=QUICK), source=Source(inputs=texts))
    assert found.answers.words() == "answers: not comparable, not all of them are arrays of numbers"
