"""This file says in a terminal what a study runs, and what came out beside what was published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from dwindle.cli.console import stdout
from dwindle.cli.study_bars import left_words
from dwindle.report.words import DASH
from dwindle.studies.forecast import Forecast, Pace, forecast
from dwindle.studies.pages import entries_of
from dwindle.studies.results import Results, Variant, plan_of
from dwindle.studies.tables import Cell, Heading, figure_words, fill

if TYPE_CHECKING:
    from dwindle.studies.plan import Choice, Node
    from dwindle.studies.standing import Standing
    from dwindle.studies.study import Study

WIDEST: Final = 200


def print_plan(found: Study, choice: Choice, nodes: Sequence[Node], *, standing: Standing) -> None:
    """Print what is run: cases, stages, work, what is done, and what differs from the paper."""
    about = found.preset(choice.preset).about
    stdout.print(f"{found.title}\n{found.source}\n", markup=False)
    stdout.print(f"preset {choice.preset}: {about}", markup=False)
    if choice.as_published:
        stdout.print(f"as published: {found.as_published.about}", markup=False)
    for label, names in (
        ("cases", _cases(nodes)),
        ("tables", [t.id for t in found.tables]),
        ("seeds", [str(s) for s in _seeds(nodes)]),
    ):
        stdout.print(f"{label}: {', '.join(names)}", markup=False)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in ("stage", "what", "outcomes", "epochs each", "done"):
        table.add_column(title, overflow="fold", justify="left" if title in {"stage", "what"} else "right")
    for row in _stages(nodes, standing):
        table.add_row(row["stage"], row["about"], str(row["n"]), row["epochs_words"], str(row["n_done"]))
    _print(table)
    n_done, epochs = sum(node.key in standing.done for node in nodes), sum(node.epochs for node in nodes)
    stdout.print(f"{len(nodes):,} outcomes, {epochs:,.6g} epochs; {n_done:,} outcomes done in {standing.ledger.path}")
    if 0 < n_done < len(nodes):
        stdout.print(left_words(_left(nodes, standing)) + " for one process")
    if found.differences:
        stdout.print("\nOtherwise than in the paper:")
        for difference in found.differences:
            stdout.print(f"- {difference}", markup=False)


def plain_plan(found: Study, choice: Choice, nodes: Sequence[Node], *, standing: Standing) -> dict[str, Any]:
    """Return the same as plain values."""
    left = _left(nodes, standing)
    return {
        "study": found.name,
        "title": found.title,
        "source": found.source,
        "preset": choice.preset,
        "is_as_published": choice.as_published,
        "cases": _cases(nodes),
        "seeds": _seeds(nodes),
        "stages": [
            {key: value for key, value in row.items() if key != "epochs_words"} for row in _stages(nodes, standing)
        ],
        "n": len(nodes),
        "n_done": sum(node.key in standing.done for node in nodes),
        "seconds_left": left.seconds,
        "n_unknown": left.n_unknown,
        "differences": list(found.differences),
    }


def plain_outcome(
    found: Study,
    choice: Choice,
    nodes: Sequence[Node],
    *,
    standing: Standing,
    failed: Sequence[str],
    written: Sequence[Path],
) -> dict[str, Any]:
    """Return what a run led to as plain values."""
    n_done = sum(node.key in standing.done for node in nodes)
    return {
        "study": found.name,
        "preset": choice.preset,
        "is_as_published": choice.as_published,
        "n": len(nodes),
        "n_done": n_done,
        "failed": list(failed),
        "n_left_out": len(nodes) - n_done - len(failed),
        "ledger": str(standing.ledger.path),
        "files": [str(path) for path in written],
    }


def print_tables(found: Study, choice: Choice, *, standing: Standing) -> None:
    """Print every table of which something was run: ours, and what was published beside it."""
    variant = Variant(preset=choice.preset, is_as_published=choice.as_published)
    entries = entries_of(found, standing.entries)
    results = Results.of(entries, variant, nodes=plan_of(found, variant, entries))  # as the pages: the whole plan
    for asked in found.tables:
        filled = fill(asked, found, results)
        if filled.is_empty or choice.table not in {None, asked.id}:
            continue
        table = Table(box=SIMPLE_HEAD, pad_edge=False, title=f"{filled.id}: {filled.title}", title_justify="left")
        for title in filled.row_titles:
            table.add_column(title, overflow="fold")
        for heading in filled.headings:
            beside = " (published)" if heading.has_published else ""
            table.add_column(heading.title + beside, justify="right", overflow="fold")
        for row in filled.rows:
            if any(cell.value is not None for cell in row.cells):
                cells = zip(row.cells, filled.headings, strict=True)
                table.add_row(*row.names, *starmap(_cell, cells))
        _print(table)


def _cell(cell: Cell, heading: Heading) -> str:
    ours = DASH if cell.value is None else figure_words(cell.value, heading)
    if not heading.has_published:
        return ours
    published = DASH if cell.published is None else figure_words(cell.published, heading, is_published=True)
    return f"{ours} ({published})"


def _print(table: Table) -> None:
    Console(width=WIDEST, highlight=False, markup=False).print(table, crop=False)


def _cases(nodes: Sequence[Node]) -> list[str]:
    return list(dict.fromkeys(node.case.name for node in nodes))


def _seeds(nodes: Sequence[Node]) -> list[int]:
    return list(dict.fromkeys(node.seed for node in nodes))


def _left(nodes: Sequence[Node], standing: Standing) -> Forecast:
    return forecast([node for node in nodes if node.key not in standing.done], Pace.of(standing.outcomes))


def _stages(nodes: Sequence[Node], standing: Standing) -> list[Mapping[str, Any]]:
    """Return by stage how many outcomes it has, for how many epochs each trains, and how many are done."""
    by_stage: dict[str, list[Node]] = {}
    for node in nodes:
        by_stage.setdefault(node.stage.name, []).append(node)
    return [
        {
            "stage": name,
            "about": members[0].stage.about,
            "n": len(members),
            "n_done": sum(node.key in standing.done for node in members),
            "epochs": sorted({node.epochs for node in members}),
            "epochs_words": ", ".join(f"{epochs:g}" for epochs in sorted({node.epochs for node in members})),
        }
        for name, members in by_stage.items()
    ]
