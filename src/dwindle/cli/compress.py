"""This file holds `dwindle compress job.toml`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dwindle.cli.console import ProgressBars, print_json, stdout
from dwindle.cli.outcome import exit_code, print_failures, print_outcome

JobFile = Annotated[
    Path, typer.Argument(help="The job: network, data, recipe, outputs, budget (TOML).", metavar="JOB.TOML")
]
Out = Annotated[Path | None, typer.Option(help="Folder for the files, instead of the one the job names.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")]
CheckOnly = Annotated[bool, typer.Option("--check", help="Load and check everything, then stop before any work.")]


def compress(job: JobFile, *, out: Out = None, as_json: AsJson = False, check_only: CheckOnly = False) -> None:
    """Compress the network of a job, write the files, measure them, write the report.

    A killed or interrupted run goes on where it was when called again.
    """
    from dwindle.job.check import check_job
    from dwindle.job.load import load_job
    from dwindle.job.run import run_job

    with ProgressBars() as bars:
        loaded = load_job(job, out=out, report_progress=bars)
        check_job(loaded)
        outcome = None if check_only else run_job(loaded, report_progress=bars)
    if outcome is None:
        if as_json:
            print_json({"job": str(job), "n_steps": len(loaded.recipe.steps), "problems": []})
        else:
            stdout.print(f"{job}: {len(loaded.recipe.steps)} steps, nothing wrong found")
        return
    if as_json:
        print_json(outcome.summary)
    else:
        print_outcome(outcome)
    print_failures(outcome)
    raise typer.Exit(exit_code(outcome))
