"""This file tests `dwindle profile`."""

from __future__ import annotations

import json
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from torch import nn

import dwindle as dw
from dwindle.cli import main


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    images = torch.randn(8, 3, 8, 8)
    dense = dw.CompressedModel.dense(
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)).eval()
    )
    int8 = dw.Recipe((dw.QuantizeStatic(),)).run(dense, dw.Context(example=images[:1], calibration=[images]))
    dw.deploy(dense, images[:1], folder, formats=("onnx",), name="fp32")
    dw.deploy(int8, images[:1], folder, formats=("dwn",), name="int8")
    return folder


@pytest.fixture
def call(made, tmp_path, monkeypatch, capfd):
    for path in made.iterdir():
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["dwindle", "profile", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main.run()
        told = capfd.readouterr()
        return left.value.code, told.out, told.err

    return run


def test_a_file_alone(call):
    code, out, _ = call("fp32.onnx", "--runs", 3)
    assert code == 0
    assert "3 profiled calls of" in out
    assert re.search(r"the classes explain [\d.]+ %,\s+operations\s+alone\s+[\d.]+ %", out)
    assert "quantize and dequantize" in out
    assert "slowest in fp32.onnx:" in out
    assert "A call took" not in out


def test_before_and_after(call):
    code, out, _ = call("fp32.onnx", "int8.dwn", "--runs", 3, "--batch", 2)
    assert code == 0
    assert "int8.dwn: onnxruntime" in out
    assert "batch 2" in out
    assert "All 2 operations that multiply" in out


def test_plain_values(call):
    code, out, _ = call("fp32.onnx", "int8.dwn", "--runs", 3, "--json")
    found = json.loads(out)
    assert code == 0
    assert [one["file"] for one in found["files"]] == ["fp32.onnx", "int8.dwn"]
    for one in found["files"]:
        assert sum(each["share"] for each in one["classes"]) == pytest.approx(one["coverage"])
        alone = sum(each["share"] for each in one["classes"] if each["group"] != "engine")
        assert one["coverage_of_operations"] == pytest.approx(alone)
        assert 0 < alone < one["coverage"]
        assert one["n_runs"] == 3
    assert found["reasons"][0]["kind"] == "integers"
    assert found["headline"].startswith("A call took about")


def test_inputs_of_a_file_of_arrays(call, tmp_path):
    np.savez(tmp_path / "x.npz", input=np.zeros((4, 3, 8, 8), np.float32))
    code, out, _ = call("fp32.onnx", "--runs", 2, "--inputs", "x.npz")
    assert code == 0
    assert "batch 4" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("nothing.onnx",), "cannot be read"),
        (("net.txt",), "export the network first"),
        (("fp32.onnx", "--runs", 1), "a profile takes 2 to 10,000 runs"),
        (("fp32.onnx", "--runs", 1_000_000), "a profile takes 2 to 10,000 runs"),
        (("fp32.onnx", "--engine", "nonsense"), "unknown engine"),
        (("fp32.onnx", "--shape", "input=1x3x9x9"), "input"),
        (("broken.onnx",), "cannot load"),
        (("broken.dwn",), "broken.dwn"),
        (("empty.onnx",), "empty"),
    ],
)
def test_one_clear_error(call, tmp_path, words, told):
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    (tmp_path / "broken.dwn").write_bytes(b"nothing")
    (tmp_path / "empty.onnx").write_bytes(b"")
    code, out, err = call(*words)
    assert code == 1
    assert told in err
    assert err.count("error:") == 1
    assert "Traceback" not in err + out


def test_an_engine_that_does_not_tell_says_so(call, tmp_path):
    pytest.importorskip("ai_edge_litert")
    (tmp_path / "net.tflite").write_bytes(b"TFL3")
    code, _, err = call("net.tflite")
    assert code == 1
    assert "does not tell the time of single operations" in err
