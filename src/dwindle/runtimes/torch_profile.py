"""This file reads torch's own profiler: each operator of each call, without the operators that it calls itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch.profiler import ProfilerActivity, record_function

from dwindle.artifact import Artifact
from dwindle.errors import MeasurementError
from dwindle.runtimes.call_times import CallTimes, Kernel, timed_ms
from dwindle.runtimes.chatter import caught_chatter
from dwindle.runtimes.protocol import Array, Runtime, Session

_CALL: Final = "dwindle.call"
_QUANTIZED: Final = ("quantized::", "onednn::q")


def profile(
    runtime: Runtime, artifact: Artifact, inputs: tuple[Array, ...], *, n_runs: int, n_threads: int = 1
) -> CallTimes:
    """Return the times of `n_runs` calls, after one that does not count.

    What the network's Python code takes between operators is what the engine says of its run beside them.

    Raises:
        MeasurementError: the profiler tells of other calls than those that were made.
    """
    with runtime.load(artifact, n_threads=n_threads) as session:
        session.run(*inputs)
        with caught_chatter(), torch.profiler.profile(activities=[ProfilerActivity.CPU]) as told:
            wall = [timed_ms(lambda: _call(session, inputs)) for _ in range(n_runs)]
    events: Sequence[Any] = told.events() or ()
    calls = sorted((event for event in events if event.name == _CALL), key=_start)
    if len(calls) != len(wall):
        raise MeasurementError(f"torch's profiler tells of {len(calls)} calls out of {len(wall)}; profile fewer")
    times = [dict(_operations(call)) for call in calls]
    kernels = tuple(dict.fromkeys(kernel for one in times for kernel in one))
    return CallTimes(
        kernels=kernels,
        ms=np.array([[one.get(kernel, 0.0) for kernel in kernels] for one in times]).reshape(len(calls), len(kernels)),
        engine_ms=np.array([call.self_cpu_time_total / 1e3 for call in calls]),
        wall_ms=np.array(wall),
    )


def _start(event: Any) -> float:
    return float(event.time_range.start)


def _call(session: Session, inputs: tuple[Array, ...]) -> None:
    with record_function(_CALL):
        session.run(*inputs)


def _operations(call: Any) -> Iterator[tuple[Kernel, float]]:
    """Yield every operator inside `call`, in order, with its own time."""
    seen: Counter[str] = Counter()
    pending = list(reversed(call.cpu_children))
    while pending:
        event = pending.pop()
        pending += reversed(event.cpu_children)
        name = str(event.name)
        seen[name] += 1
        yield _kernel(name, seen[name]), event.self_cpu_time_total / 1e3


def _kernel(name: str, place: int) -> Kernel:
    numbers = "int8" if name.startswith(_QUANTIZED) else ""
    return Kernel(name=f"{name} {place}", kind=name.partition("::")[2] or name, numbers=numbers)
