"""This file reads out of an engine how large it planned its arena: of LiteRT, and of an ExecuTorch program.

It is a fact about a file and an engine, exact and the same on every machine; nothing is run. What an engine takes
beside its plan is not in it: weights, code, and memory that a delegate sets aside for itself. So the engine is named as
it plans: LiteRT with its built-in kernels, whatever else ran the file; and a program with a delegate takes at least
what it plans.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Final

from dwindle.artifact import Artifact
from dwindle.bench.measurement import ARENA, AT_LEAST, Measurement, Subject, exactly
from dwindle.errors import MeasurementError, RuntimeUnavailableError
from dwindle.runtimes.chatter import caught_chatter
from dwindle.runtimes.litert import LiteRtRuntime

PROTOCOL: Final = "engine's plan"
_PADDING: Final = 128
"""LiteRT aligns to 64 bytes; two tensors that lie further apart than two of these do not lie in one arena."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What an engine planned for a file.

    Attributes:
        n_bytes: of the arena.
        runtime: name of the engine, as it plans.
        kernels: what runs in that arena, in words.
        is_least: a delegate takes more, and nothing tells how much.
    """

    n_bytes: int
    runtime: str
    kernels: str
    is_least: bool = False


def planned_bytes(artifact: Artifact) -> int:
    """Return the bytes of `plan_of`, which raises the same errors."""
    return plan_of(artifact).n_bytes


def plan_of(artifact: Artifact) -> Planned:
    """Return the arena that the engine of this format planned for `artifact`.

    Of LiteRT it is the arena of its built-in kernels, their workspaces included. Of ExecuTorch it is what the program
    itself plans: with a delegate only the tensors that pass in and out of it.

    Raises:
        RuntimeUnavailableError: the engine is not installed.
        MeasurementError: a format whose engine plans nothing, or a file that it refuses.
    """
    read = READERS.get(artifact.format)
    if read is None:
        raise MeasurementError(
            f"{artifact.path}: only engines of .{' and .'.join(READERS)} plan an arena; `dwindle fits` estimates one "
            "from an .onnx or .dwn file"
        )
    return read(artifact)


def measure_planned_memory(subject: Subject, artifact: Artifact) -> Measurement:
    """Return the arena that the engine planned, in bytes, exact; its `runtime` is the engine that plans it.

    Raises:
        RuntimeUnavailableError: as `plan_of`.
        MeasurementError: as `plan_of`.
    """
    planned = plan_of(artifact)
    conditions: dict[str, str | float] = {"kernels": planned.kernels}
    if planned.is_least:
        conditions[AT_LEAST] = "yes"
    planner = replace(subject, runtime=planned.runtime)
    return planner.measured(ARENA, exactly(planned.n_bytes), protocol=PROTOCOL, conditions=conditions)


def _litert(artifact: Artifact) -> Planned:
    engine = LiteRtRuntime(delegated=False)
    with engine.load(artifact) as session:
        n_bytes = litert_span(session.interpreter)
    return Planned(n_bytes=n_bytes, runtime=engine.name, kernels="built-in, no delegate")


def litert_span(interpreter: Any) -> int:
    """Return the bytes between the first and the last byte of an interpreter's arena, which must be allocated.

    Tensors of the file lie in the file. Inputs, what operations make, and workspaces lie in the arena; buffers that a
    kernel keeps from call to call, or allocates while it runs, lie apart and are not counted.
    """
    made = {int(index) for op in interpreter._get_ops_details() for index in op["outputs"]}
    made |= {int(detail["index"]) for detail in interpreter.get_input_details()}
    spans: list[tuple[int, int, bool]] = []
    for detail in interpreter.get_tensor_details():
        index = int(detail["index"])
        if index not in made and detail["name"]:
            continue  # a constant of the file; workspaces have no name
        try:
            array = interpreter.tensor(index)()
        except ValueError:  # not allocated: part of a fused operation, or only there while it runs
            continue
        address = int(array.__array_interface__["data"][0])
        spans.append((address, address + array.nbytes, index in made))
    return _widest(spans)


def _widest(spans: Iterable[tuple[int, int, bool]]) -> int:
    """Return the bytes of the largest run of spans without a gap, among those runs that hold a tensor."""
    runs: list[tuple[int, int, bool]] = []
    for start, stop, is_tensor in sorted(spans):
        if runs and start - runs[-1][1] <= _PADDING:
            first, last, has_tensor = runs[-1]
            runs[-1] = (first, max(last, stop), has_tensor or is_tensor)
        else:
            runs.append((start, stop, is_tensor))
    return max((stop - start for start, stop, has_tensor in runs if has_tensor), default=0)


def _executorch(artifact: Artifact) -> Planned:
    from dwindle.runtimes.executorch import ExecuTorchRuntime

    engine = ExecuTorchRuntime()
    if reason := engine.unavailable():
        raise RuntimeUnavailableError(reason)
    # The program is read and not loaded: it may be for kernels that are not here.
    with caught_chatter(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader: Any = import_module("executorch.exir._serialize._program")  # there is no public reader of programs
        try:
            plan = reader.deserialize_pte_binary(artifact.path.read_bytes()).program.execution_plan[0]
        except Exception as error:  # its reader raises anything on hostile bytes
            raise MeasurementError(f"{artifact.path} is no ExecuTorch program ({error}); export it again") from error
    delegates = sorted({str(delegate.id) for delegate in plan.delegates})
    return Planned(
        n_bytes=sum(map(int, plan.non_const_buffer_sizes)),
        runtime=engine.name,
        kernels=f"of the program; memory of {' and '.join(delegates)} is not in it" if delegates else "of the program",
        is_least=bool(delegates),
    )


READERS: Final[Mapping[str, Callable[[Artifact], Planned]]] = {"tflite": _litert, "pte": _executorch}
