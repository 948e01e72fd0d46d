"""This file tests what is said of options that cannot work: the option as it was typed, and its value."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from dwindle.bench.plan import Plan
from dwindle.bench.protocol import LatencyProtocol
from dwindle.cli import main
from dwindle.errors import SettingError


@pytest.fixture
def call(tmp_path, monkeypatch, capfd):
    """Return a function that calls dwindle in a folder with net.onnx, of ten outputs, and data.npz."""
    monkeypatch.chdir(tmp_path)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 10]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), "net.onnx")
    np.savez("data.npz", x=np.eye(10, dtype=np.float32), targets=np.arange(10))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["dwindle", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main.run()
        told = capfd.readouterr()
        assert "Traceback" not in told.err + told.out
        return left.value.code, " ".join(told.err.split())

    return run


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("bench net.onnx --threads 0", "'--threads': 0 is below 1"),
        ("profile net.onnx --threads 0", "'--threads': 0 is below 1"),
        ("bench net.onnx --throughput-batch 0", "'--throughput-batch': 0 is below 1"),
        ("bench net.onnx --batch 0", "'--batch': 0 is below 1"),
        ("export net.dwn --batch-size 0", "'--batch-size': 0 is below 1"),
        ("bench net.onnx --seconds 0", "'--seconds': 0 is no number above 0"),
        ("bench net.onnx --seconds nan", "'--seconds': nan is no number above 0"),
        ("compare net.onnx net.onnx --level 95", "'--level': 95 does not lie between 0 and 1; write 0.99 for 99 %"),
        ("compare net.onnx net.onnx --seed -1", "'--seed': -1 is below 0"),
        ("bench net.onnx --metric accuracy", "--metric scores answers, which needs examples with targets: give --data"),
        ("compare net.onnx net.onnx --threshold 0.5", "--threshold scores answers, which needs examples"),
        ("bench net.onnx --ledger .", "'--ledger': . is a folder; name a file in it"),
        ("bench net.onnx --ledger absent/l.jsonl", "'--ledger': there is no folder absent; make it, or name another"),
    ],
)
def test_a_wrong_call_names_the_option_and_its_value(call, words, told):
    code, err = call(*words.split())
    assert code == 2
    assert told in err
    assert not Path("absent").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("bench net.onnx --engine tensorrt", "unknown engine; known: executorch, litert, onnxruntime, openvino, torch"),
        ("bench net.onnx --data data.npz --metric nonsense", "unknown metric 'nonsense'; known: accuracy, f1_macro"),
        ("bench net.onnx --engine torch --network nofile.py:network", "nofile.py; give its path from /"),
        ("bench net.onnx --budget max_sise=1", "the nearest known one is 'max_size'"),
        ("bench net.onnx --budget=", "the budget '' bounds nothing; give max_size=250KB, say, or a TOML file"),
        ("inspect net.onnx", "this is an ONNX file, no .dwn"),
        ("bench net.onnx --data data.npz --threshold 0.5", "gives several for each example; leave the threshold out"),
        ("bench net.onnx --budget max_accuracy_drop=1", "dwindle compare FILE DENSE does"),
        ("bench net.onnx --budget min_speedup=2", "dwindle compare FILE OTHER does"),
        ("bench net.onnx --budget min_accuracy=0.9", "give --data FILE.npz and --metric accuracy"),
        ("bench net.onnx --budget max_energy=1mJ", "bounds energy, which this call does not measure; add --energy"),
        ("bench net.onnx --no-memory --budget max_memory_peak=1MB", "add --memory"),
        ("compare net.onnx net.onnx --budget max_load_time=1s", "dwindle bench does"),
        ("compare net.onnx net.onnx net.onnx --data data.npz --budget max_accuracy_drop=1", "for two files on one"),
    ],
)
def test_what_would_be_ignored_is_refused(call, words, told):
    code, err = call(*words.split())
    assert code == 1
    assert told in err


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Plan(n_threads=0), "n_threads must be at least 1, got 0"),
        (lambda: Plan(throughput_batch=-2), "throughput_batch must be at least 1, got -2"),
        (lambda: LatencyProtocol(level=95), r"level must lie between 0 and 1, such as 0\.95, got 95"),
        (lambda: LatencyProtocol(seconds=float("nan")), "seconds must be positive, got nan"),
    ],
)
def test_in_python_the_argument_is_named_alone(make, told):
    with pytest.raises(SettingError, match=f"^{told}$"):
        make()
