"""A study may weigh, zip and time its .onnx beside the dense one; without the wish nothing changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dwindle.bench.ledger import Entry, Ledger
from dwindle.errors import SettingError
from dwindle.studies.outcome import Outcome, read_outcome
from dwindle.studies.plan import Choice, unfold
from dwindle.studies.read import load_study
from dwindle.studies.run import LEDGER, Worker

MEASURES = """
[measures]
onnx = true
speedup_seconds = 0.05
"""


def made(study_file: Path, folder: Path, measures: str) -> list[Outcome]:
    study_file.write_text(study_file.read_text() + measures)
    nodes = [n for n in unfold(load_study(study_file), Choice(preset="quick")) if n.at.get("rate") != "2x"]
    worker = Worker(nodes=nodes, folder=folder, home=study_file.parent)
    assert worker.run() == ()
    return [read_outcome(entry) for entry in Ledger(folder / LEDGER).read()]


def test_the_onnx_is_weighed_zipped_and_timed(study_file: Path, tmp_path: Path) -> None:
    dense, pruned, tuned = made(study_file, tmp_path / "out", MEASURES)
    assert dense.exact("speedup") is None  # it is what the others are timed in turn with
    for outcome in (dense, pruned, tuned):
        assert set(outcome.entry["files"]) == {"dwn", "onnx"}
        assert outcome.exact("onnx_bytes") != outcome.exact("size_bytes")
        assert 0 < (outcome.exact("zipped_bytes") or 0) < (outcome.exact("onnx_bytes") or 0)
        low, high = outcome.timed("test_seconds") or (0.0, 0.0)
        assert 0 < low <= (outcome.exact("test_seconds") or 0.0) <= high
        assert outcome.timed("test_cpu_seconds") is not None
    assert (pruned.exact("zip_gain") or 0) > (dense.exact("zip_gain") or 0)
    low, high = tuned.timed("speedup") or (0.0, 0.0)
    assert 0 < low <= (tuned.exact("speedup") or 0.0) <= high
    left = {path.name for path in (tmp_path / "out/work").rglob("*.onnx")}
    assert left == {"dense.onnx"}


def test_the_answers_are_those_of_either_file(study_file: Path, tmp_path: Path) -> None:
    with_onnx = made(study_file, tmp_path / "a", MEASURES)
    study_file.write_text(study_file.read_text().replace(MEASURES, ""))
    without = made(study_file, tmp_path / "b", "")
    assert [o.key for o in with_onnx] == [o.key for o in without]
    assert [list(o.entry["files"]) for o in without] == [["dwn"]] * 3
    for one, other in zip(with_onnx, without, strict=True):
        assert (one.right != other.right).mean() < 0.01
        assert one.exact("size_bytes") == other.exact("size_bytes")


def test_costs_are_measured_where_they_are_asked_for(study_file: Path, tmp_path: Path) -> None:
    wanted = "[measures]\nonnx = true\nwhole_set = false\nspeedup_seconds = 0.05\nprofile_runs = 2\n"
    wanted += "memory = true\nenergy = true\nscores = ['f1_macro']\n"
    dense, pruned, _ = made(study_file, tmp_path / "out", wanted)
    assert dense.exact("test_seconds") is None
    assert (pruned.exact("latency_ms") or 0) > 0
    for outcome in (dense, pruned):
        assert (outcome.exact("memory_bytes") or 0) > 0
        assert 0 < sum(outcome.operators.values()) <= 1.0001
        assert outcome.exact("dequantize_share") == 0
        assert 0 < (outcome.exact("f1") or 0) <= 100
        # Measured or estimated, never both.
        assert (outcome.exact("energy_mj") is None) is (outcome.exact("estimated_energy_mj") is not None)


@pytest.mark.parametrize(
    ("measures", "words"),
    [
        ("[measures]\nonnx = true\nspeedup_seconds = -1\n", "speedup_seconds = -1; give a number of seconds"),
        ("[measures]\nonnx = true\nspeedup_seconds = 'long'\n", "speedup_seconds = 'long'"),
        ("[measures]\nspeedup_seconds = 1\n", r"set measures\.onnx = true"),
        ("[measures]\nmemory = true\n", r"memory, energy and whole_set are about the \.onnx"),
        ("[measures]\nonnx = true\nprofile_runs = 1\n", "profile_runs = 1; give a whole number of at least 2"),
        ("[measures]\nonnx = true\nscores = ['f2']\n", r"measures\.scores names 'f2'; known: "),
    ],
)
def test_what_cannot_be_measured_is_said_before_any_work(
    study_file: Path, tmp_path: Path, measures: str, words: str, shop: Any
) -> None:
    study_file.write_text(study_file.read_text() + measures)
    nodes = unfold(load_study(study_file), Choice(preset="quick"))
    with pytest.raises(SettingError, match=words):
        Worker(nodes=nodes, folder=tmp_path / "out", home=tmp_path).run()
    assert shop.made == []


def test_an_entry_without_files_reads_as_one_dwn() -> None:
    entry = Entry(
        kind="outcome",
        data={
            "network": "n", "data": "d", "seed": 0, "stage": "s", "preset": "p", "is_as_published": False, "key": "k",
            "answers": {"n": 8, "right": "gA=="}, "at": {}, "n_dense_weights": 10,
            "measurements": [{"metric": {"name": "size"}, "value": 20.0, "artifact": "x"}],
        },
        time="2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    outcome = read_outcome(entry)
    assert outcome.exact("size_bytes") == 20.0
    assert outcome.exact("onnx_bytes") is None
    assert outcome.exact("onnx_ratio") is None
