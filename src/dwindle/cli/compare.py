"""This file holds `dwindle compare FILE FILE ...`: files timed in turn, on one engine or across engines."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from dwindle.cli.bench import (
    AsJson,
    Batch,
    DataFile,
    InputsFile,
    LedgerFile,
    MetricNames,
    NetworkOf,
    Seconds,
    ShapeOf,
    Threads,
    Threshold,
    at_least,
    require_data,
    source_of,
)
from dwindle.cli.console import print_json, stderr, stdout
from dwindle.cli.extras import BudgetText, Extras, WithEnergy
from dwindle.cli.told import ACROSS, PAIRED, told_by

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dwindle.bench.any_file import Source
    from dwindle.bench.plan import Plan
    from dwindle.bench.side_by_side import SideBySide

NOT_MEASURED: Final = 1
"""Exit code where nothing was measured, or an engine that is here could not run a file."""
Files = Annotated[
    list[Path],
    typer.Argument(help="Files that take the same inputs: .onnx, .dwn, .tflite, .pte, .xml.", metavar="FILE..."),
]
Engines = Annotated[
    list[str] | None,
    typer.Option("--engine", help="Run the files that it loads on this engine, too: openvino:precision=f32."),
]
Memory = Annotated[
    bool | None,
    typer.Option(
        "--memory/--no-memory", help="Measure the memory of fresh processes; of two files, unless told not to."
    ),
]


def _level(value: float) -> float:
    if not 0 < value < 1:
        raise typer.BadParameter(f"{value:g} does not lie between 0 and 1; write 0.99 for 99 %")
    return value


Level = Annotated[
    float,
    typer.Option(help="Of the intervals: 0.99 calls one pair of equal files in 100 different.", callback=_level),
]
Seed = Annotated[int, typer.Option(help="Of made inputs, and of who goes first.", callback=at_least(0))]


def compare(
    files: Files,
    *,
    engine: Engines = None,
    network: NetworkOf = None,
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
    memory: Memory = None,
    energy: WithEnergy = False,
    budget: BudgetText = None,
    ledger: LedgerFile = None,
    as_json: AsJson = False,
) -> None:
    """Compare files: which is faster and by how much, sizes, memory, how far their answers lie apart; across engines.

    Two files on one engine are compared side by side. More files, or files on several engines, give one table: each
    file in turn with the first one of its engine, and its answers beside ONNX Runtime's of the file of the same name.
    """
    from dwindle.bench.plan import Plan
    from dwindle.bench.probes.scores import scores_named
    from dwindle.bench.protocol import LatencyProtocol

    require_data(data, metric=metric, threshold=threshold)
    files = _without_second_files(files)
    is_pair = not engine and _are_a_pair(files)
    memory = is_pair if memory is None else memory
    scores = (metric or ("accuracy",)) if data else ()
    told = told_by(PAIRED if is_pair else ACROSS, memory=memory, energy=energy, scores=scores)
    extras = Extras.of(energy=energy, budget=budget, told=told)
    plan = Plan(
        n_threads=threads,
        scores=scores_named(metric or ("accuracy",)),
        threshold=threshold,
        latency=LatencyProtocol(seconds=seconds, level=level, seed=seed),
        memory=memory,
        energy=extras.has_sensor,
    )
    source = source_of(batch=batch, shape=shape, inputs=inputs, data=data, seed=seed)
    if is_pair:
        _compare_pair((files[0], files[1]), (plan, source, extras), ledger=ledger, as_json=as_json)
    else:
        asked = Asked(files=tuple(files), engines=tuple(engine or ()), network=network)
        _compare_many(asked, (plan, source, extras), ledger=ledger, as_json=as_json)


How = tuple["Plan", "Source", Extras]
"""How to compare, on which inputs, and what else was asked for."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Which files to run on which engines."""

    files: tuple[Path, ...]
    engines: tuple[str, ...]
    network: str | None


def _without_second_files(files: Sequence[Path]) -> list[Path]:
    """Leave out what lies beside another of `files` and belongs to it, as the .bin of an .xml: the shell names both."""
    from dwindle.artifact import files_of

    second = {part for file in files for part in files_of(file)[1:]}
    return [file for file in files if file not in second]


def _are_a_pair(files: Sequence[Path]) -> bool:
    """Return whether two files run on one engine, which is here."""
    from dwindle.bench.across_engines import default_engine
    from dwindle.bench.any_file import artifact_at

    if len(files) != 2:
        return False
    one, other = (default_engine(artifact_at(file).format) for file in files)
    return one.name == other.name and one.unavailable() is None


def _compare_pair(files: tuple[Path, Path], how: How, *, ledger: Path | None, as_json: bool) -> None:
    from dwindle.bench.ledger import Ledger
    from dwindle.bench.measure import record
    from dwindle.bench.side_by_side import compare_files

    found = compare_files(*files, plan=how[0], source=how[1])
    if ledger is not None:
        record(Ledger(ledger), replace(found.a, dense=found.b))
    if as_json:
        print_json(_plain(found) | how[2].plain((found.a, found.b)))
    else:
        _print(found)
        how[2].show((found.a, found.b))
    how[2].leave((found.a, found.b))


def _compare_many(asked: Asked, how: How, *, ledger: Path | None, as_json: bool) -> None:
    from dwindle.bench.across_engines import compare_across, record_across
    from dwindle.bench.ledger import Ledger
    from dwindle.cli.across import plain_across, print_across
    from dwindle.cli.engines import engine_named

    engines = [engine_named(text, network=asked.network) for text in asked.engines]
    found = compare_across(asked.files, engines=engines, plan=how[0], source=how[1], progress=_tell)
    if ledger is not None:
        record_across(Ledger(ledger), found)
    measured = [row.measured for row in found.rows if row.measured is not None]
    if as_json:
        print_json(plain_across(found) | how[2].plain(measured, found.unmeasured))
    else:
        print_across(found)
        how[2].show(measured, found.unmeasured)
    if not measured:
        raise typer.Exit(NOT_MEASURED)
    how[2].leave(measured, found.unmeasured)
    if any(row.is_failed for row in found.rows):
        raise typer.Exit(NOT_MEASURED)


def _tell(what: str) -> None:
    stderr.print(what, markup=False, highlight=False)


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
