"""This file holds `dwindle analyze job.toml`: what each layer costs, how much it matters, and what to do with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from dwindle.cli.console import ProgressBars, print_json, stdout

if TYPE_CHECKING:
    from dwindle.job.analysis import Analysis, LayerView

JobFile = Annotated[Path, typer.Argument(help="The job: its network and its data (TOML).", metavar="JOB.TOML")]
Out = Annotated[Path | None, typer.Option(help="Folder for the page, instead of the one the job names.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print everything found as one JSON object.")]
Criteria = Annotated[
    str,
    typer.Option(
        help="Criteria, with commas between: two_nn, pca, levina_bickel, prune, 4_bits, 2_bits, binary, fisher, "
        "hessian, deviation. The first one decides about layers."
    ),
]
Examples = Annotated[
    int | None,
    typer.Option("--n-examples", help="Examples that each criterion looks at (as many as a minute affords)."),
]
Threshold = Annotated[
    float | None,
    typer.Option(help="Layers are significant whose score is above it (the higher half of them)."),
]
Runs = Annotated[int, typer.Option("--n-runs", help="Timed runs of the fp32 file; 0 times nothing.")]

WIDEST: Final = 200
STANDARD: Final = "binary,two_nn,pca,levina_bickel,prune,2_bits,fisher,hessian,deviation"


def analyze(
    job: JobFile,
    *,
    out: Out = None,
    as_json: AsJson = False,
    criteria: Criteria = STANDARD,
    n_examples: Examples = None,
    threshold: Threshold = None,
    n_runs: Runs = 20,
) -> None:
    """Say of every layer of a network what it costs, how much it matters, and what to do with it.

    Nothing is trained, and the test split is not read.
    """
    from dwindle.job.analyze import Settings
    from dwindle.job.analyzed_job import analyze_job
    from dwindle.job.load import load_job

    settings = Settings(
        criteria=tuple(name.strip() for name in criteria.split(",") if name.strip()),
        n_examples=n_examples,
        threshold=threshold,
        n_runs=n_runs,
    )
    with ProgressBars() as bars:
        loaded = load_job(job, out=out, report_progress=bars)
        found, page = analyze_job(loaded, settings=settings, report_progress=bars)
    if as_json:
        print_json({**found.to_plain(), "page": str(page)})
    else:
        _print(found, page)


def _print(found: Analysis, page: Path) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from dwindle.report.words import human_bytes

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    told = [judgement for judgement in found.judgements if judgement.scores]
    table.add_column("layer", overflow="fold")
    for title in ("bytes", "MACs", "time"):
        table.add_column(title, justify="right")
    for judgement in told:
        table.add_column(judgement.title, justify="right", max_width=12)
    table.add_column("what it would do", overflow="fold")
    totals = _totals(found)
    for layer in found.layers:
        costs = (layer.cost.dense_bytes, layer.cost.macs, layer.time_ms)
        shares = list(starmap(_share, zip(costs, totals, strict=True)))
        table.add_row(layer.name, *shares, *(_score(layer, j.name) for j in told), layer.treatment.action)
    Console(width=WIDEST, highlight=False, markup=False).print(table, crop=False)
    for layer in found.layers:
        stdout.print(f"{layer.name}: {layer.treatment.action}. {layer.treatment.why}", markup=False)
    for words in _remarks(found):
        stdout.print(words, markup=False)
    planned, dense = human_bytes(found.planned_bytes), human_bytes(found.dense_bytes)
    stdout.print(f"treated so, about {planned} of weights in place of {dense} (counted, not measured)", markup=False)
    stdout.print(f"page: {page}", markup=False)


def _totals(found: Analysis) -> Sequence[float]:
    layers = found.layers
    return (
        sum(layer.cost.dense_bytes for layer in layers),
        sum(layer.cost.macs or 0 for layer in layers),
        found.timed.total_ms,
    )


def _share(value: float | None, total: float) -> str:
    return "-" if value is None or total <= 0 else f"{value / total:.1%}"


def _score(layer: LayerView, criterion: str) -> str:
    """Return a score, with a star where it is significant, and dimensions as before and after."""
    if criterion not in layer.scores:
        return "-"
    score = layer.scores[criterion]
    star = "*" if criterion in layer.significant else ""
    details: Mapping[str, Any] = score.details
    if {"dimension_before", "dimension_after"} <= details.keys():
        return f"{star}{details['dimension_before']:.3g} > {details['dimension_after']:.3g}"
    return f"{star}{score.value:.3g}"


def _remarks(found: Analysis) -> list[str]:
    """Return what the stars mean, and what is missing."""
    decider = next((j for j in found.judgements if j.name == found.decided_by), None)
    words = [] if decider is None else [f"* significant; {decider.title} decides"]
    words += [f"{judgement.title}: {judgement.problem}" for judgement in found.judgements if judgement.problem]
    if found.timed.problem:
        words.append(f"time: {found.timed.problem}")
    return [*words, *found.remarks]
