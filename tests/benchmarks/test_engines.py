"""The page of the comparison across engines says what its ledger holds; the benchmark runs to its end."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from dwindle.bench.ledger import Entry, Ledger


def measured(value, unit, **conditions):
    return {"value": value, "low": 0.9 * value, "high": 1.1 * value, "unit": unit, "conditions": conditions}


def row(file, engine="one 1.0", *, ratio=None, of=None, gap=0.0, latency=2.0):
    parity = {"gap_points": gap, "agreement": 1.0, "largest": 1e-6, "flagged": abs(gap) > 0.1}
    return {
        "file": file,
        "engine": engine,
        "size_bytes": 1000,
        "machine": "a machine",
        "measurements": {
            "latency_median": measured(latency, "ms"),
            "accuracy": measured(0.9, "fraction"),
            "top1_gap": measured(gap, "points"),
            "top1_agreement": measured(1.0, "fraction"),
        },
        "baseline": None if of is None else {"file": of[0], "engine": of[1]},
        "speedup": None if ratio is None else measured(ratio, "x"),
        "parity": None if of is None else parity,
    }


def entry(*rows, weights=7):
    data = {"task": "a task", "weights": weights, "n_threads": 1, "seconds": 1.0, "compared": {"rows": list(rows)}}
    return Entry(kind="across_engines", data=data, time="")


@pytest.fixture(scope="module")
def page():
    script = Path(__file__).resolve().parents[2] / "benchmarks/engines/page.py"
    return runpy.run_path(str(script))["page"]


FP32 = ("fp32.onnx", "one 1.0")


def test_the_page_has_a_row_for_each_and_a_verdict(page):
    text = page([entry(row("fp32.onnx"), row("int8.onnx", ratio=4.0, of=FP32, latency=0.5))], made_from="Made.")
    assert "| 2 | int8.onnx | one 1.0 | 1.00 KB | 0.500 ms | 4.00 [3.60, 4.40] #1 | 90.00 %" in text
    assert "Parity is met in every row." in text
    assert "int8.onnx on one 1.0, 4.00x [3.60, 4.40] its own fp32 (at least 3x: MET)" in text
    assert "Lowest median latency: int8.onnx on one 1.0, 0.500 ms." in text


@pytest.mark.parametrize(("ratio", "verdict"), [(4.0, "MET"), (3.1, "UNDECIDED"), (2.0, "NOT MET")])
def test_the_verdict_looks_at_the_interval(page, ratio, verdict):
    text = page([entry(row("fp32.onnx"), row("int8.onnx", ratio=ratio, of=FP32))], made_from="")
    assert f"(at least 3x: {verdict})" in text


def test_only_integers_of_the_same_engine_count_as_gained(page):
    other = row("fp32.xml", "two 2.0", ratio=9.0, of=FP32)
    twin = row("fp32.dwn", ratio=8.0, of=FP32)
    text = page([entry(row("fp32.onnx"), other, twin, row("int8.onnx", ratio=2.0, of=FP32))], made_from="")
    assert "Most gained by int8: int8.onnx" in text


def test_what_misses_parity_or_is_missing_is_said(page):
    missing = {"file": "a.pte", "engine": "three", "size_bytes": 10, "problem": "three is not installed"}
    flagged = row("int8.xml", "two 2.0", ratio=1.0, of=FP32, gap=0.3)
    text = page([entry(row("fp32.onnx"), flagged, missing)], made_from="")
    assert "0.30 points **flagged**" in text
    assert "Parity is missed by int8.xml on two 2.0." in text
    assert "a.pte on three was not measured: three is not installed." in text


def test_the_newest_of_each_is_shown(page):
    old, new, wide = (entry(row("fp32.onnx", latency=ms), weights=w) for ms, w in ((1.0, 7), (5.0, 7), (9.0, 8)))
    text = page([old, new, wide], made_from="")
    assert "1.00 ms" not in text
    assert "5.00 ms" in text
    assert "9.00 ms" in text


@pytest.mark.slow
def test_the_benchmark_runs_to_its_end(repository, tmp_path):
    command = [sys.executable, str(repository / "benchmarks/engines/run.py"), "--quick", "--seconds", "0.05"]
    environment = {**os.environ, "DWINDLE_LITERT_PYTHON": ""}
    finished = subprocess.run(
        [*command, "--out", str(tmp_path)], capture_output=True, text=True, timeout=600, check=False, env=environment
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    kinds = [found.kind for found in Ledger(tmp_path / "engines.jsonl").read()]
    assert kinds.count("across_engines") == 1
    assert "Parity is met in every row." in (tmp_path / "engines.md").read_text()
