"""This file holds `dwindle profile FILE [AFTER]`: which operations the time goes into, before and after compression."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from dwindle.cli.bench import AsJson, Batch, Engine, InputsFile, NetworkOf, ShapeOf, Threads, source_of
from dwindle.cli.console import print_json, stdout

if TYPE_CHECKING:
    from dwindle.bench.probes.operator_times import ClassTime
    from dwindle.bench.profiled import Profiled
    from dwindle.report.slow_reasons import Pair

N_SLOWEST: Final = 5
File = Annotated[Path, typer.Argument(help="A .onnx, .dwn, .xml or .pte file.", metavar="FILE")]
After = Annotated[Path | None, typer.Argument(help="The same network after compression.", metavar="[AFTER]")]
Runs = Annotated[int, typer.Option(help="Calls that are profiled.")]


def profile(
    file: File,
    after: After = None,
    *,
    engine: Engine = None,
    network: NetworkOf = None,
    batch: Batch = None,
    shape: ShapeOf = None,
    inputs: InputsFile = None,
    threads: Threads = 1,
    runs: Runs = 30,
    as_json: AsJson = False,
) -> None:
    """Show where the time of a file goes, by class of operation; of two files, why one is faster or is not."""
    from dwindle.bench.profiled import profile_file
    from dwindle.cli.engines import engine_named

    source = source_of(batch=batch, shape=shape, inputs=inputs)
    chosen = None if engine is None else engine_named(engine, network=network)
    paths = [file] if after is None else [file, after]
    found = [profile_file(path, source=source, engine=chosen, n_runs=runs, n_threads=threads) for path in paths]
    pair = _pair(found)
    if as_json:
        print_json(_plain(found, pair))
    else:
        _print(found, pair)


def _pair(found: list[Profiled]) -> Pair | None:
    """Return both files as a pair, where there are two and one engine ran them."""
    from dwindle.bench.machine import this_machine
    from dwindle.report.slow_reasons import pair_of

    if len({one.profile.runtime for one in found}) > 1 or len(found) == 1:
        return None
    return pair_of(*found, cpu_features=this_machine().cpu_features)


def _plain(found: list[Profiled], pair: Pair | None) -> dict[str, Any]:
    from dwindle.report.slow_reasons import headline, reasons

    words = {} if pair is None else {"headline": headline(pair), "reasons": [asdict(one) for one in reasons(pair)]}
    return {
        "machine": found[0].profile.machine,
        "files": [_plain_file(one) for one in found],
        **words,
    }


def _plain_file(one: Profiled) -> dict[str, Any]:
    alone = one.profile.coverage_of_operations
    return {"file": one.name, "size_bytes": one.size_bytes, **asdict(one.profile), "coverage_of_operations": alone}


def _print(found: list[Profiled], pair: Pair | None) -> None:
    from dwindle.report.slow_reasons import headline, reasons

    for one in found:
        stdout.print(_title(one), markup=False)
    stdout.print(found[0].profile.machine, markup=False)
    _print_classes(found)
    for one in found:
        _print_slowest(one)
    if pair is None and len(found) > 1:
        stdout.print("Two engines ran the two files, so their operations are not compared; name one with --engine.")
    if pair is not None:
        stdout.print(headline(pair), markup=False)
        for reason in reasons(pair):
            stdout.print(f"- {reason.words}", markup=False)


def _title(one: Profiled) -> str:
    profile = one.profile
    threads = f"{profile.n_threads} thread{'s' if profile.n_threads > 1 else ''}"
    return (
        f"{one.name}: {profile.runtime}, {threads}, batch {profile.batch}; {profile.n_calls} profiled calls of "
        f"{profile.wall_ms:.3g} ms ({profile.unprofiled_ms:.3g} ms without the profile), of which the classes explain "
        f"{100 * profile.coverage:.1f} %, operations alone {100 * profile.coverage_of_operations:.1f} %"
    )


def _print_classes(found: list[Profiled]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from dwindle.cli.figures import WIDEST

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("class")
    for one in found:
        table.add_column(one.name, justify="right")
        table.add_column("share, %", justify="right")
    by_file = [{time.group: time for time in one.profile.classes} for one in found]
    for group in dict.fromkeys(group for times in by_file for group in times):
        table.add_row(group, *(cell for times in by_file for cell in _cells(times.get(group))))
    table.add_section()
    sums = [one.profile.quantizing for one in found]
    table.add_row(sums[0].group, *(cell for time in sums for cell in _cells(time)))
    Console(width=WIDEST, highlight=False, markup=False).print(table, crop=False)


def _cells(time: ClassTime | None) -> tuple[str, str]:
    if time is None:
        return "", ""
    share, low, high = (f"{100 * value:.1f}" for value in (time.share, time.low, time.high))
    return f"{time.ms:.4f} ms", f"{share} [{low}, {high}]"


def _print_slowest(one: Profiled) -> None:
    slowest = one.profile.operations[:N_SLOWEST]
    stdout.print(f"slowest in {one.name}:", markup=False)
    for operation in slowest:
        numbers = f", {operation.numbers}" if operation.numbers else ""
        words = f"  {operation.ms:.4f} ms  {100 * operation.share:4.1f} %  {operation.kind}{numbers}  {operation.name}"
        stdout.print(words, markup=False)
