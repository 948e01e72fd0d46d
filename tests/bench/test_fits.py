"""This file tests which file fits on which device, for plain sizes and for files, down to the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from torch import nn
from typer.testing import CliRunner

import dwindle as dw
from dwindle.artifact import Artifact
from dwindle.bench.devices import Device, devices
from dwindle.bench.file_needs import Needs, needs_of
from dwindle.bench.fits import Fit, Room, Verdict, fit_rows, fits
from dwindle.bench.measurement import LATENCY, Estimate
from dwindle.bench.probes.planned_memory import Planned
from dwindle.cli.main import app
from dwindle.container import Contents, write
from dwindle.container.inspect import inspect_file
from dwindle.container.records import AffineRecord, DenseRecord
from dwindle.errors import ContainerError, MeasurementError, RuntimeUnavailableError, SettingError
from dwindle.report.fits_table import fits_markdown, memory_words, needs_words, ram_words, room_words, table_rows

KIB = 1_024
DEVICES = devices()
ANY_FILE = Artifact(path=Path("f.onnx"), format="onnx", sha256="0" * 64, size_bytes=1)


def device(**changes: object) -> Device:
    """Return a microcontroller with 100 KiB of flash and 10 KiB of RAM unless said otherwise."""
    plain = Device(
        name="chip", kind="microcontroller", core="a core", flash_bytes=100 * KIB, ram_bytes=10 * KIB,
        source="its datasheet", url="https://example.org/chip", checked=True,
    )  # fmt: skip
    return replace(plain, **changes)  # pyright: ignore[reportArgumentType]


SHAPES = {"conv": (8, 1, 3, 3), "first": (100, 288), "last": (4, 100)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Return one network as float and with int8 weights and activations, each as .dwn and as .onnx."""
    folder = tmp_path_factory.mktemp("files")
    generator = np.random.default_rng(0)
    weights = {name: generator.standard_normal(shape, dtype=np.float32) for name, shape in SHAPES.items()}
    codes = {name: np.clip(np.round(40 * value), -127, 127).astype(np.int8) for name, value in weights.items()}
    scale, zero = np.array(0.025, dtype=np.float32), np.array(0, dtype=np.int8)
    parts = {f"{n}/codes": c for n, c in codes.items()} | {f"{n}/scale": scale for n in codes}
    parts |= {f"{n}/zero_point": zero for n in codes}
    dense = {name: DenseRecord(value) for name, value in weights.items()}
    int8 = {name: AffineRecord(c, scale, zero, ("tensor",), 8, signed=True) for name, c in codes.items()}
    for name, arrays, records in (("dense", weights, dense), ("int8", parts, int8)):
        model = _model(arrays, is_integer=name == "int8")
        onnx.save(model, folder / f"{name}.onnx")
        for tensor in model.graph.initializer:
            if tensor.name in arrays:
                tensor.ClearField("raw_data")
                tensor.data_location = onnx.TensorProto.EXTERNAL
        write(folder / f"{name}.dwn", Contents(records, {}, model.SerializeToString(), {}))
    return {path.name: path for path in folder.iterdir()}


QUANTIZER = ("s", "z")
LAYERS: Sequence[tuple[str, tuple[str, ...]]] = (
    ("QuantizeLinear", QUANTIZER), ("DequantizeLinear", QUANTIZER), ("Conv", ("conv",)), ("Relu", ()),
    ("QuantizeLinear", QUANTIZER), ("DequantizeLinear", QUANTIZER), ("Flatten", ()), ("Gemm", ("first",)), ("Relu", ()),
    ("QuantizeLinear", QUANTIZER), ("DequantizeLinear", QUANTIZER), ("Gemm", ("last",)),
    ("QuantizeLinear", QUANTIZER), ("DequantizeLinear", QUANTIZER),
)  # fmt: skip


def _model(arrays: Mapping[str, np.ndarray], *, is_integer: bool) -> onnx.ModelProto:
    """Return the network of `LAYERS`; without quantizers unless `is_integer`."""
    layers = [layer for layer in LAYERS if is_integer or layer[1] != QUANTIZER]
    nodes = [
        helper.make_node(op, [f"v{i}", *constants], [f"v{i + 1}"], **({"transB": 1} if op == "Gemm" else {}))
        for i, (op, constants) in enumerate(layers)
    ]
    shared = {"s": np.array(0.1, dtype=np.float32), "z": np.array(0, dtype=np.int8)} if is_integer else {}
    decoded = [
        helper.make_node("DequantizeLinear", [f"{name}/{part}" for part in ("codes", "scale", "zero_point")], [name])
        for name in (SHAPES if is_integer else ())
    ]
    graph = helper.make_graph(
        [*decoded, *nodes],
        "g",
        [helper.make_tensor_value_info("v0", onnx.TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info(f"v{len(layers)}", onnx.TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(array, name) for name, array in {**arrays, **shared}.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


# Room


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(1, 1 << 40), st.floats(0, 0.99))
def test_what_is_smaller_never_fits_less(a: int, b: int, memory: int, reserve: float) -> None:
    small, large = (Room(needed_bytes=n, memory_bytes=memory, reserve=reserve) for n in sorted((a, b)))
    assert small.verdict is Verdict.FITS or large.verdict is Verdict.DOES_NOT_FIT


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.sampled_from([0.0, 0.1, 0.5]))
def test_a_smaller_file_never_fits_fewer_devices(a: int, b: int, reserve: float) -> None:
    small, large = sorted((a, b))
    rows = fit_rows({"small": small, "large": large}, DEVICES, reserve=reserve)
    for memory in ("flash", "ram"):
        counts = [
            sum(getattr(fit, memory).verdict is Verdict.FITS for fit in rows if fit.name == name)
            for name in ("small", "large")
        ]
        assert counts[0] >= counts[1]


def test_a_room_is_filled_to_the_last_byte() -> None:
    assert Room(needed_bytes=100, memory_bytes=100).verdict is Verdict.FITS
    assert Room(needed_bytes=101, memory_bytes=100).verdict is Verdict.DOES_NOT_FIT
    assert Room(needed_bytes=50, memory_bytes=100, reserve=0.5).verdict is Verdict.FITS
    assert Room(needed_bytes=51, memory_bytes=100, reserve=0.5).verdict is Verdict.DOES_NOT_FIT
    assert Room(needed_bytes=51, memory_bytes=100, reserve=0.5).share == 0.51
    assert Room(needed_bytes=50, memory_bytes=100, is_least=True).verdict is Verdict.UNKNOWN
    assert Room(needed_bytes=101, memory_bytes=100, is_least=True).verdict is Verdict.DOES_NOT_FIT
    assert (
        Room(needed_bytes=None, memory_bytes=100).verdict
        is Room(needed_bytes=1, memory_bytes=None).verdict
        is Verdict.UNKNOWN
    )


@pytest.mark.parametrize("reserve", [-0.1, 1.0, 2.0, float("nan"), float("inf")])
def test_a_reserve_is_a_share(reserve: float) -> None:
    with pytest.raises(SettingError, match="reserve must be a share"):
        fit_rows({"x": 1}, reserve=reserve)


def test_table_1_of_tian_et_al() -> None:
    """As printed, no network fits a microcontroller, and all fit watches and phones."""
    sizes = {"ResNet18": 45_000_000, "AlexNet": 235_000_000, "VGG11": 500_000_000, "VGG19": 550_000_000}
    rows = fit_rows(sizes)
    by_kind = {
        kind: {fit.ram.verdict for fit in rows if fit.device.kind == kind}
        for kind in ("microcontroller", "watch", "phone")
    }
    assert by_kind["microcontroller"] == {Verdict.DOES_NOT_FIT}
    assert by_kind["watch"] == by_kind["phone"] == {Verdict.FITS}
    zero = {fit.name: fit.ram.verdict for fit in rows if fit.device.name == "Raspberry Pi Zero"}
    assert zero["ResNet18"] is Verdict.FITS  # the 8 MB that are printed would not hold it
    assert zero["VGG19"] is Verdict.DOES_NOT_FIT


def test_a_negative_size_is_an_error() -> None:
    with pytest.raises(SettingError, match="cannot have -1 bytes"):
        fit_rows({"x": -1})
    assert fit_rows({}) == ()
    assert fit_rows({"x": 1}, ()) == ()


# Files


def test_both_formats_of_a_model_ask_for_the_same_memory(files: Mapping[str, Path]) -> None:
    for name in ("dense", "int8"):
        dwn, converted = (needs_of(files[f"{name}.{suffix}"]) for suffix in ("dwn", "onnx"))
        assert dwn.weights == converted.weights
        assert dwn.activations == converted.activations
        assert dwn.file_bytes == files[f"{name}.dwn"].stat().st_size
        assert not dwn.unknown + converted.unknown


def test_the_figures_are_estimates_and_right(files: Mapping[str, Path]) -> None:
    dense, int8 = needs_of(files["dense.onnx"]), needs_of(files["int8.onnx"])
    assert isinstance(dense.weights, Estimate)
    assert isinstance(dense.activations, Estimate)
    assert isinstance(int8.weights, Estimate)
    assert isinstance(int8.activations, Estimate)
    n_weights = 72 + 28_800 + 400
    assert dense.weights.value == 4 * n_weights
    assert int8.weights.value == n_weights + 3 * 5 + 5  # a scale and a zero point each, one pair for all activations
    assert inspect_file(files["int8.dwn"]).runtime_bytes == n_weights + 3 * 5
    assert dense.activations.value == 4 * (288 + 100)
    assert int8.activations.value == 288 + 100


@pytest.mark.slow
def test_both_formats_of_an_exported_network_ask_for_the_same_memory(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)).eval()
    inputs = torch.randn(8, 1, 8, 8)
    context = dw.Context(example=inputs[:1], calibration=[inputs])
    int8 = dw.Recipe((dw.QuantizeStatic(),)).run(dw.CompressedModel.dense(network), context)
    found = dw.deploy(int8, inputs[:2], tmp_path).artifacts
    assert needs_of(found["dwn"]).weights == needs_of(found["onnx"]).weights
    activations = needs_of(found["dwn"]).activations
    assert activations == needs_of(found["onnx"]).activations
    assert activations is not None
    assert (
        activations.value == 288 + 4 * 288
    )  # the last layer answers in floats, so its input is decoded beside its codes


def test_a_chip_may_hold_the_weights_in_flash_where_its_ram_is_too_small(files: Mapping[str, Path]) -> None:
    (fit,) = fits(files["int8.dwn"], [device()])
    assert fit.flash.verdict is Verdict.FITS
    assert fit.ram.verdict is Verdict.DOES_NOT_FIT
    assert fit.fits_in_place
    assert ram_words(fit).startswith("with weights in flash (")
    (board,) = fits(files["int8.dwn"], [device(kind="board")])
    assert not board.fits_in_place
    assert ram_words(board).startswith("does not fit, ")
    (tiny,) = fits(files["int8.dwn"], [device(flash_bytes=20 * KIB)])
    assert not tiny.fits_in_place
    (full,) = fits(files["int8.dwn"], [device()], reserve=0.9)
    assert not full.fits_in_place
    (large,) = fits(files["int8.dwn"], [device(ram_bytes=KIB * KIB)])
    assert large.ram.verdict is Verdict.FITS


def test_the_arena_decides_and_not_only_what_is_alive_at_once() -> None:
    estimates = {name: Estimate(metric=LATENCY, value=value, method="made up") for name, value in (("a", 9), ("b", 11))}
    needs = Needs(file_bytes=1, weights=None, activations=estimates["a"], arena=estimates["b"])
    fit = Fit(device=device(ram_bytes=10, flash_bytes=10), name="f", needs=replace(needs, artifact=ANY_FILE))
    assert fit.activations_in_ram.verdict is Verdict.DOES_NOT_FIT
    assert fit.ram.needed_bytes == 11


def test_the_arena_of_a_file_holds_its_tensors_and_workspaces(files: Mapping[str, Path]) -> None:
    for name in ("int8.onnx", "dense.onnx"):
        needs = needs_of(files[name])
        assert needs.activations is not None
        assert needs.arena is not None
        assert needs.arena.value >= needs.activations.value
        assert "greedy by size" in needs.arena.method


def test_of_any_other_file_only_the_bytes_are_known(tmp_path: Path) -> None:
    for name in ("model.tflite", "model.safetensors", "model"):
        path = tmp_path / name
        path.write_bytes(b"x" * 20_000)
        (fit,) = fits(path, [device()])
        assert (fit.flash.verdict, fit.ram.verdict) == (Verdict.FITS, Verdict.UNKNOWN)
        assert fit.needs.unknown
        assert fit.name == name


def engine_plans(monkeypatch: pytest.MonkeyPatch, planned: Planned | Exception) -> None:
    def read(_: Artifact) -> Planned:
        if isinstance(planned, Exception):
            raise planned
        return planned

    monkeypatch.setattr("dwindle.bench.probes.planned_memory.READERS", {"tflite": read})


@pytest.mark.parametrize(
    ("is_least", "n_bytes", "ram"),
    [(False, 500, Verdict.FITS), (True, 500, Verdict.UNKNOWN), (True, 50_000, Verdict.DOES_NOT_FIT)],
)
def test_the_engine_of_a_file_tells_its_arena(
    is_least: bool, n_bytes: int, ram: Verdict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = Planned(n_bytes=n_bytes, runtime="engine 1", kernels="its own", is_least=is_least)
    engine_plans(monkeypatch, planned)
    path = tmp_path / "m.tflite"
    path.write_bytes(b"x" * 2_000)
    (fit,) = fits(path, [device()])
    assert (fit.needs.planned, fit.needs.arena) == (planned, None)  # told, and no estimate
    assert fit.activations_in_ram.verdict is ram
    assert fit.ram.verdict is (Verdict.DOES_NOT_FIT if ram is Verdict.DOES_NOT_FIT else Verdict.UNKNOWN)
    words = needs_words("m.tflite", fit.needs)
    assert ("an arena of at least" in words) is is_least
    assert "told by engine 1 (kernels: its own)" in words


@pytest.mark.parametrize(
    ("error", "unknown"),
    [
        (RuntimeUnavailableError("engine 1 is missing"), "only the bytes are known, for engine 1 is missing"),
        (MeasurementError("broken"), "its engine tells no arena of it"),
    ],
)
def test_where_no_engine_tells_the_arena_it_is_unknown(
    error: Exception, unknown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine_plans(monkeypatch, error)
    path = tmp_path / "m.tflite"
    path.write_bytes(b"x" * 2_000)
    (fit,) = fits(path, [device()])
    assert fit.needs.planned is None
    assert unknown in fit.needs.unknown
    assert fit.ram.verdict is Verdict.UNKNOWN


def test_half_a_need_says_what_does_not_fit_and_no_more() -> None:
    known = Estimate(metric=dw.Metric("weight_memory", "bytes", -1), value=20_000.0, method="m")
    artifact = Artifact(path=Path("x.onnx"), format="onnx", sha256="0", size_bytes=5)
    needs = Needs(file_bytes=5, weights=known, artifact=artifact)
    assert Fit(device=device(), name="x", needs=needs).ram.verdict is Verdict.DOES_NOT_FIT
    assert Fit(device=device(ram_bytes=30_000), name="x", needs=needs).ram.verdict is Verdict.UNKNOWN
    assert not Fit(device=device(), name="x", needs=needs).fits_in_place


def test_a_container_without_a_graph_still_has_weights(tmp_path: Path) -> None:
    path = tmp_path / "weights.dwn"
    write(path, Contents({"w": DenseRecord(np.ones((50, 30), dtype=np.float32))}, {}, b"", {}))
    needs = needs_of(path)
    assert needs.weights is not None
    assert needs.weights.value == 6_000
    assert needs.activations is None
    assert "no graph" in needs.unknown


def test_the_data_of_an_onnx_model_in_other_files_count(files: Mapping[str, Path], tmp_path: Path) -> None:
    model = onnx.load(files["dense.onnx"])
    split = tmp_path / "split.onnx"
    onnx.save(model, split, save_as_external_data=True, location="weights.bin")
    bytes_beside = (tmp_path / "weights.bin").stat().st_size
    needs = needs_of(split)
    assert needs.weights == needs_of(files["dense.onnx"]).weights
    assert needs.file_bytes == split.stat().st_size + bytes_beside


def test_hostile_files_are_one_clear_error(files: Mapping[str, Path], tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=r"absent\.dwn cannot be read"):
        fits(tmp_path / "absent.dwn")
    with pytest.raises(MeasurementError, match="cannot be read"):
        fits(tmp_path)
    broken = {
        "empty.onnx": (b"", MeasurementError, "is empty"),
        "text.onnx": (b"this is no model", MeasurementError, "is no ONNX model"),
        "nothing.onnx": (b"\x08\x08", MeasurementError, "has no outputs"),
        "cut.onnx": (files["dense.onnx"].read_bytes()[:-7], MeasurementError, "is no ONNX model"),
        "text.dwn": (b"this is no container either, but it is long enough for a frame" * 9, ContainerError, "dwn"),
        "cut.dwn": (files["int8.dwn"].read_bytes()[:-7], ContainerError, r"cut\.dwn: .*bytes; copy it again"),
    }
    for name, (data, kind, message) in broken.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(kind, match=message):
            fits(tmp_path / name)


def test_an_artifact_that_changed_is_an_error(files: Mapping[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"first")
    artifact = Artifact.of(path)
    assert fits(artifact, [device()])[0].needs.file_bytes == 5
    path.write_bytes(b"other")
    with pytest.raises(MeasurementError, match="has changed"):
        fits(artifact)


# Words and tables


def test_memories_are_written_as_they_are_sold() -> None:
    assert memory_words(1_610_612_736) == "1.50 GiB"
    assert memory_words(2_048) == "2 KiB"
    assert memory_words(1_000) == "1000 bytes"
    assert memory_words(32 * 10**9) == "32 GB"


def test_words_say_verdict_and_share() -> None:
    assert room_words(Room(needed_bytes=1, memory_bytes=1 << 30)) == "fits, < 0.1 %"
    assert room_words(Room(needed_bytes=0, memory_bytes=10)) == "fits, 0 %"
    assert room_words(Room(needed_bytes=169, memory_bytes=1)) == "does not fit, 169x"
    assert room_words(Room(needed_bytes=6, memory_bytes=10, reserve=0.5)) == "does not fit, 60.0 %"
    assert room_words(Room(needed_bytes=None, memory_bytes=10)) == "unknown"
    assert room_words(Room(needed_bytes=5, memory_bytes=10, is_least=True)) == "unknown"


def test_every_row_of_the_table_has_as_many_cells() -> None:
    rows = list(table_rows(fit_rows({"a": 45_000_000, "b|c": 600_000})))
    assert {len(row) for row in rows} == {4 + 4}
    assert len(rows) == 1 + len(devices())
    text = fits_markdown(fit_rows({"a": 45_000_000, "b|c": 600_000, "<i>": 1}))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in lines} == {4 + 6 + 1}
    assert "b\\|c, flash" in lines[0]
    assert "\\<i\\>, RAM" in lines[0]
    assert "Tian et al. (2022) print 8 MB; it has 512 MiB" in text
    assert "Apple Watch Series 8\\*" in text
    assert "no engine ran" not in text


def test_a_table_of_a_catalogue_without_published_figures_has_no_such_column() -> None:
    fitted = fit_rows({"a": 5}, [device()], reserve=0.25)
    (header, row) = table_rows(fitted)
    assert header == ("device", "flash", "RAM", "a, flash", "a, RAM")
    assert row == ("chip", "100 KiB", "10 KiB", "fits, < 0.1 %", "fits, < 0.1 %")
    text = fits_markdown(fitted)
    assert "25.0 % of each memory is reserved" in text
    assert "Nothing is reserved" not in text
    assert not fits_markdown(())


def test_what_a_file_needs_in_words(files: Mapping[str, Path]) -> None:
    words = needs_words("int8.dwn", needs_of(files["int8.dwn"]))
    assert " in flash, about 29.3 KB of weights when decoded, about 388 bytes of activations" in words
    assert needs_words("x", Needs(file_bytes=5, unknown="why")) == "x: 5 bytes in flash (why)"


# The command


def test_the_command_prints_a_table(files: Mapping[str, Path]) -> None:
    done = CliRunner().invoke(app, ["fits", str(files["int8.dwn"]), str(files["dense.onnx"])])
    assert done.exit_code == 0, done.output
    assert "Samsung Galaxy S22 Ultra" in done.output
    assert "int8.dwn, flash" in done.output
    assert "no engine ran" in done.output


def test_the_command_prints_json(files: Mapping[str, Path], tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(
        '[[device]]\nname = "a"\nkind = "board"\ncore = "c"\nram_bytes = 1000\nsource = "s"\n'
        'url = "https://example.org"\nchecked = false\n'
    )
    call = ["fits", str(files["int8.dwn"]), "--devices", str(mine), "--reserve", "0.5", "--json"]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["reserve"] == 0.5
    (file,), (entry,) = found["files"], found["devices"]
    assert file["sha256"] == Artifact.of(files["int8.dwn"]).sha256
    assert file["activations"]["estimate"] > 0
    assert "alive at once" in file["activations"]["method"]
    assert (entry["name"], entry["checked"], entry["flash_bytes"]) == ("a", False, None)
    (fit,) = entry["fits"]
    assert fit["flash"] == {
        "verdict": "unknown",
        "needed_bytes": file["file_bytes"],
        "is_least": False,
        "memory_bytes": None,
        "share": None,
    }
    assert fit["ram"]["verdict"] == "does not fit"


def test_files_of_one_name_stay_apart(files: Mapping[str, Path], tmp_path: Path) -> None:
    (tmp_path / "int8.dwn").write_bytes(files["int8.dwn"].read_bytes())
    twice = [str(files["int8.dwn"]), str(tmp_path / "int8.dwn"), str(tmp_path / "int8.dwn")]
    done = CliRunner().invoke(app, ["fits", *twice, "--json"])
    names = [file["file"] for file in json.loads(done.stdout)["files"]]
    assert names == [twice[0], f"{twice[1]} (2)", f"{twice[2]} (3)"]


def test_a_wrong_call_is_an_error_of_ours(tmp_path: Path) -> None:
    runner = CliRunner()
    assert isinstance(runner.invoke(app, ["fits", "absent.dwn"]).exception, MeasurementError)
    assert isinstance(runner.invoke(app, ["fits", "x", "--devices", "absent.toml"]).exception, SettingError)
    (tmp_path / "x").write_bytes(b"x")
    assert isinstance(runner.invoke(app, ["fits", str(tmp_path / "x"), "--reserve", "1"]).exception, SettingError)
    assert runner.invoke(app, ["fits"]).exit_code == 2
