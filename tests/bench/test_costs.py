"""This file tests what running a file costs: memory of fresh processes, throughput, processor time, time to load."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from dwindle.artifact import Artifact
from dwindle.bench.measurement import Subject
from dwindle.bench.probes import memory, memory_child
from dwindle.bench.probes.memory import MemoryProtocol, footprints, measure_memory
from dwindle.bench.probes.speed import measure_cpu_time, measure_load_time, measure_throughput
from dwindle.bench.protocol import Timing
from dwindle.errors import MeasurementError, SettingError
from dwindle.runtimes.fake import FakeClock, FakeRuntime
from dwindle.runtimes.onnxruntime import OnnxRuntime
from dwindle.runtimes.protocol import Array, Session

SUBJECT = Subject(artifact="f" * 64, runtime="fake", machine="m")
ANY_FILE = Artifact(path=Path("any.dwn"), format="dwn", sha256="f" * 64, size_bytes=1)
MEBI = 2**20


def matmul_file(path: Path, width: int) -> Artifact:
    """Write y = x @ w with (width, width) weights."""
    rng = np.random.default_rng(0)
    weights = onnx.numpy_helper.from_array(rng.standard_normal((width, width), dtype=np.float32), "w")
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", sides[:1], sides[1:], [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return Artifact.of(path)


def test_the_memory_of_a_fresh_process_knows_the_weights(tmp_path: Path) -> None:
    artifact = matmul_file(tmp_path / "m.onnx", 1024)  # 4 MiB of weights
    inputs = (np.zeros((2, 1024), dtype=np.float32),)
    protocol = MemoryProtocol(n_processes=2, n_runs=1)
    found = {
        m.metric.name: m for m in measure_memory(SUBJECT, artifact, inputs, runtime=OnnxRuntime(), protocol=protocol)
    }
    assert found.keys() == {"memory_peak", "memory_added", "memory_loaded", "memory_baseline"}
    assert found["memory_added"].value >= 4 * MEBI
    assert found["memory_peak"].value == pytest.approx(found["memory_baseline"].value + found["memory_added"].value)
    assert found["memory_peak"].n == 2
    assert found["memory_peak"].value < 300 * MEBI  # torch alone would take that
    assert found["memory_peak"].conditions["batch"] == 2


def test_a_child_that_fails_is_one_error_with_its_last_words(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model at all")
    with pytest.raises(
        MeasurementError, match=r"(?s)memory of .*broken\.onnx failed with code 1; its last words: .*cannot load"
    ):
        footprints(Artifact.of(path), (), runtime=OnnxRuntime(), protocol=MemoryProtocol())


def run_instead(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    real = memory.subprocess.run
    monkeypatch.setattr(memory.subprocess, "run", lambda command, **rest: real([sys.executable, "-c", code], **rest))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import time; time.sleep(30)", "took longer than 0.5 s and was stopped"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9, as happens when the memory"),
        ("print('hello')", r"ended without an answer \(.*No such file"),
        (
            "import json, sys; open(json.load(sys.stdin)['answer'], 'w').write('1')",
            r"ended without an answer \(.*must be a mapping",
        ),
        ("raise SystemExit(3)", "failed with code 3; its last words: it said nothing"),
    ],
)
def test_a_child_that_hangs_dies_or_babbles_is_one_error(
    code: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_instead(monkeypatch, code)
    seconds = 0.5 if "sleep" in code else 60
    with pytest.raises(MeasurementError, match=message):
        footprints(ANY_FILE, (np.zeros(1),), runtime=OnnxRuntime(), protocol=MemoryProtocol(timeout_seconds=seconds))


def test_an_engine_that_a_fresh_process_cannot_build_is_named() -> None:
    with pytest.raises(MeasurementError, match=r"can build OnnxRuntime.* but not FakeRuntime"):
        footprints(ANY_FILE, (), runtime=FakeRuntime(), protocol=MemoryProtocol())


def test_the_child_reports_in_this_process_too(tmp_path: Path) -> None:
    artifact = matmul_file(tmp_path / "m.onnx", 8)
    np.savez(tmp_path / "in.npz", x=np.zeros((1, 8), dtype=np.float32))
    orders = {"engine": "OnnxRuntime", "settings": {"is_exact": True}, "path": str(artifact.path), "format": "onnx",
              "inputs": str(tmp_path / "in.npz"), "n_threads": 1, "n_runs": 2}  # fmt: skip
    found = memory_child.run(orders)
    assert 0 < found["baseline"] <= found["peak"]
    assert found["source"] == memory_child.source()


@pytest.mark.parametrize(("engine", "has_torch"), [("OnnxRuntime", False), ("ExecuTorchRuntime", True)])
def test_it_is_said_whether_an_engine_brings_torch_along(engine: str, has_torch: bool, tmp_path: Path) -> None:
    if has_torch and importlib.util.find_spec("executorch") is None:
        pytest.skip("executorch is not installed")
    artifact = matmul_file(tmp_path / "m.onnx", 8)
    np.savez(tmp_path / "in.npz", x=np.zeros((1, 8), dtype=np.float32))
    orders = {"engine": engine, "settings": {}, "path": str(artifact.path), "format": "onnx",
              "inputs": str(tmp_path / "in.npz"), "n_threads": 1, "n_runs": 1}  # fmt: skip
    code = (
        "import json, sys\n"
        "from dwindle.bench.probes import memory_child as child\n"
        "from dwindle.runtimes.onnxruntime import OnnxRuntime\n"
        "orders = json.loads(sys.argv[1])\n"
        "build = child.ENGINES[orders['engine']]\n"
        # the engine is imported as it is for its own files; the file is run by another
        "ran = dict(child.ENGINES, **{orders['engine']: lambda settings: build(settings) and OnnxRuntime()})\n"
        "child.ENGINES = ran\n"
        "print(json.dumps(child.run(orders)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(orders)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["has_torch"] is has_torch


def test_torch_in_the_baseline_is_a_condition_of_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"baseline": 300, "loaded": 310, "peak": 320, "source": "VmHWM", "has_torch": True}
    write = "import json, sys; open(json.load(sys.stdin)['answer'], 'w').write({!r}); print('an engine may babble')"
    run_instead(monkeypatch, write.format(json.dumps(answer)))
    found = measure_memory(SUBJECT, ANY_FILE, (np.zeros(()),), runtime=OnnxRuntime())
    assert {m.conditions["batch"] for m in found} == {1}  # of a scalar
    assert {m.conditions["baseline_holds"] for m in found} == {"torch"}
    assert next(m for m in found if m.metric.name == "memory_added").value == 20


def test_where_the_system_has_no_status_file_the_peak_stands_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory_child, "_STATUS", tmp_path / "absent")
    assert memory_child.source() == "getrusage"
    assert memory_child.resident_bytes() == memory_child.peak_bytes() > MEBI


@pytest.mark.parametrize(
    "wrong", [{"n_processes": 1}, {"n_runs": 0}, {"timeout_seconds": 0}, {"timeout_seconds": np.inf}]
)
def test_memory_protocols_that_cannot_work_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(SettingError, match="n_processes must be at least 2"):
        MemoryProtocol(**wrong)  # type: ignore[arg-type]


def test_throughput_is_the_batch_over_the_latency() -> None:
    timing = Timing(samples_ms=(9.0, 10.0, 11.0), level=0.95, stopped_by="interval")
    found = measure_throughput(SUBJECT, timing, batch=20, protocol="latency")
    assert found.value == pytest.approx(2000)
    assert found.low == pytest.approx(20e3 / timing.mean.high)
    assert found.high == pytest.approx(20e3 / timing.mean.low)
    wild = measure_throughput(
        SUBJECT, Timing(samples_ms=(1.0, 1.0, 100.0), level=0.95, stopped_by="time"), batch=1, protocol="latency"
    )
    assert wild.low < wild.value < wild.high == pytest.approx(1000)
    assert wild.conditions["unstable"] == "yes"


def test_no_time_has_an_interval_below_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = iter([1.0, 1.0, 1.0, 1.0, 1.0, 900.0])
    clock = FakeClock()

    @contextmanager
    def load() -> Generator[Session]:
        clock.advance(next(waits) / 1e3)
        yield None  # type: ignore[misc]

    found = measure_load_time(SUBJECT, load, clock=clock)
    assert found.value == pytest.approx(904 / 5)
    assert found.low == 0


@pytest.mark.parametrize("latency_ms", [0.01, 3.0, 400.0])
def test_processor_time_is_that_of_one_call(latency_ms: float) -> None:
    runtime = FakeRuntime(latency_ms=latency_ms, noise=0.1)
    with runtime.load(ANY_FILE) as session:
        found = measure_cpu_time(SUBJECT, session, (np.zeros(1),), clock=runtime.clock)
    assert found.value == pytest.approx(latency_ms, rel=0.1)
    assert found.n == 10


def test_a_clock_of_processor_time_that_stands_still_is_an_error() -> None:
    with FakeRuntime().load(ANY_FILE) as session, pytest.raises(MeasurementError, match="took no processor time"):
        measure_cpu_time(SUBJECT, session, (np.zeros(1),), clock=FakeClock())


def test_the_first_load_is_not_timed() -> None:
    clock, seconds = FakeClock(), iter([9.0, 1.0, 1.0, 1.0, 1.0, 2.0])

    class Slow:
        def __enter__(self) -> Slow:
            clock.advance(next(seconds))
            return self

        def __exit__(self, *_: object) -> None:
            clock.advance(100.0)

        input_names = ("x",)

        def run(self, *inputs: Array) -> tuple[Array, ...]:
            return inputs

    found = measure_load_time(SUBJECT, Slow, clock=clock)
    assert found.value == pytest.approx(1200)
    assert found.n == 5
