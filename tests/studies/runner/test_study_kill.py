"""A study that is killed at any moment ends with the same ledger, and trains nothing twice but its last epoch."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dwindle.bench.ledger import Ledger
from dwindle.studies.run import LEDGER

N_STEPS = 2
"""Of an epoch: 1,197 digits in whole batches of 400."""
N_EPOCHS = 4
"""Of the whole study: two dense, one for each of two tuned networks."""
CODE = """
import os, signal, sys
from pathlib import Path
from dwindle.studies.plan import Choice, unfold
from dwindle.studies.read import load_study
from dwindle.studies.run import Worker

def die(now):
    if now.n_done == int(sys.argv[2]) and now.step >= int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

nodes = unfold(load_study("killed.toml"), Choice(preset="quick"))
on_progress = die if len(sys.argv) > 2 else None
sys.exit(len(Worker(nodes=nodes, folder=Path(sys.argv[1]), home=Path(), on_progress=on_progress).run()))
"""


@pytest.fixture
def folder(study_file: Path) -> Path:
    """Return a folder with the study; its training leaves an x in a file for each step."""
    text = study_file.read_text().replace('augment = "none"', 'augment = "mine.py:counted"')
    study_file.with_name("killed.toml").write_text(text)
    return study_file.parent


def start(folder: Path, out: str, *arguments: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "COUNTED": str(folder / f"{out}.counted"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CODE, out, *map(str, arguments)]
    return subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True)


def n_steps_taken(folder: Path, out: str) -> int:
    return (folder / f"{out}.counted").stat().st_size


def outcomes(folder: Path, out: str) -> dict[str, Any]:
    """Return what tables are made of, by key; each outcome is there once."""
    found = [entry.data for entry in Ledger(folder / out / LEDGER).read() if entry.kind == "outcome"]
    by_key = {
        data["key"]: (
            data["stage"],
            data["at"],
            data["answers"],
            [(m["metric"], m["value"], m["low"], m["high"], m["artifact"]) for m in data["measurements"]],
            [record["digest"] for record in data["history"]],
        )
        for data in found
    }
    assert len(by_key) == len(found)
    return by_key


def test_a_killed_study_goes_on_at_its_last_epoch(folder: Path) -> None:
    # In the second epoch of the first training: dense is not done yet, and one epoch is on the disk.
    assert start(folder, "killed", 0, N_STEPS + 1).wait() == -signal.SIGKILL
    assert not (folder / "killed" / LEDGER).exists()
    assert start(folder, "killed").wait() == 0
    assert len(outcomes(folder, "killed")) == 5
    assert n_steps_taken(folder, "killed") <= (N_EPOCHS + 1) * N_STEPS


@pytest.mark.slow
def test_ten_kills_at_random_moments_leave_no_trace(folder: Path) -> None:
    seed = int(os.environ.get("DWINDLE_KILL_SEED", str(random.SystemRandom().randrange(10**6))))
    print(f"DWINDLE_KILL_SEED={seed}")  # ruff: ignore[print] (to repeat what failed)
    moments = random.Random(seed)
    began = time.monotonic()
    assert start(folder, "undisturbed").wait() == 0
    whole = time.monotonic() - began
    n_killed = 0
    for _ in range(10):
        process = start(folder, "killed")
        try:
            process.wait(timeout=moments.uniform(0.2, 0.6) * whole)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            n_killed += 1
    assert start(folder, "killed").wait() == 0
    assert n_killed >= 1
    assert outcomes(folder, "killed") == outcomes(folder, "undisturbed")
    assert n_steps_taken(folder, "undisturbed") == N_EPOCHS * N_STEPS
    assert n_steps_taken(folder, "killed") <= (N_EPOCHS + n_killed) * N_STEPS


@pytest.mark.slow
def test_two_processes_at_once_leave_the_ledger_of_one(folder: Path) -> None:
    assert start(folder, "alone").wait() == 0
    both = [start(folder, "together"), start(folder, "together")]
    assert [process.wait() for process in both] == [0, 0]
    assert outcomes(folder, "together") == outcomes(folder, "alone")
    assert n_steps_taken(folder, "together") == N_EPOCHS * N_STEPS
