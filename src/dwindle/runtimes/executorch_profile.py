"""This file reads the trace of ExecuTorch: its operators, and the operations of XNNPACK inside those it delegates."""

from __future__ import annotations

import functools
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from dwindle.artifact import Artifact
from dwindle.errors import MeasurementError
from dwindle.runtimes.call_times import UNKNOWN, CallTimes, Kernel, timed_ms
from dwindle.runtimes.chatter import caught_chatter
from dwindle.runtimes.executorch import ExecuTorchRuntime
from dwindle.runtimes.protocol import Array

_RUN: Final = "Method::execute"
_DELEGATED: Final = "DELEGATE_CALL"
_OPERATOR: Final = "OPERATOR_CALL"
_NATIVE: Final = "native_call_"
_DETAIL: Final = re.compile(r"^(?P<kind>[^(#]+?)\s*(\((?P<detail>[^)]*)\))?\s*(?P<how>[A-Z ]*)(#\d+)?$")
_NUMBERS: Final = {"F32": "float32", "F16": "float16", "S8": "int8", "U8": "int8", "QS8": "int8", "QU8": "int8",
                   "QC8": "int8", "QD8": "int8", "QC4": "int8"}  # fmt: skip
_NS: Final = 1e-6


def profile(
    runtime: ExecuTorchRuntime, artifact: Artifact, inputs: tuple[Array, ...], *, n_runs: int, n_threads: int = 1
) -> CallTimes:
    """Return the times of `n_runs` calls, after one that does not count; `inputs` are those of one call.

    Raises:
        MeasurementError: the engine refuses the file or the inputs, or was built without its tracer.
    """
    traced = replace(runtime, is_traced=True)
    with tempfile.TemporaryDirectory() as folder, traced.load(artifact, n_threads=n_threads) as session:
        session.run(*inputs)  # tells what is wrong with them
        tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in inputs]
        call = functools.partial(session.method.execute, tensors)
        wall = [timed_ms(call) for _ in range(n_runs)]
        calls = _calls(session.program, Path(folder))
    return _call_times(calls[len(calls) - n_runs :], wall)


def _calls(program: Any, folder: Path) -> list[list[Any]]:
    """Return the timed events of each call."""
    trace = folder / "trace.etdp"
    with caught_chatter() as told, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the way in which executorch reads its own schema
        try:
            program.write_etdump_result_to_file(str(trace), str(folder / "debug.bin"))
            traces: Any = import_module("executorch.devtools.etdump.serialize")
            found = traces.deserialize_from_etdump_flatcc(trace.read_bytes())
        except (OSError, RuntimeError, ValueError, ImportError) as error:
            raise MeasurementError(
                f"executorch wrote no trace ({error} {told()}".strip() + "); its build must include the event tracer"
            ) from error
    blocks = [[event.profile_event for event in run.events or () if event.profile_event] for run in found.run_data]
    return [events for events in blocks if any(event.name == _RUN for event in events)]


def _call_times(calls: Sequence[Sequence[Any]], wall: Sequence[float]) -> CallTimes:
    if len(calls) != len(wall):
        raise MeasurementError(f"executorch's trace tells of {len(calls)} calls out of {len(wall)}; profile fewer")
    times = [dict(_operations(events)) for events in calls]
    kernels = tuple(dict.fromkeys(kernel for one in times for kernel in one))
    ms = np.array([[one.get(kernel, 0.0) for kernel in kernels] for one in times]).reshape(len(times), len(kernels))
    whole = np.array([next(_ms(event) for event in events if event.name == _RUN) for events in calls])
    return CallTimes(kernels=kernels, ms=ms, engine_ms=np.maximum(whole - ms.sum(axis=1), 0.0), wall_ms=np.array(wall))


def _operations(events: Sequence[Any]) -> Iterator[tuple[Kernel, float]]:
    """Yield every operation: those of a delegate in its place, as far as it tells of them."""
    seen: Counter[str] = Counter()
    for event in events:
        name = str(event.name or event.delegate_debug_id_str or "")
        is_inner = bool(event.delegate_debug_id_str)
        if not is_inner and not name.startswith(_NATIVE):
            continue  # the run, the call of a delegate or of an operator, which hold what is told one by one
        place = f"{event.instruction_id}: {name}"
        seen[place] += 1
        yield _kernel(name, f"{place} {seen[place]}" if seen[place] > 1 else place), _ms(event)


def _kernel(name: str, place: str) -> Kernel:
    """Return the kernel that XNNPACK calls `Convolution (NHWC, QC8) IGEMM #1`, or torch `native_call_addmm.out`."""
    if name.startswith(_NATIVE):
        return Kernel(name=place, kind=name.removeprefix(_NATIVE).partition(".")[0])
    found = _DETAIL.match(name)
    if found is None:
        return Kernel(name=place, kind=name)
    parts = [part.strip() for part in (found["detail"] or "").split(",")]
    numbers = next((_NUMBERS[part] for part in reversed(parts) if part in _NUMBERS), UNKNOWN)
    kind = " ".join(part for part in (found["kind"].strip(), found["how"].strip()) if part)
    return Kernel(name=place, kind=kind, numbers=numbers)


def _ms(event: Any) -> float:
    return (int(event.end_time) - int(event.start_time)) * _NS
