"""This file tests the whole measurement: on real files, and on a fake engine where the truth is known."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from dwindle.artifact import Artifact
from dwindle.bench.deployment import Deployment, deploy
from dwindle.bench.ledger import Ledger
from dwindle.bench.measure import Measured, Plan, measure, record
from dwindle.bench.protocol import LatencyProtocol
from dwindle.errors import DataError, MeasurementError, RuntimeUnavailableError, SettingError
from dwindle.network.compressed import CompressedModel
from dwindle.runtimes.fake import FakeClock, FakeRuntime
from dwindle.runtimes.protocol import Array, Session

QUICK = Plan(latency=LatencyProtocol(max_repeats=30))
N = 40
CLASSES = torch.arange(N) % 6


@dataclass(frozen=True)
class PerFile:
    """A fake engine that treats each file in its own way, all on one clock."""

    by_stem: dict[str, FakeRuntime]
    name: str = "fake"
    formats: tuple[str, ...] = ("dwn",)
    reason: str | None = None

    def unavailable(self) -> str | None:
        return self.reason

    def load(self, artifact: Artifact, *, n_threads: int = 1) -> AbstractContextManager[Session]:
        return self.by_stem[artifact.path.stem].load(artifact, n_threads=n_threads)


def wrong_on(n_wrong: int, n_classes: int = 6):  # type: ignore[no-untyped-def]
    def outputs(x: Array) -> tuple[Array, ...]:
        numbers = x[:, 0].astype(int)
        answers = np.where(numbers < n_wrong, numbers + 1, numbers) % n_classes
        return (np.eye(n_classes, dtype=np.float32)[answers],)

    return outputs


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Artifact]:
    for name, size in {"dense.dwn": 4000, "small.dwn": 400, "small.onnx": 800}.items():
        (tmp_path / name).write_bytes(bytes(size))
    return {path.name: Artifact.of(path) for path in tmp_path.iterdir()}


@pytest.fixture
def engine() -> PerFile:
    clock = FakeClock()
    dense = FakeRuntime(latency_ms=6.0, noise=0.05, clock=clock, seed=1, outputs=wrong_on(2))
    small = FakeRuntime(latency_ms=2.0, noise=0.05, clock=clock, seed=2, outputs=wrong_on(6))
    return PerFile({"dense": dense, "small": small})


def plan_of(engine: PerFile) -> Plan:
    return replace(QUICK, clock=engine.by_stem["dense"].clock, batch_size=16)


DATA = TensorDataset(torch.arange(N).float()[:, None], CLASSES)


@pytest.fixture
def measured(files: dict[str, Artifact], engine: PerFile) -> Measured:
    artifacts = {"onnx": files["small.onnx"], "dwn": files["small.dwn"]}
    target = Deployment(artifacts=artifacts, n_dense_weights=1000)
    return measure(target, DATA, runtime=engine, dense=files["dense.dwn"], plan=plan_of(engine))


def test_everything_is_measured_on_the_file_that_the_engine_loads(
    measured: Measured, files: dict[str, Artifact]
) -> None:
    assert [artifact.path.name for artifact in measured.artifacts] == ["small.dwn", "small.onnx"]
    assert measured.find("size").value == 400
    assert measured.find("compression_ratio").value == 10
    assert {m.value for m in measured.measurements if m.metric.name == "size"} == {400, 800}
    assert measured.find("accuracy").value == pytest.approx(1 - 6 / N)
    drop = measured.find("accuracy_drop")
    assert drop.value == pytest.approx(100 * 4 / N)
    assert drop.low < drop.value < drop.high
    assert measured.find("speedup").low <= 3.0 <= measured.find("speedup").high
    assert measured.find("latency").value == pytest.approx(2.0, rel=0.1)
    assert {measured.find(name).protocol for name in ("latency", "latency_p90", "speedup")} == {"latency, interleaved"}
    for name in ("accuracy", "latency", "accuracy_drop", "speedup"):
        assert measured.find(name).artifact == files["small.dwn"].sha256
    assert measured.samples is not None
    assert measured.samples.samples_ms
    assert measured.confusion is not None
    assert measured.confusion.sum() == N
    assert np.trace(measured.confusion) == N - 6


def test_the_dense_file_is_measured_beside_it(measured: Measured, files: dict[str, Artifact]) -> None:
    dense = measured.dense
    assert dense is not None
    assert dense.artifacts == (files["dense.dwn"],)
    assert dense.find("accuracy").value == pytest.approx(1 - 2 / N)
    assert dense.find("latency").value == pytest.approx(6.0, rel=0.1)
    assert dense.find("compression_ratio").value == 1.0
    assert {m.artifact for m in dense.measurements} == {files["dense.dwn"].sha256}
    with pytest.raises(
        MeasurementError, match=r"'accuracy_dorp' was not measured; the nearest known one is 'accuracy'"
    ):
        dense.find("accuracy_dorp")


def test_a_single_file_is_measured_alone(files: dict[str, Artifact], engine: PerFile) -> None:
    found = measure(files["small.dwn"], DATA, runtime=engine, plan=plan_of(engine))
    names = [m.metric.name for m in found.measurements]
    assert names == ["size", "accuracy", "top5_accuracy", "latency", "latency_median", "latency_p90"]
    assert found.dense is None


def test_a_dense_file_that_the_engine_does_not_load_answers_on_its_own(
    files: dict[str, Artifact], engine: PerFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(engine, name="other 1.0", formats=("onnx",))
    monkeypatch.setattr("dwindle.bench.measure.engine_for", lambda file_format: engine)
    found = measure(files["small.onnx"], DATA, runtime=other, dense=files["dense.dwn"], plan=plan_of(engine))
    drop = found.find("accuracy_drop")
    assert (drop.value, drop.n, drop.runtime) == (pytest.approx(100 * 4 / N), N, "other 1.0")
    assert drop.conditions["baseline"] == files["dense.dwn"].sha256
    assert drop.conditions["baseline_runtime"] == "fake"
    assert found.find("latency").protocol == "latency"
    assert found.dense is not None
    assert {m.metric.name for m in found.dense.measurements}.isdisjoint({"latency", "latency_median", "speedup"})
    assert "speedup" not in {m.metric.name for m in found.measurements}


def test_latency_can_be_left_out(files: dict[str, Artifact], engine: PerFile) -> None:
    found = measure(files["small.dwn"], DATA, runtime=engine, dense=files["dense.dwn"], plan=Plan(latency=None))
    assert found.samples is None
    assert {"latency", "speedup"}.isdisjoint(m.metric.name for m in found.measurements)
    assert found.find("accuracy_drop").n == N


def test_data_that_can_be_read_only_once_is_enough(files: dict[str, Artifact], engine: PerFile) -> None:
    def once() -> Iterator[tuple[Array, Array]]:
        for start in range(0, N, 10):
            yield np.arange(start, start + 10.0)[:, None], CLASSES[start : start + 10].numpy()

    found = measure(files["small.dwn"], once(), runtime=engine, dense=files["dense.dwn"], plan=plan_of(engine))
    assert found.find("accuracy").n == N


def test_the_ledger_holds_all_of_it(measured: Measured, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    record(ledger, measured, class_names=tuple("abcdef"))
    entries = ledger.read()
    by_kind = {kind: [e.data for e in entries if e.kind == kind] for kind in {e.kind for e in entries}}
    assert by_kind.keys() == {"artifact", "measurement", "latency_samples", "confusion"}
    assert [(a["role"], a["path"], a["size_bytes"]) for a in by_kind["artifact"]] == [
        ("dense", "dense.dwn", 4000), ("compressed", "small.dwn", 400), ("compressed", "small.onnx", 800),
    ]  # fmt: skip
    found = {(m["role"], m["metric"]["name"]): m for m in by_kind["measurement"]}
    assert found["compressed", "accuracy_drop"]["value"] == measured.find("accuracy_drop").value
    assert found["dense", "accuracy"]["metric"] == {"name": "accuracy", "unit": "fraction", "better": 1}
    assert "type" not in found["dense", "accuracy"]
    assert len(by_kind["measurement"]) == len(measured.measurements) + len(measured.dense.measurements)  # type: ignore[union-attr]
    samples = by_kind["latency_samples"][1]
    assert samples.keys() == {"role", "artifact", "runtime", "n_threads", "batch", "samples_ms"}
    assert tuple(samples["samples_ms"]) == measured.samples.samples_ms  # type: ignore[union-attr]
    confusion = by_kind["confusion"][1]
    assert confusion["class_names"] == list("abcdef")
    assert np.sum(confusion["counts"]) == N


def test_classes_without_names_are_numbered(files: dict[str, Artifact], engine: PerFile, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    record(ledger, measure(files["small.dwn"], DATA, runtime=engine, plan=Plan(latency=None)), role="dense")
    (confusion,) = (e.data for e in ledger.read() if e.kind == "confusion")
    assert confusion["class_names"] == ["0", "1", "2", "3", "4", "5"]
    assert {e.data["role"] for e in ledger.read()} == {"dense"}


def test_an_engine_that_cannot_is_named(files: dict[str, Artifact], engine: PerFile) -> None:
    with pytest.raises(MeasurementError, match=r"fake loads dwn, but there is only small\.onnx; deploy another format"):
        measure(files["small.onnx"], DATA, runtime=engine)
    with pytest.raises(MeasurementError, match="there is only no file"):
        measure(Deployment(artifacts={}, n_dense_weights=1), DATA, runtime=engine)
    with pytest.raises(RuntimeUnavailableError, match="pip install fake"):
        measure(files["small.dwn"], DATA, runtime=replace(engine, reason="fake is missing: pip install fake"))
    with pytest.raises(SettingError, match="unknown runtime 'onnxruntim'; the nearest known one is 'onnxruntime'"):
        measure(files["small.dwn"], DATA, runtime="onnxruntim")


def test_a_batch_too_small_to_time_is_an_error(files: dict[str, Artifact], engine: PerFile) -> None:
    plan = replace(plan_of(engine), latency_batch=32)
    with pytest.raises(DataError, match="latency_batch = 32, but the first batch holds 16 examples"):
        measure(files["small.dwn"], DATA, runtime=engine, plan=plan)


def test_a_file_of_another_day_is_refused(files: dict[str, Artifact], engine: PerFile) -> None:
    files["dense.dwn"].path.write_bytes(b"other")
    with pytest.raises(MeasurementError, match=r"dense\.dwn has changed since it was exported"):
        measure(files["small.dwn"], DATA, runtime=engine, dense=files["dense.dwn"])


@pytest.mark.parametrize(
    "wrong", [{"n_threads": 0}, {"n_threads": 100_000}, {"batch_size": 0}, {"latency_batch": 0}, {"scores": ()}]
)
def test_plans_that_cannot_work_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingError, match=r"must be at least 1|must be at most 1024|scores is empty"):
        Plan(**wrong)  # type: ignore[arg-type]


# Real files


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 6)).eval()


def test_real_files_answer_as_the_model_does_and_refuse_other_shapes(tmp_path: Path) -> None:
    model = CompressedModel.dense(network())
    inputs = torch.randn(N, 1, 6, 6)
    deployment = deploy(model, inputs[:2], tmp_path)
    with torch.no_grad():
        right = (model.network(inputs).argmax(1) == CLASSES).double().mean().item()
    found = measure(deployment, TensorDataset(inputs, CLASSES), dense=deployment.artifacts["onnx"], plan=QUICK)
    assert found.find("accuracy").value == pytest.approx(right)
    assert found.find("accuracy_drop").value == 0
    assert found.find("parity").value < 1e-5
    assert found.find("accuracy").runtime.startswith("onnxruntime ")
    assert found.find("size").value == deployment.artifacts["dwn"].path.stat().st_size
    data = TensorDataset(torch.randn(N, 3, 6, 6), CLASSES)
    for name, artifact in deployment.artifacts.items():
        with pytest.raises(DataError, match=rf"model\.{name} cannot run the inputs of batch 0.*shape \(32, 3, 6, 6\)"):
            measure(artifact, data, plan=Plan(batch_size=32))
