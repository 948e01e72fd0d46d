"""The benchmarks of structured pruning run to their end, and find what does not depend on the clock."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def last_line(script: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, str(script), *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    found: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return found


def test_a_smaller_lstm_answers_as_its_masked_twin(repository: Path) -> None:
    found = last_line(repository / "benchmarks/structured.py", "--quick", "--only", "lstm")
    assert found["lstm_gap_to_masked_twin"] < 1e-5 * found["lstm_largest_answer"]
    assert found["lstm_half_of_its_units_low"] <= found["lstm_half_of_its_units_speedup"]


def test_both_sides_have_equal_macs_and_a_second_run_repeats_the_first(repository: Path, tmp_path: Path) -> None:
    script = repository / "benchmarks/beside_torch_pruning.py"
    first = last_line(script, "--quick", "--threads", "1", "--out", str(tmp_path))
    assert first["equal_macs"]
    assert first["dwindle"]["macs"] < 0.3 * first["dense"]["macs"]
    assert last_line(script, "--quick", "--threads", "1", "--out", str(tmp_path)) == first
