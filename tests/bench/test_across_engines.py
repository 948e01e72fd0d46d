"""This file tests comparing many files on many engines, with engines that are made up and one that is always here."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

from dwindle.bench import across_engines
from dwindle.bench.across_engines import compare_across, record_across
from dwindle.bench.any_file import Source, measure_file
from dwindle.bench.engine_parity import Parity
from dwindle.bench.even_batches import EvenSession
from dwindle.bench.ledger import Ledger
from dwindle.bench.plan import Plan
from dwindle.bench.protocol import LatencyProtocol
from dwindle.cli.across import cells, columns, plain_across, sentences
from dwindle.cli.engines import engine_named
from dwindle.cli.main import app
from dwindle.errors import DataError, MeasurementError, SettingError
from dwindle.runtimes import catalogue
from dwindle.runtimes.fake import FakeRuntime
from dwindle.runtimes.fixed_batch import fixed_batch
from dwindle.runtimes.onnxruntime import OnnxRuntime
from dwindle.runtimes.openvino import OpenVinoRuntime
from dwindle.runtimes.protocol import InputSpec
from dwindle.runtimes.torch import TorchRuntime
from dwindle.zoo.quantnet import quantnet

QUICK = Plan(latency=LatencyProtocol(min_repeats=5, max_repeats=20, n_rounds=5, n_warmup=1, seconds=0.2))
N = 1500


def write(path: Path, *, factor: float = 1.0) -> Path:
    """Write a file that answers its input (batch, 4) times `factor`."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])
    scale = onnx.numpy_helper.from_array(np.array(factor, dtype=np.float32), "scale")
    graph = helper.make_graph([helper.make_node("Mul", ["x", "scale"], ["y"])], "g", [value], [output], [scale])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


@dataclass(frozen=True, kw_only=True)
class Engine(FakeRuntime):
    """A made-up engine for `.tflite` files, of a fixed batch if it says so."""

    title: str = "fake"
    reason: str = ""
    batch: int | None = None
    calls: list[int] = field(default_factory=list)

    @property
    def name(self):
        return self.title

    def unavailable(self):
        return self.reason or None

    def load(self, artifact, *, n_threads=1):
        return _Loaded(super().load(artifact, n_threads=n_threads), self)


@dataclass
class _Loaded:
    inner: object
    engine: Engine

    def __enter__(self):
        self.session = self.inner.__enter__()
        return self

    def __exit__(self, *error):
        return self.inner.__exit__(*error)

    @property
    def input_names(self):
        return ("x",)

    @property
    def inputs(self):
        return (InputSpec(name="x", dtype=np.dtype(np.float32), type_name="f32", shape=(self.engine.batch, 4)),)

    def run(self, *inputs):
        self.engine.calls.append(len(inputs[0]))
        if self.engine.batch is not None and len(inputs[0]) != self.engine.batch:
            raise MeasurementError("another batch")
        return self.session.run(*inputs)


@pytest.fixture
def engines(monkeypatch):
    """Return a function that puts a made-up engine into the catalogue for `.tflite`, in the place of LiteRT."""

    def put(**settings):
        engine = Engine(formats=("tflite",), **settings)
        table = {"onnxruntime": catalogue.RUNTIMES["onnxruntime"], "litert": lambda: engine}
        monkeypatch.setattr(across_engines, "RUNTIMES", table)
        return engine

    return put


@pytest.fixture
def files(tmp_path):
    (tmp_path / "small.tflite").write_bytes(b"x" * 10)
    return write(tmp_path / "big.onnx"), write(tmp_path / "small.onnx"), tmp_path / "small.tflite"


@pytest.fixture
def data(tmp_path):
    x = np.random.default_rng(0).standard_normal((N, 4)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, targets=x.argmax(axis=1))
    return Source(labelled=tmp_path / "data.npz")


def flip(n_wrong):
    """Return what an engine computes that answers the first `n_wrong` of each call wrong."""

    def run(x):
        answer = x.copy()
        answer[:n_wrong] = -answer[:n_wrong]
        return (answer,)

    return run


def test_each_file_is_timed_with_the_first_of_its_engine(files, engines):
    big, small, lite = files
    engines()
    other = lite.with_name("other.tflite")
    other.write_bytes(b"y" * 5)
    found = compare_across([big, small, lite, other], plan=QUICK)
    assert [row.baseline for row in found.rows] == [None, 0, 0, 2]
    assert [row.engine.split()[0] for row in found.rows] == ["onnxruntime", "onnxruntime", "fake", "fake"]
    assert [row.speedup is None for row in found.rows] == [True, False, False, False]
    assert [row.speedup.conditions["baseline"] for row in found.rows[1:]] == [
        found.rows[0].artifact.sha256,
        found.rows[0].artifact.sha256,
        found.rows[2].artifact.sha256,
    ]
    assert all(row.find("latency").value > 0 for row in found.rows)
    assert [row.find("size").value for row in found.rows[2:]] == [10, 5]


def test_the_reference_is_the_file_of_the_same_name(files, engines, data):
    engines()
    found = compare_across(files, plan=QUICK, source=data)
    assert found.rows[0].parity is None
    assert found.rows[1].parity is None
    parity = found.rows[2].parity
    assert parity.reference == "small.onnx"
    assert parity.beside.largest == 0
    assert parity.beside.agreement == 1
    assert parity.gap.value == 0
    assert parity.gap.n == N
    assert parity.gap.conditions["reference"] == found.rows[1].artifact.sha256
    assert not found.flagged


def test_of_two_folders_the_own_one_is_the_reference(tmp_path, engines, data):
    engines()
    (tmp_path / "other").mkdir()
    first, second = write(tmp_path / "a.onnx", factor=-1.0), write(tmp_path / "other/a.onnx")
    lite = tmp_path / "other/a.tflite"
    lite.write_bytes(b"x")
    found = compare_across([first, second, lite], plan=QUICK, source=data)
    assert found.rows[2].parity.gap.value == 0


def test_a_file_of_another_folder_is_no_reference(tmp_path, engines, data):
    engines()
    (tmp_path / "other").mkdir()
    lite = tmp_path / "other/a.tflite"
    lite.write_bytes(b"x")
    found = compare_across([write(tmp_path / "a.onnx", factor=-1.0), lite], plan=QUICK, source=data)
    assert found.rows[1].parity.gap is None
    assert not found.flagged


@pytest.mark.parametrize(("n_wrong", "is_flagged"), [(0, False), (1, False), (2, True)])
def test_more_than_a_tenth_of_a_point_is_flagged(files, engines, data, n_wrong, is_flagged):
    engines(outputs=flip(n_wrong))
    plan = replace(QUICK, batch_size=N)
    found = compare_across(files, plan=plan, source=data)
    gap = found.rows[2].parity.gap
    assert gap.value == pytest.approx(100 * n_wrong / N)
    assert gap.low <= gap.value <= gap.high
    assert bool(found.flagged) == is_flagged
    told = " ".join(sentences(found))
    assert ("flagged, its top-1 accuracy is 0.13 points below that of small.onnx" in told) == is_flagged
    assert found.rows[2].find("top1_agreement").value == pytest.approx(1 - n_wrong / N)
    assert (found.rows[2].find("parity").value > 0) == (n_wrong > 0)


def test_an_engine_that_answers_better_is_flagged_too(files, engines, tmp_path):
    x = np.eye(4, dtype=np.float32)[np.arange(1000) % 4]
    np.savez(tmp_path / "data.npz", x=-x, targets=np.arange(1000) % 4)
    engines(outputs=lambda given: (-given,))
    found = compare_across(files, plan=QUICK, source=Source(labelled=tmp_path / "data.npz"))
    assert found.rows[2].parity.gap.value == pytest.approx(-100)
    assert "above that of small.onnx" in " ".join(sentences(found))


@pytest.mark.parametrize(("factor", "is_flagged"), [(1.04, False), (1.2, True), (-1.0, True)])
def test_without_targets_a_large_difference_is_flagged(files, engines, factor, is_flagged):
    engines(outputs=lambda given: (given * np.float32(factor),))
    found = compare_across(files, plan=QUICK)
    assert found.rows[2].parity.gap is None
    assert bool(found.flagged) == is_flagged
    told = " ".join(sentences(found))
    assert ("flagged, its answers lie up to " in told and "5% of it are allowed" in told) == is_flagged
    (largest,) = (
        cell for head, cell in zip(columns(found), cells(found.rows[2], found), strict=True) if head == "largest"
    )
    assert largest.endswith(" !") == is_flagged


def test_where_targets_tell_the_accuracy_a_difference_is_not_flagged(files, engines, data):
    engines(outputs=lambda given: (given * 2,))
    found = compare_across(files, plan=QUICK, source=data)
    assert found.rows[2].parity.beside.largest > 0
    assert not found.flagged


def test_the_first_file_has_its_times_where_no_other_can_be_timed(files, engines, monkeypatch):
    def fails(files, *_rest):
        raise MeasurementError(f"{files[0].artifact.path.name} cannot be loaded again")

    monkeypatch.setattr(across_engines, "costs_in_turn", fails)
    engines()
    found = compare_across(files, plan=QUICK)
    assert [row.problem for row in found.rows[1:]] == [f"{file.name} cannot be loaded again" for file in files[1:]]
    assert found.rows[0].find("latency").value > 0


def test_a_missing_engine_is_a_row_with_the_remedy(files, engines, data):
    engines(reason="the package fake is missing: pip install fake")
    found = compare_across(files, plan=QUICK, source=data)
    row = found.rows[2]
    assert row.measured is None
    assert row.speedup is None
    assert sentences(found)[0] == "small.tflite on fake: not measured, the package fake is missing: pip install fake"
    assert [other.measured is not None for other in found.rows] == [True, True, False]


def test_a_file_that_its_engine_refuses_is_a_row(files, engines, tmp_path):
    engines()
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    found = compare_across([broken, *files], plan=QUICK)
    assert "cannot load" in found.rows[0].problem
    assert [row.baseline for row in found.rows] == [None, None, 1, 1]


def test_a_file_that_takes_other_inputs_is_a_row(files, engines, tmp_path):
    engines()
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 7])
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [value], [replace_name(value)])
    path = tmp_path / "wide.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    found = compare_across([files[0], path, files[1]], plan=QUICK)
    assert "cannot run float32 (1, 4)" in found.rows[1].problem
    assert found.rows[2].baseline == 0


def replace_name(value):
    renamed = onnx.ValueInfoProto()
    renamed.CopyFrom(value)
    renamed.name = "y"
    return renamed


def test_answers_that_are_not_finite_are_a_row(files, engines, data):
    engines(outputs=lambda x: (x * np.nan,))
    found = compare_across(files, plan=QUICK, source=data)
    assert "NaN or infinite" in found.rows[2].problem


def test_memory_that_cannot_be_measured_is_a_remark(files, engines):
    engines()
    found = compare_across([files[2], files[2]], plan=replace(QUICK, memory=True))
    assert all(row.measured is not None and "memory unknown" in row.remark for row in found.rows)
    assert "memory unknown" in sentences(found)[0]


def test_where_no_engine_runs_every_row_says_why(files, engines):
    engines(reason="gone")
    found = compare_across([files[2], files[2]], plan=QUICK)
    assert [row.problem for row in found.rows] == ["gone", "gone"]


def test_a_fixed_batch_answers_all_examples(files, engines, data):
    engine = engines(batch=1)
    found = compare_across(files, plan=QUICK, source=data)
    assert found.rows[2].find("accuracy").n == N
    assert set(engine.calls) == {1}


@pytest.mark.parametrize(("n", "size"), [(7, 3), (6, 3), (2, 3), (0, 3), (5, None), (1, 1)])
def test_a_fixed_batch_is_filled_up(n, size):
    engine = Engine(formats=("tflite",), batch=size)
    x = np.arange(n * 4, dtype=np.float32).reshape(n, 4)
    session = _Loaded(FakeRuntime().load(None), engine)
    with session as loaded:
        even = EvenSession(loaded)
        assert fixed_batch(loaded.inputs) == size
        if n == 0:
            with pytest.raises(MeasurementError):
                even.run(x)
            return
        (answer,) = even.run(x)
    np.testing.assert_array_equal(answer, x)


def test_without_a_reference_parity_is_unknown(files, engines):
    engines()
    found = compare_across([files[0], files[2]], plan=QUICK)
    assert found.rows[1].parity.beside is None
    assert not found.flagged
    assert (
        "parity unknown, onnxruntime answered no .onnx or .dwn file of the same name; name it, too"
        in sentences(found)[0]
    )


def test_without_targets_there_is_no_gap(files, engines):
    engines()
    parity = compare_across(files, plan=QUICK).rows[2].parity
    assert parity.gap is None
    assert parity.beside.agreement == 1


def test_answers_of_other_shapes_are_a_remark(files, engines):
    engines(outputs=lambda x: (x[:, :2],))
    parity = compare_across(files, plan=QUICK).rows[2].parity
    assert "other shapes" in parity.remark
    assert not parity.measurements


def test_further_engines_run_what_they_load(files, engines):
    engines()
    slow = OnnxRuntime(graph_level="none")
    found = compare_across([files[0], files[2]], engines=[slow], plan=QUICK)
    assert [row.engine for row in found.rows] == [OnnxRuntime().name, slow.name, "fake"]
    assert [row.baseline for row in found.rows] == [None, 0, 0]
    assert found.rows[1].parity.reference == "big.onnx"
    with pytest.raises(SettingError, match=r"graph level none\) runs none of these files \(\.tflite\)"):
        compare_across([files[2], files[2]], engines=[slow], plan=QUICK)


def test_what_cannot_be_compared_is_refused(files, engines, tmp_path):
    engines()
    with pytest.raises(SettingError, match="nothing to compare"):
        compare_across(files[:1], plan=QUICK)
    with pytest.raises(SettingError, match="nothing to compare"):
        compare_across([], plan=QUICK)
    with pytest.raises(SettingError, match="takes latencies"):
        compare_across(files, plan=Plan(latency=None))
    with pytest.raises(MeasurementError, match="cannot be read"):
        compare_across([*files, tmp_path / "absent.onnx"], plan=QUICK)
    with pytest.raises(DataError, match="cannot be read"):
        compare_across(files, plan=QUICK, source=Source(labelled=tmp_path / "absent.npz"))


def test_inputs_that_are_not_finite_are_refused(files, engines, tmp_path):
    engines()
    np.savez(tmp_path / "nan.npz", x=np.full((5, 4), np.nan, np.float32), targets=np.zeros(5, np.int64))
    with pytest.raises(DataError, match=r"nan\.npz hold NaN or infinite values; repair the data"):
        compare_across(files, plan=QUICK, source=Source(labelled=tmp_path / "nan.npz"))


def test_the_ledger_holds_every_row(files, engines, data, tmp_path):
    engines(reason="gone")
    found = compare_across(files, plan=QUICK, source=data)
    record_across(Ledger(tmp_path / "ledger.jsonl"), found)
    entries = Ledger(tmp_path / "ledger.jsonl").read()
    assert [e.data["role"] for e in entries if e.kind == "artifact"] == ["dense", "compressed"]
    (missing,) = (e.data for e in entries if e.kind == "not_measured")
    assert missing == {"file": "small.tflite", "engine": "fake", "reason": "gone"}


def test_plain_values_are_json(files, engines, data):
    engines(outputs=flip(3))
    plain = json.loads(json.dumps(plain_across(compare_across(files, plan=QUICK, source=data))))
    assert plain["flagged"] == ["small.tflite on fake"]
    assert plain["rows"][2]["baseline"]["file"] == "big.onnx"
    assert plain["rows"][2]["parity"]["flagged"]
    assert plain["rows"][1]["parity"] is None


def test_parity_without_figures_is_not_flagged():
    assert not Parity().is_flagged


# The command line


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_compare_prints_one_table_or_json(files, tmp_path, data):
    options = ("--seconds", "0.05", "--data", str(data.labelled), "--engine", "onnxruntime:graph_level=basic")
    printed = run("compare", *map(str, files[:2]), *options)
    assert "reference" in printed
    assert "times faster than" in printed
    found = json.loads(run("compare", *map(str, files[:2]), "--json", "--ledger", str(tmp_path / "l.jsonl"), *options))
    assert [row["file"] for row in found["rows"]] == ["big.onnx", "big.onnx", "small.onnx", "small.onnx"]
    assert len([e for e in Ledger(tmp_path / "l.jsonl").read() if e.kind == "artifact"]) == 4


def test_the_second_file_of_another_is_no_file_of_its_own(files, tmp_path):
    pytest.importorskip("openvino", reason="needs openvino")
    from dwindle.exporters.openvino import convert

    convert(files[0], tmp_path / "big.xml")
    paths = sorted(tmp_path.glob("big.*"))
    assert [path.suffix for path in paths] == [".bin", ".onnx", ".xml"]
    found = json.loads(run("compare", *map(str, paths), "--seconds", "0.05", "--json"))
    assert [row["file"] for row in found["rows"]] == ["big.onnx", "big.xml"]


def test_where_nothing_was_measured_the_command_fails(tmp_path):
    paths = [tmp_path / f"{name}.onnx" for name in "abc"]
    for path in paths:
        path.write_bytes(b"no model")
    result = CliRunner().invoke(app, ["compare", *map(str, paths), "--seconds", "0.05"])
    assert result.exit_code == 1
    assert result.stdout.count("cannot load") == 3


@pytest.mark.parametrize(
    ("budget", "code"), [((), 1), (("--budget", "max_size=1MB"), 4), (("--budget", "max_size=1B"), 3)]
)
def test_a_file_that_cannot_be_loaded_is_no_pass(files, tmp_path, budget, code):
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(files[0].read_bytes()[:40])
    paths = map(str, (*files[:2], cut))
    result = CliRunner().invoke(app, ["compare", *paths, "--seconds", "0.05", *budget, "--json"])
    assert result.exit_code == code
    found = json.loads(result.stdout)
    assert "cannot load" in found["rows"][2]["problem"]
    if budget:
        last = found["budget"]["files"][-1]
        assert (last["file"], last["verdict"]) == ("cut.onnx", "undecided")
        assert last["bounds"]["size"]["words"] == "undecided: not measured"


@pytest.mark.parametrize(("budget", "code"), [((), 0), (("--budget", "max_size=1MB"), 4)])
def test_a_missing_engine_fails_nothing_but_keeps_no_bound(files, engines, budget, code):
    engines(reason="gone")
    result = CliRunner().invoke(app, ["compare", *map(str, files), "--seconds", "0.05", *budget])
    assert result.exit_code == code
    assert "small.tflite on fake: not measured, gone" in result.stdout


def test_bench_runs_a_file_on_a_named_engine(files):
    found = json.loads(
        run("bench", str(files[0]), "--engine", "onnxruntime:spins=true", "--seconds", "0.05", "--no-memory", "--json")
    )
    assert found["runtime"].endswith("(spinning)")


def test_an_engine_is_read_with_its_settings():
    assert engine_named("onnxruntime") == OnnxRuntime()
    text = "onnxruntime:graph_level=basic,spins=true,execution=parallel,n_inter_threads=2,is_exact=false"
    assert engine_named(text) == OnnxRuntime(
        graph_level="basic", spins=True, execution="parallel", n_inter_threads=2, is_exact=False
    )
    assert engine_named("openvino:precision=int8") == OpenVinoRuntime(precision="int8")
    engine = engine_named("torch", network="dwindle.zoo.quantnet:quantnet")
    assert isinstance(engine, TorchRuntime)
    assert engine.network is quantnet


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("openvin", "unknown engine; the nearest known one is 'openvino'"),
        ("", "unknown engine"),
        ("openvino:precision=f8", "'f8' is not one of"),
        ("openvino:precison=f32", "the nearest known one is 'precision'"),
        ("openvino:f32", "'f32' is no setting; write name=value"),
        ("onnxruntime:n_inter_threads=2", "no effect in sequential execution"),
        ("onnxruntime:spins=yes", "expected bool"),
        ("torch", "needs the network: --network package.module:function"),
        ("torch:a=1", "torch takes no settings"),
    ],
)
def test_an_engine_that_cannot_be_is_refused(text, message):
    with pytest.raises(SettingError, match=message):
        engine_named(text)


def test_bench_measures_what_openvino_runs(tmp_path, files):
    pytest.importorskip("openvino", reason="needs openvino")
    from dwindle.exporters.openvino import convert

    convert(files[0], tmp_path / "big.xml")
    measured = measure_file(tmp_path / "big.xml", plan=replace(QUICK, memory=True))
    assert measured.find("latency").runtime == OpenVinoRuntime().name
    assert measured.find("memory_peak").value > measured.find("memory_baseline").value
