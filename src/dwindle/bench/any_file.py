"""This file measures any file that an engine here loads, whoever wrote it; examples are needed for accuracy alone."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from dwindle.artifact import Artifact
from dwindle.bench.batches import n_examples
from dwindle.bench.costs import Opened, costs_alone
from dwindle.bench.even_batches import EvenSession
from dwindle.bench.made_inputs import Shapes, cut, inputs_of, labelled_batch, made_inputs, read_npz, repeated
from dwindle.bench.measure import Measured, open_file
from dwindle.bench.plan import Plan
from dwindle.bench.probes import accuracy
from dwindle.bench.probes.size import file_at, measure_size
from dwindle.errors import DataError, DwindleError, MeasurementError
from dwindle.runtimes.catalogue import RUNTIMES, engine_for
from dwindle.runtimes.fixed_batch import fixed_batch
from dwindle.runtimes.protocol import Array, InputSpec, Runtime

THROUGHPUT_BATCH: Final = 32
"""Examples in a call while throughput is measured, where the file leaves it open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the inputs of a timed call come from.

    Attributes:
        shapes: for inputs that are made.
        inputs: a .npz file with an array for each input, which is then the timed batch.
        labelled: a .npz file with inputs and targets, on which the answers are scored.
    """

    shapes: Shapes = field(default_factory=Shapes)
    inputs: Path | None = None
    labelled: Path | None = None


def artifact_at(path: Path) -> Artifact:
    """Return the file at `path`.

    Raises:
        MeasurementError: there is none, it is empty, or its name ends as none that an engine loads.
    """
    known = sorted({f".{name}" for make in RUNTIMES.values() for name in make().formats})
    if path.suffix not in known:
        raise MeasurementError(f"{path} is no {', '.join(known[:-1])} or {known[-1]} file; export the network first")
    return file_at(path)


def measure_file(
    path: Path,
    *,
    plan: Plan,
    source: Source | None = None,
    throughput_batch: int | None = None,
    engine: Runtime | None = None,
) -> Measured:
    """Measure the file at `path`: its size, what `plan` asks for, and its answers where `source` has labelled examples.

    Args:
        path: a file of any format that an engine loads.
        plan: what to measure; the batch of the latency is that of the inputs.
        source: where the inputs come from.
        throughput_batch: examples in a call for the throughput; None is 32, or what the file fixes.
        engine: what runs it; None is the first one for its format that is installed.

    Raises:
        RuntimeUnavailableError: no engine for its format is installed.
        MeasurementError: the file cannot be loaded, or a measurement failed.
        DataError: inputs that are missing or that the file cannot run.
    """
    source = source or Source()
    artifact = artifact_at(path)
    with ExitStack() as stack:
        opened = open_file(stack, artifact, engine or engine_for(artifact.format), plan=plan)
        inputs = timed_inputs(opened, source)
        plan = replace(with_batch(plan, inputs), throughput_batch=_throughput_batch(opened, inputs, throughput_batch))
        by_batch = {n: batch_of(opened, inputs, n) for n in plan.timed_batches}
        answers = scored(opened, source, plan)
        costs = costs_alone(opened, by_batch, plan)
    sizes = measure_size(artifact)
    scores = () if answers is None else accuracy.measure_accuracy(opened.subject, answers)
    return Measured(
        artifacts=(artifact,),
        measurements=(*sizes, *scores, *costs.measurements),
        samples=costs.samples,
        confusion=None if answers is None else answers.confusion,
    )


def specs_of(opened: Opened) -> tuple[InputSpec, ...]:
    """Return what a loaded file says about its inputs.

    Raises:
        MeasurementError: it takes none.
    """
    if not (specs := opened.session.inputs):
        raise MeasurementError(f"{opened.artifact.path} takes no inputs: there is nothing to run")
    return specs


def timed_inputs(opened: Opened, source: Source) -> tuple[Array, ...]:
    """Return the inputs of one timed call, made or read, after the file ran them once.

    Raises:
        DataError: they are missing or the file cannot run them.
    """
    specs = specs_of(opened)
    if source.inputs is None:
        with _room_for("the inputs"):
            inputs = made_inputs(specs, source.shapes)
    else:
        with _room_for(f"the arrays in {source.inputs}"):
            inputs = inputs_of(read_npz(source.inputs), specs, path=source.inputs)
        if n_examples(inputs) == 0:
            raise DataError(f"{source.inputs} holds no examples, shape {inputs[0].shape}; give at least one")
    run_once(opened, inputs)
    return inputs


def batch_of(opened: Opened, inputs: tuple[Array, ...], n: int) -> tuple[Array, ...]:
    """Return `inputs` with `n` examples, after the file ran them once.

    Raises:
        DataError: the file cannot run that many.
    """
    if n == n_examples(inputs):
        return inputs
    with _room_for(f"{n:,} examples"):
        many = repeated(inputs, n)
    run_once(opened, many)
    return many


def run_once(opened: Opened, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
    """Return the answers of the file, and say which inputs it refused.

    Raises:
        DataError: it cannot run them.
    """
    try:
        return opened.session.run(*inputs)
    except Exception as error:  # each engine has its own, MemoryError among them
        shapes = ", ".join(f"{array.dtype} {array.shape}" for array in inputs)
        wanted = "; ".join(map(str, specs_of(opened)))
        raise DataError(
            f"{opened.artifact.path} takes {wanted} and cannot run {shapes}: {str(error).strip()}; "
            "give other shapes or inputs"
        ) from error


@contextmanager
def _room_for(what: str) -> Generator[None]:
    """Say what is too large where NumPy cannot make an array of this shape.

    Raises:
        DataError: there is not enough memory, or the shape is beyond what can be addressed.
    """
    try:
        yield
    except DwindleError:
        raise
    except (MemoryError, ValueError) as error:
        reason = str(error) or "not enough memory"
        raise DataError(
            f"{what} cannot be held in memory ({reason}); give a smaller batch or smaller shapes"
        ) from error


def with_batch(plan: Plan, inputs: tuple[Array, ...]) -> Plan:
    """Return `plan` for calls of as many examples as `inputs` hold."""
    return replace(plan, latency_batch=n_examples(inputs))


def scored(
    opened: Opened, source: Source, plan: Plan, *, session: accuracy.Answering | None = None
) -> accuracy.Answers | None:
    """Return the answers to the labelled examples, given through `session`; None where there are none.

    Raises:
        DataError: the examples do not fit the file or the metrics.
    """
    if source.labelled is None:
        return None
    batch = labelled_batch(source.labelled, specs_of(opened))
    size = fixed_batch(specs_of(opened)) or plan.batch_size
    named = [(opened.artifact.path.name, session or EvenSession(opened.session))]
    return accuracy.answer(named, cut(batch, size), scores=plan.scores, threshold=plan.threshold)[0]


def _throughput_batch(opened: Opened, inputs: tuple[Array, ...], asked: int | None) -> int:
    if asked is not None:
        return asked
    is_open = all(spec.shape and not isinstance(spec.shape[0], int) for spec in specs_of(opened))
    return max(THROUGHPUT_BATCH, n_examples(inputs)) if is_open else n_examples(inputs)
