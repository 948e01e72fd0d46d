"""This file tests what `bench` and `compare` add on request: energy, and verdicts on a budget with their exit codes."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from dwindle.bench.any_file import measure_file
from dwindle.bench.energy.sensor import Joules
from dwindle.bench.measure import Measured
from dwindle.bench.measurement import ENERGY
from dwindle.bench.plan import Plan
from dwindle.bench.probes.energy import PROTOCOL, EnergyProtocol
from dwindle.bench.protocol import LatencyProtocol
from dwindle.cli.figures import print_measurements
from dwindle.cli.main import app
from dwindle.errors import MeasurementError

QUICK = ["--seconds", "0.05", "--no-memory"]


class Meter:
    """A sensor of 2 W while it is looked at, by the looks."""

    name, covers, update_seconds = "meter", "a made-up board", 0.001

    @contextmanager
    def opened(self) -> Generator[Joules]:
        looks = iter(range(1_000_000))
        yield lambda: 0.5 * next(looks) ** 2


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    weight = numpy_helper.from_array(np.ones((8, 3), np.float32), "w")
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 8), ("y", 3))
    ]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", values[:1], values[1:], [weight])
    path = tmp_path_factory.mktemp("made") / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def measured(file: Path) -> Measured:
    """What a verdict rests on, measured once."""
    return measure_file(file, plan=Plan(latency=LatencyProtocol(seconds=0.05)))


def sensors(monkeypatch: pytest.MonkeyPatch, *found: object) -> None:
    for place in ("find.find_sensors",):
        monkeypatch.setattr(f"dwindle.bench.energy.{place}", lambda *_: found)


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, arguments)
    return done.exit_code, done.output


def test_without_a_sensor_energy_is_an_estimate_on_a_line_of_its_own(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sensors(monkeypatch)
    code, output = run("bench", str(file), *QUICK, "--energy")
    assert code == 0
    assert "no sensor of energy here; an estimate, not a measurement" in output
    code, output = run("bench", str(file), *QUICK, "--energy", "--json")
    found = json.loads(output)
    assert found["energy_estimates"]["net.onnx"]["unit"] == "mJ"
    assert "energy" not in found["measurements"]


def test_with_a_sensor_energy_is_measured(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sensors(monkeypatch, Meter())
    quick = EnergyProtocol(n_blocks=3, seconds=0.01, n_updates=1, settle_seconds=0.0)
    found = measure_file(file, plan=Plan(latency=None, energy=True, energy_protocol=quick)).find(ENERGY.name)
    assert found.protocol == PROTOCOL
    assert found.conditions["sensor"] == "meter"
    sensors(monkeypatch)
    with pytest.raises(MeasurementError, match="no energy sensor can be read on this machine"):
        measure_file(file, plan=Plan(latency=None, energy=True))


@pytest.mark.parametrize(
    ("budget", "code", "words"),
    [
        ("max_size=1MB,max_latency=60s", 0, "met"),
        ("max_size=1B", 3, "violated"),
        ("max_energy=1J", 4, "decides nothing"),
        ("max_energy=1J,max_size=1B", 3, "violated"),
    ],
)
def test_a_budget_decides_the_exit_code(
    budget: str, code: int, words: str, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    sensors(monkeypatch)
    monkeypatch.setattr("dwindle.bench.any_file.measure_file", lambda *_, **__: measured)
    found, output = run("bench", str(measured.artifacts[0].path), "--energy", "--budget", budget)
    assert found == code
    assert words in " ".join(output.split())


def test_a_comparison_judges_both_files(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(file.read_bytes())
    code, output = run("compare", str(file), str(other), *QUICK, "--budget", "max_size=1B", "--json")
    found = json.loads(output)["budget"]
    assert code == 3
    assert found["verdict"] == "violated"
    assert [one["bounds"]["size"]["verdict"] for one in found["files"]] == ["violated"] * len(found["files"])


def test_a_drop_is_judged_on_the_file_that_may_have_lost_something(file: Path, tmp_path: Path) -> None:
    data, other = tmp_path / "data.npz", tmp_path / "other.onnx"
    model = onnx.load(file)
    model.producer_name = "another"
    onnx.save(model, other)
    np.savez(data, x=np.random.default_rng(0).standard_normal((400, 8)).astype(np.float32), targets=np.arange(400) % 3)
    bounds = "max_accuracy_drop=90,min_accuracy=1%,max_size=60KB"
    done = ("compare", str(file), str(other), *QUICK, "--data", str(data), "--budget", bounds)
    code, output = run(*done)
    assert code == 0
    assert "the reference" in output
    assert "accuracy_drop at most 90 points" in " ".join(output.split())
    assert "size at most 60,000 bytes" in " ".join(output.split())


def test_names_in_brackets_are_shown_as_they_are(measured: Measured, capsys: pytest.CaptureFixture[str]) -> None:
    print_measurements({"net[red].onnx": measured.measurements})
    assert "net[red].onnx" in capsys.readouterr().out


def test_a_budget_that_says_nothing_stops_before_anything_is_measured(file: Path) -> None:
    done = CliRunner().invoke(app, ["bench", str(file), "--budget", "max_siz=1B"])
    assert done.exit_code != 0
    assert "unknown key 'max_siz'" in str(done.exception)
