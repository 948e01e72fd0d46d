"""This file says in a terminal what a job led to, and which exit code that is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table

from dwindle.artifact import Artifact, files_of
from dwindle.bench.budget import Verdict
from dwindle.cli.console import print_error, stderr, stdout
from dwindle.errors import ExportError

if TYPE_CHECKING:
    from dwindle.job.run import Outcome  # torch is heavy, and --help needs none

CODES: Final = {None: 0, Verdict.MET: 0, Verdict.VIOLATED: 3, Verdict.UNDECIDED: 4}


def exit_code(outcome: Outcome) -> int:
    """Return the exit code: 0, or 1 where a file is missing, 3 for a violated and 4 for an undecided budget."""
    return 1 if outcome.failed else CODES[outcome.verdict]


def print_outcome(outcome: Outcome) -> None:
    """Print the files, what they cost and what they still know."""
    s = outcome.summary
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for artifact in outcome.deployment.artifacts.values():
        table.add_row(str(artifact.path), f"{artifact.size_bytes:,} bytes{_parts(artifact)}")
    table.add_row(
        "smaller than the fp32 weights", f"{s['compression_ratio']:.1f}x ({outcome.measured.artifacts[0].path.name})"
    )
    if "deployed" in s:
        table.add_row("in the files", s["deployed"])
    for label, words in (*_quality_rows(s), *_budget_rows(s)):
        table.add_row(label, words)
    if not s["parity_is_within_bound"]:
        table.add_row("parity", f"differs from our model by {s['parity']:.3g}, beyond the bound: see the report")
    table.add_row("report", str(outcome.report))
    table.add_row("time", f"{s['seconds']:.0f} s")
    stdout.print(table, markup=False)  # a name in brackets is no markup


def _parts(artifact: Artifact) -> str:
    """Return the sizes of the files of an artifact that has several: a graph as text may outweigh its weights."""
    files = files_of(artifact.path)
    return f" ({', '.join(f'{file.name} {file.stat().st_size:,}' for file in files)})" if len(files) > 1 else ""


def print_failures(outcome: Outcome) -> None:
    """Say on stderr which files there are not."""
    for name, reason in outcome.failed.items():
        print_error(ExportError(f"model.{name} is not written: {reason}"))
    if outcome.failed:
        stderr.print("mend it or leave the format out, and call again: what was trained is kept")


def _quality_rows(s: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the drop in the first metric, then this metric before and after."""
    name = s.get("metric", "accuracy")
    if name == "accuracy":
        drop, unit, low, high = s["accuracy_drop_points"], "points", s["accuracy_drop_low"], s["accuracy_drop_high"]
    else:
        drop, unit, low, high = (s[f"{name}_drop{part}"] for part in ("", "_unit", "_low", "_high"))
    after, before = (_value(s[key], s.get("metric_unit", "fraction")) for key in (name, f"dense_{name}"))
    digits = ".2f" if unit == "points" else ".4g"
    label = name.replace("_", " ")
    interval = f"95 % interval [{low:{digits}}, {high:{digits}}], n = {s['n_test']:,}"
    return [
        (f"{label} drop, paired", f"{f'{drop:{digits}} {unit}'.rstrip()}, {interval}"),
        (label, f"{after} (dense {before})"),
    ]


def _budget_rows(s: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the verdict with the file that it speaks of, its bounds, and what would be said of the other files."""
    if s["budget"] is None:
        return []
    first, *others = s.get("budget_files") or [{}]
    spoken_of = f" for {first['file']}" if others else ""
    rows = [("budget", f"{s['budget']}{spoken_of}")]
    rows += [("", f"{bound.replace('_', ' ')} {words}") for bound, words in s.get("budget_bounds", {}).items()]
    return rows + [("beside it", f"{file['file']} on {file['runtime']}: {file['verdict']}") for file in others]


def _value(value: float | None, unit: str) -> str:
    if value is None:
        return "not measured"
    return f"{value:.2%}" if unit == "fraction" else f"{value:.4g} {unit}".rstrip()
