"""This file tests that a job may ask for energy and arena: measured or estimated, never mixed, shown, and judged."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import dwindle as dw
from dwindle.artifact import Artifact
from dwindle.bench.budget import Budget, Verdict
from dwindle.bench.ledger import Ledger
from dwindle.bench.measure import Measured
from dwindle.bench.measurement import ARENA, AT_LEAST, ENERGY, SIZE, Estimate, Measurement
from dwindle.bench.probes.energy import PROTOCOL, EnergyProtocol, measure_energy
from dwindle.bench.probes.planned_memory import READERS, Planned
from dwindle.errors import MeasurementError, SettingError
from dwindle.job import estimating
from dwindle.job.check import check_job
from dwindle.job.estimating import ESTIMATE, Unmeasured
from dwindle.job.job import Data, Job
from dwindle.job.judging import judge_job
from dwindle.job.load import load_job
from dwindle.job.run import run_job
from dwindle.network.fabric_trainer import FabricTrainer
from dwindle.report.estimates import estimates_of
from dwindle.report.facts import gather
from dwindle.report.words import DASH, NO_BREAK

QUICK = EnergyProtocol(n_blocks=3, seconds=0.01, n_updates=1, settle_seconds=0.0)


class Meter:
    """A sensor of 2 W while it is looked at, by the looks."""

    name, covers, update_seconds = "meter", "a made-up board", 0.001

    @contextmanager
    def opened(self):
        looks = iter(range(1_000_000))
        yield lambda: 0.5 * next(looks) ** 2


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    torch.manual_seed(0)
    split = TensorDataset(torch.randn(24, 1, 6, 6), torch.arange(24) % 3)
    data = Data(name="made", train=split, validation=split, test=split, class_names=("a", "b", "c"))
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()

    def made(*, bounds=None, **settings):
        out = tmp_path_factory.mktemp("job")
        return Job(
            name="tiny",
            network=network,
            data=data,
            recipe=dw.Recipe((dw.PruneWeights(sparsity=0.5),)),
            trainer=FabricTrainer(train=split, validation=split, batch_size=16, learning_rate=0.01, workdir=out),
            out=out,
            latency_seconds=0.02,
            profiles_operators=False,
            budget=None if bounds is None else Budget.from_plain(bounds, where="budget"),
            **settings,
        )

    return made


def sensors(patch, *found):
    for place in ("bench.energy.find", "job.measuring"):
        patch.setattr(f"dwindle.{place}.find_sensors", lambda *_: found)


def entries(job, kind, metric):
    found = [entry.data for entry in Ledger(job.out / "ledger.jsonl").read() if entry.kind == kind]
    return [data for data in found if data["metric"] == asdict(metric)]


@pytest.fixture(scope="module")
def ran(make):
    """A job on a machine without a sensor, one of whose formats has an engine that plans an arena."""
    bounds = {"max_energy": "1 J", "max_arena": "600B", "max_size": "1MB"}
    with pytest.MonkeyPatch.context() as patch:
        sensors(patch)
        patch.setitem(READERS, "onnx", lambda _: Planned(n_bytes=640, runtime="planner 1", kernels="made up"))
        job = make(measures_energy=True, measures_arena=True, bounds=bounds)
        return job, run_job(job)


def test_without_a_sensor_energy_is_an_estimate_that_decides_nothing(ran):
    job, outcome = ran
    assert not entries(job, "measurement", ENERGY)
    found = entries(job, ESTIMATE, ENERGY)
    assert [one["role"] for one in found] == ["dense", "compressed", "compressed"]
    assert all(one["value"] > 0 and one["method"] for one in found)
    (ruled,) = [entry.data for entry in Ledger(job.out / "ledger.jsonl").read() if entry.kind == "budget"]
    assert ruled["verdicts"] == {"energy": "undecided", "arena": "violated", "size": "met"}
    page = outcome.report.read_text()
    assert "Estimated, not measured" in page
    assert "Energy of a call: at most 1,000 mJ, not measured; an estimate, " in page
    assert outcome.summary["budget_bounds"]["energy"].startswith("undecided: not measured; an estimate (")


def test_an_arena_is_told_by_its_engine_and_estimated_of_other_files(ran):
    job, outcome = ran
    told = {one["artifact"]: one for one in entries(job, "measurement", ARENA)}
    assert told[sha_of(job, "model.onnx")]["protocol"] == "engine's plan"
    guessed = entries(job, ESTIMATE, ARENA)
    assert not told.keys() & {one["artifact"] for one in guessed}
    assert sha_of(job, "model.dwn") in {one["artifact"] for one in guessed}
    assert outcome.verdict is Verdict.VIOLATED
    assert f"Memory, arena: at most 600 bytes, measured 640{NO_BREAK}bytes (model.onnx)" in outcome.report.read_text()


def sha_of(job, name):
    return Artifact.of(job.out / name).sha256


def test_with_a_sensor_energy_is_measured_and_not_estimated(make, monkeypatch):
    sensors(monkeypatch, Meter())
    monkeypatch.setattr("dwindle.bench.costs.measure_energy", quickly)
    job = make(measures_energy=True, formats=("dwn",), bounds={"max_energy": "1 nJ"})
    page = run_job(job).report.read_text()
    found = entries(job, "measurement", ENERGY)
    assert [(one["role"], one["protocol"]) for one in found] == [("dense", PROTOCOL), ("compressed", PROTOCOL)]
    assert not entries(job, ESTIMATE, ENERGY)
    assert "Energy of a call: at most" in page
    assert "Estimated, not measured" not in page


def quickly(subject, session, inputs, *, sensor, protocol):
    del protocol
    return measure_energy(subject, session, inputs, sensor=sensor, protocol=QUICK)


def test_what_cannot_be_estimated_says_why_and_nothing_is_estimated_that_nobody_asked_for(make, monkeypatch, tmp_path):
    def fail(path):
        raise MeasurementError(f"{path}: a shape is open")

    monkeypatch.setattr(estimating, "estimated_energy", fail)
    dense, file = (Artifact(path=tmp_path / f"{n}.onnx", format="onnx", sha256=n, size_bytes=1) for n in ("d", "c"))
    every, ledger = [Measured(artifacts=(file,), measurements=())], Ledger(tmp_path / "ledger.jsonl")
    assert estimating.estimate_files(make(), ledger, every, reference=dense) == ()
    assert not ledger.path.exists()
    estimating.estimate_files(make(measures_energy=True), ledger, every, reference=dense)
    assert [entry.data["unknown"] for entry in ledger.read()] == ["d.onnx: a shape is open", "c.onnx: a shape is open"]
    (guess, other) = estimates_of(gather(ledger.read()))
    assert (guess.role, guess.value, guess.how) == ("dense", DASH, "none: d.onnx: a shape is open")
    assert other.label == "Energy of a call"


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"bounds": {"max_energy": "1 mJ"}}, r"energy, .*energy = true"),
        ({"bounds": {"max_arena": "1KB"}}, r'arena, .*"tflite" or "pte": add one to formats'),
        ({"bounds": {"max_arena": "1KB"}, "measures_arena": True}, "an estimate decides nothing"),
        ({"bounds": {"max_arena": "1KB"}, "formats": ("dwn", "pte")}, r"arena = true"),
    ],
)
def test_a_bound_that_could_never_be_decided_is_refused(make, settings, remedy):
    with pytest.raises(SettingError, match=remedy):
        check_job(make(**settings))


def test_the_settings_in_a_job_file(job_folder):
    path = job_folder / "job.toml"
    assert not load_job(path).measures_energy
    path.write_text(path.read_text().replace("[output]", "[output]\nenergy = true\narena = true", 1))
    loaded = load_job(path)
    assert loaded.measures_energy
    assert loaded.measures_arena


def measurement(metric, value, *, artifact, runtime="r", **conditions):
    return Measurement(
        metric=metric, value=value, low=value, high=value, n=1, artifact=artifact, runtime=runtime, machine="m",
        protocol="p", conditions=conditions,
    )  # fmt: skip


def test_a_bound_is_judged_by_the_first_file_and_else_by_those_of_which_something_was_measured(tmp_path):
    files = [Artifact(path=tmp_path / f"m.{f}", format=f, sha256=f, size_bytes=9) for f in ("dwn", "tflite", "pte")]
    every = [
        Measured(artifacts=tuple(files), measurements=(measurement(SIZE, 5, artifact="dwn", runtime="none"),)),
        Measured(artifacts=(files[1],), measurements=(measurement(ARENA, 7, artifact="tflite"),)),
        Measured(artifacts=(files[2],), measurements=(measurement(SIZE, 99, artifact="pte"),)),
    ]
    guess = Unmeasured(
        role="compressed", file=files[0], metric=ARENA, said=Estimate(metric=ARENA, value=1.0, method="m")
    )
    judged = judge_job(Budget({"size": 6.0, "arena": 8.0, "energy": 1.0}), every, [guess])
    plain = judged.to_plain()
    assert plain["verdicts"] == {"size": "met", "arena": "met", "energy": "undecided"}
    assert plain["rests_on"] == {"size": "dwn", "arena": "tflite", "energy": "dwn"}
    assert judged.verdict is Verdict.UNDECIDED
    least = measurement(ARENA, 7, artifact="pte", **{AT_LEAST: "yes"})
    every[2] = Measured(artifacts=(files[2],), measurements=(least,))
    assert judge_job(Budget({"arena": 8.0}), every, []).verdict is Verdict.UNDECIDED
    assert judge_job(Budget({"arena": 6.0}), every, []).to_plain()["rests_on"] == {"arena": "tflite"}
