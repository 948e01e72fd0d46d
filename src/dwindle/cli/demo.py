"""This file holds `dwindle demo`: a complete run on embedded data, so that a stranger sees all of it in a minute."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from dwindle.cli.console import ProgressBars, print_json
from dwindle.cli.outcome import exit_code, print_outcome

Out = Annotated[Path, typer.Option(help="Folder for the files.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")]
Seed = Annotated[int, typer.Option(help="Every random choice derives from it.")]


def demo(*, out: Out = Path("out/demo"), seed: Seed = 0, as_json: AsJson = False) -> None:
    """Train a small network on scikit-learn's digits, compress it, write model.dwn, model.onnx and report.html."""
    started = time.perf_counter()
    from dwindle.job.demo import demo_job
    from dwindle.job.run import run_job

    with ProgressBars() as bars:
        job = demo_job(out, seed=seed, report_progress=bars)
        outcome = run_job(job, report_progress=bars, started=started)
    if as_json:
        print_json(outcome.summary)
    else:
        print_outcome(outcome)
    raise typer.Exit(exit_code(outcome))
