"""This file says in a terminal what a job led to, and which exit code that is."""

from __future__ import annotations

from typing import Final

from rich.table import Table

from dwindle.bench.budget import Verdict
from dwindle.cli.console import stdout
from dwindle.job.run import Outcome

CODES: Final = {None: 0, Verdict.MET: 0, Verdict.VIOLATED: 3, Verdict.UNDECIDED: 4}


def exit_code(outcome: Outcome) -> int:
    """Return the exit code: 0, or 3 for a violated and 4 for an undecided budget."""
    return CODES[outcome.verdict]


def print_outcome(outcome: Outcome) -> None:
    """Print the files, what they cost and what they still know."""
    s = outcome.summary
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for artifact in outcome.deployment.artifacts.values():
        table.add_row(str(artifact.path), f"{artifact.size_bytes:,} bytes")
    table.add_row(
        "smaller than the fp32 weights", f"{s['compression_ratio']:.1f}x ({outcome.measured.artifacts[0].path.name})"
    )
    table.add_row(
        "accuracy drop, paired",
        f"{s['accuracy_drop_points']:.2f} points, 95 % interval [{s['accuracy_drop_low']:.2f}, "
        f"{s['accuracy_drop_high']:.2f}], n = {s['n_test']:,}",
    )
    table.add_row("accuracy", f"{s['accuracy']:.2%} (dense {s['dense_accuracy']:.2%})")
    if not s["parity_is_within_bound"]:
        table.add_row("parity", f"differs from our model by {s['parity']:.3g}, beyond the bound: see the report")
    if outcome.verdict is not None:
        table.add_row("budget", outcome.verdict.value)
    table.add_row("report", str(outcome.report))
    table.add_row("time", f"{s['seconds']:.0f} s")
    stdout.print(table)
