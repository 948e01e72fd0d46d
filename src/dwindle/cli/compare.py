"""This file holds `dwindle compare A B`: two files timed in turn, and whether one of them is faster."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dwindle.cli.bench import (
    AsJson,
    Batch,
    DataFile,
    InputsFile,
    LedgerFile,
    MetricNames,
    Seconds,
    ShapeOf,
    Threads,
    Threshold,
    WithMemory,
)
from dwindle.cli.console import print_json, stdout

if TYPE_CHECKING:
    from dwindle.bench.side_by_side import SideBySide

First = Annotated[Path, typer.Argument(help="A .onnx or .dwn file.", metavar="A")]
Second = Annotated[Path, typer.Argument(help="Another, that takes the same inputs.", metavar="B")]
Level = Annotated[float, typer.Option(help="Of the intervals: 0.99 calls one pair of equal files in 100 different.")]
Seed = Annotated[int, typer.Option(help="Of made inputs, and of who goes first.")]


def compare(
    a: First,
    b: Second,
    *,
    batch: Batch = None,
    shape: ShapeOf = None,
    inputs: InputsFile = None,
    data: DataFile = None,
    metric: MetricNames = None,
    threshold: Threshold = None,
    threads: Threads = 1,
    seconds: Seconds = 10.0,
    level: Level = 0.99,
    seed: Seed = 0,
    memory: WithMemory = True,
    ledger: LedgerFile = None,
    as_json: AsJson = False,
) -> None:
    """Compare two files: which is faster and by how much, sizes, memory, and how far their answers lie apart."""
    from dwindle.bench.any_file import Source
    from dwindle.bench.ledger import Ledger
    from dwindle.bench.made_inputs import Shapes, parse_shape
    from dwindle.bench.measure import record
    from dwindle.bench.plan import Plan
    from dwindle.bench.probes.scores import scores_named
    from dwindle.bench.protocol import LatencyProtocol
    from dwindle.bench.side_by_side import compare_files

    shapes = Shapes(batch=batch, by_name=dict(map(parse_shape, shape or ())), seed=seed)
    plan = Plan(
        n_threads=threads,
        scores=scores_named(metric or ("accuracy",)),
        threshold=threshold,
        latency=LatencyProtocol(seconds=seconds, level=level, seed=seed),
        memory=memory,
    )
    found = compare_files(a, b, plan=plan, source=Source(shapes=shapes, inputs=inputs, labelled=data))
    if ledger is not None:
        record(Ledger(ledger), replace(found.a, dense=found.b))
    if as_json:
        print_json(_plain(found))
    else:
        _print(found)


def _plain(found: SideBySide) -> dict[str, Any]:
    from dwindle.cli.figures import plain_measured, plain_measurement

    return {
        "sentence": found.sentence(),
        "differs": found.differs,
        "speedup": plain_measurement(found.ratio),
        "answers": asdict(found.answers),
        "a": plain_measured(found.a),
        "b": plain_measured(found.b),
    }


def _print(found: SideBySide) -> None:
    from dwindle.cli.figures import print_measurements

    stdout.print(found.sentence(), markup=False)
    last = found.a.measurements[-1]
    stdout.print(f"{last.runtime}, {last.machine}", markup=False)
    a, b = (side.artifacts[0].path.name for side in (found.a, found.b))
    names = (a, b) if a != b else ("A", "B")
    print_measurements(dict(zip(names, (found.a.measurements, found.b.measurements), strict=True)))
    stdout.print(found.answers.words(), markup=False)
