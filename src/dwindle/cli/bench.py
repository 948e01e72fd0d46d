"""This file holds `dwindle bench FILE`: what running a file of any format costs on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dwindle.cli.console import print_json, stdout
from dwindle.cli.extras import BudgetText, Extras, WithEnergy
from dwindle.cli.told import ALONE, told_by

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dwindle.bench.any_file import Source
    from dwindle.bench.measure import Measured

File = Annotated[Path, typer.Argument(help="A .onnx, .dwn, .tflite, .pte or .xml file.", metavar="FILE")]


def at_least(least: int) -> Callable[[int | None], int | None]:
    """Return what refuses an option's whole number below `least`, with a `typer.BadParameter` that tells the number."""

    def checked(value: int | None) -> int | None:
        if value is not None and value < least:
            raise typer.BadParameter(f"{value} is below {least}")
        return value

    return checked


def positive(value: float) -> float:
    """Return `value`, an option's.

    Raises:
        typer.BadParameter: it is no number above 0.
    """
    if not value > 0:
        raise typer.BadParameter(f"{value:g} is no number above 0")
    return value


def _in_a_folder(path: Path | None) -> Path | None:
    """Return `path`; a ledger grows with each call, so a mistyped folder must not be made.

    Raises:
        typer.BadParameter: nothing can be appended there; better known before minutes of measuring than after.
    """
    if path is None:
        return None
    if not path.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {path.parent}; make it, or name another")
    if path.is_dir():
        raise typer.BadParameter(f"{path} is a folder; name a file in it")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise typer.BadParameter(f"{path} cannot be written; name another")
    return path


Batch = Annotated[
    int | None, typer.Option(help="Examples in one call; 1, or what the file fixes.", callback=at_least(1))
]
ShapeOf = Annotated[
    list[str] | None, typer.Option("--shape", help="Shape of an input whose sizes are open: name=1x3x224x224.")
]
InputsFile = Annotated[Path | None, typer.Option("--inputs", help="A .npz file with an array for each input.")]
DataFile = Annotated[
    Path | None, typer.Option("--data", help="A .npz file with inputs and `targets`: the answers are scored, too.")
]
MetricNames = Annotated[list[str] | None, typer.Option("--metric", help="Metrics of the answers (accuracy).")]
Threshold = Annotated[
    float | None,
    typer.Option(help="Above which one output names the second of two classes: 0 for logits, 0.5 for probabilities."),
]
Threads = Annotated[int, typer.Option(help="Threads of the engine.", callback=at_least(1))]
Seconds = Annotated[float, typer.Option(help="Time limit of each latency measurement.", callback=positive)]
ThroughputBatch = Annotated[
    int | None,
    typer.Option(
        help="Examples in one call for the throughput; 32 where the file's batch is open.", callback=at_least(1)
    ),
]
WithMemory = Annotated[bool, typer.Option("--memory/--no-memory", help="Measure the memory of fresh processes.")]
Engine = Annotated[
    str | None, typer.Option(help="What runs it, such as openvino:precision=f32; else the first one for its format.")
]
NetworkOf = Annotated[
    str | None, typer.Option("--network", help="What builds the network for --engine torch: package.module:function.")
]
LedgerFile = Annotated[
    Path | None, typer.Option("--ledger", help="Append the measurements to this ledger.", callback=_in_a_folder)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def bench(
    file: File,
    *,
    engine: Engine = None,
    network: NetworkOf = None,
    batch: Batch = None,
    shape: ShapeOf = None,
    inputs: InputsFile = None,
    data: DataFile = None,
    metric: MetricNames = None,
    threshold: Threshold = None,
    threads: Threads = 1,
    seconds: Seconds = 10.0,
    throughput_batch: ThroughputBatch = None,
    memory: WithMemory = True,
    energy: WithEnergy = False,
    budget: BudgetText = None,
    ledger: LedgerFile = None,
    as_json: AsJson = False,
) -> None:
    """Measure a file: size, time to load, latency, throughput, processor time, memory, energy, and accuracy on data.

    Exit code 3 if it breaks a bound of the budget, 4 if a bound stays undecided.
    """
    from dwindle.bench.any_file import measure_file
    from dwindle.bench.ledger import Ledger
    from dwindle.bench.measure import record
    from dwindle.bench.plan import Plan
    from dwindle.bench.probes.scores import scores_named
    from dwindle.bench.protocol import LatencyProtocol
    from dwindle.cli.engines import engine_named

    require_data(data, metric=metric, threshold=threshold)
    told = told_by(ALONE, memory=memory, energy=energy, scores=(metric or ("accuracy",)) if data else ())
    extras = Extras.of(energy=energy, budget=budget, told=told)
    plan = Plan(
        n_threads=threads,
        scores=scores_named(metric or ("accuracy",)),
        threshold=threshold,
        latency=LatencyProtocol(seconds=seconds),
        memory=memory,
        energy=extras.has_sensor,
        cpu_time=True,
        load_time=True,
    )
    source = source_of(batch=batch, shape=shape, inputs=inputs, data=data)
    chosen = None if engine is None else engine_named(engine, network=network)
    measured = measure_file(file, plan=plan, source=source, throughput_batch=throughput_batch, engine=chosen)
    if ledger is not None:
        record(Ledger(ledger), measured)
    _tell(measured, extras, as_json=as_json)
    extras.leave((measured,))


def require_data(data: Path | None, *, metric: Sequence[str] | None, threshold: float | None) -> None:
    """Refuse options that score answers where there are no examples.

    Raises:
        typer.BadParameter: there are none.
    """
    if data is None and (metric or threshold is not None):
        option = "--metric" if metric else "--threshold"
        raise typer.BadParameter(f"{option} scores answers, which needs examples with targets: give --data FILE.npz")


def source_of(
    *, batch: int | None, shape: Sequence[str] | None, inputs: Path | None, data: Path | None = None, seed: int = 0
) -> Source:
    """Return where inputs come from, as the options say.

    Raises:
        SettingError: a shape that cannot be read, or a batch below 1.
    """
    from dwindle.bench.any_file import Source
    from dwindle.bench.made_inputs import Shapes, parse_shape

    shapes = Shapes(batch=batch, by_name=dict(map(parse_shape, shape or ())), seed=seed)
    return Source(shapes=shapes, inputs=inputs, labelled=data)


def _tell(measured: Measured, extras: Extras, *, as_json: bool) -> None:
    from dwindle.cli.figures import plain_measured, print_measurements

    if as_json:
        print_json(plain_measured(measured) | extras.plain((measured,)))
        return
    path, last = measured.artifacts[0].path, measured.measurements[-1]
    n_threads = last.conditions.get("n_threads", 1)
    stdout.print(f"{path}: {last.runtime}, {n_threads} thread{'' if n_threads == 1 else 's'}", markup=False)
    stdout.print(last.machine, markup=False)
    print_measurements({path.name: measured.measurements})
    extras.show((measured,))
