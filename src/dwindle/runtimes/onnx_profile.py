"""This file reads the profile that onnxruntime writes: each operation of each call, and the run around them."""

from __future__ import annotations

import functools
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from dwindle.artifact import Artifact
from dwindle.errors import MeasurementError
from dwindle.runtimes.call_times import UNKNOWN, CallTimes, Kernel, timed_ms
from dwindle.runtimes.onnxruntime import OnnxRuntime, OnnxSession
from dwindle.runtimes.protocol import Array

_KERNEL: Final = "_kernel_time"
_RUN: Final = "model_run"
_NUMBERS: Final = {"float": "float32", "double": "float64"}
_RANK: Final = {"int8": 0, "uint8": 0, "int16": 1, "uint16": 1, "float16": 2, "float32": 3, "float64": 4}
"""What a kernel computes with is the narrowest of its inputs; an int32 bias or an int64 shape says nothing."""
_DECODING: Final = frozenset({"MatMulNBits", "GatherBlockQuantized"})
"""They read weights of few bits and compute in floats."""
_ROUNDING: Final = frozenset({"DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})
"""They read floats and multiply bytes; their weights, once packed for the processor, are no longer told."""
_WARM_UP: Final = 1


@dataclass(frozen=True, slots=True)
class _Event:
    name: str
    start: int
    us: int
    told: Mapping[str, Any]


def profile(
    runtime: OnnxRuntime,
    artifact: Artifact,
    inputs: tuple[Array, ...],
    *,
    n_runs: int,
    n_threads: int = 1,
    optimized: Path | None = None,
) -> CallTimes:
    """Return the times of `n_runs` calls, after one that does not count.

    onnxruntime writes whole microseconds, so an operation seems up to one shorter than it was; what it does between two
    of them (and the writing of the profile) is its own run less its operations.

    Args:
        runtime: whose options hold.
        artifact: a `.onnx` or `.dwn` file.
        inputs: one batch.
        n_runs: calls.
        n_threads: threads inside an operation.
        optimized: where the engine writes the graph that it runs.

    Raises:
        MeasurementError: the engine refuses the file or the inputs, its profile tells of other calls, or it runs
            operations at the same time, so that their times do not add up to that of a call.
    """
    if runtime.execution != "sequential":
        raise MeasurementError(
            f"execution={runtime.execution!r} runs operations at the same time, so their times do not add up to that "
            "of a call; profile with execution='sequential'"
        )
    with tempfile.TemporaryDirectory() as folder:
        options = replace(
            runtime.options,
            profile_prefix=str(Path(folder) / "profile"),
            optimized_path="" if optimized is None else str(optimized),
        )
        with runtime.load_with(artifact, options, n_threads=n_threads) as session:
            session.run(*inputs)  # tells what is wrong with them
            call = _bound(session, inputs)
            wall = [timed_ms(call) for _ in range(n_runs)]
            written = Path(session.session.end_profiling())
        events = _events(written)
    return _call_times(events, wall)


def _bound(session: OnnxSession, inputs: tuple[Array, ...]) -> Callable[[], object]:
    """Return a call of the engine alone: arrays are wrapped before it, and outputs stay with the engine."""
    import onnxruntime

    engine: Any = session.session
    binding = engine.io_binding()
    for name, array in zip(session.input_names, inputs, strict=True):
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)))
    for output in engine.get_outputs():
        binding.bind_output(output.name)
    return functools.partial(engine.run_with_iobinding, binding)


def _events(path: Path) -> list[_Event]:
    try:
        found = cast("list[Mapping[str, Any]]", json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise MeasurementError(f"onnxruntime's profile cannot be read ({error}); profile again") from error
    timed = [event for event in found if "dur" in event and event.get("cat") in {"Node", "Session"}]
    events = [_Event(str(e["name"]), int(e["ts"]), int(e["dur"]), e.get("args", {})) for e in timed]
    return [event for event in events if event.name == _RUN or event.name.endswith(_KERNEL)]


def _call_times(events: Sequence[_Event], wall: Sequence[float]) -> CallTimes:
    runs = sorted((event for event in events if event.name == _RUN), key=lambda event: event.start)
    if len(runs) != len(wall) + _WARM_UP:
        raise MeasurementError(
            f"onnxruntime's profile tells of {len(runs)} calls out of {len(wall) + _WARM_UP}; profile fewer"
        )
    by_run = _by_run(events, runs)
    counted = range(_WARM_UP, len(runs))
    kernels = list(dict.fromkeys(name for i in counted for name in by_run[i]))
    told = {event.name: event.told for event in reversed(events)}
    ms = np.array([[by_run[i].get(name, 0) for name in kernels] for i in counted]) / 1e3
    ms = ms.reshape(len(counted), len(kernels))
    return CallTimes(
        kernels=tuple(_kernel(name, told[name]) for name in kernels),
        ms=ms,
        engine_ms=np.maximum(np.array([runs[i].us for i in counted]) / 1e3 - ms.sum(axis=1), 0.0),
        wall_ms=np.array(wall),
    )


def _by_run(events: Sequence[_Event], runs: Sequence[_Event]) -> list[dict[str, int]]:
    """Return the microseconds of each operation in each run; what runs inside another operation counts once."""
    nodes = sorted((e for e in events if e.name != _RUN), key=lambda event: (event.start, -event.us))
    starts = [run.start for run in runs]
    found: list[defaultdict[str, int]] = [defaultdict(int) for _ in runs]
    for event, own in _own_times(nodes):
        place = int(np.searchsorted(starts, event.start, side="right")) - 1
        if place >= 0:
            found[place][event.name] += own
    return [dict(times) for times in found]


def _own_times(nodes: Sequence[_Event]) -> Iterator[tuple[_Event, int]]:
    """Yield each operation and its time without that of the operations inside it (the body of a loop).

    Operations run one after the other, so what starts before another one's end is inside it.
    """
    inside: defaultdict[int, int] = defaultdict(int)
    open_ones: list[int] = []
    for i, event in enumerate(nodes):
        while open_ones and event.start >= nodes[open_ones[-1]].start + nodes[open_ones[-1]].us:
            open_ones.pop()
        if open_ones:
            inside[open_ones[-1]] += event.us
        open_ones.append(i)
    for i, event in enumerate(nodes):
        yield event, max(event.us - inside[i], 0)


def _kernel(name: str, told: Mapping[str, Any]) -> Kernel:
    return Kernel(name=name.removesuffix(_KERNEL), kind=str(told.get("op_name", "")), numbers=_numbers(told))


def _numbers(told: Mapping[str, Any]) -> str:
    if told.get("op_name") in _DECODING:
        return "float32"
    if told.get("op_name") in _ROUNDING:
        return "int8"
    types = [str(kind) for value in told.get("input_type_shape", ()) for kind in value]
    known = [kind for kind in (_NUMBERS.get(t, t) for t in types) if kind in _RANK]
    return min(known, key=_RANK.__getitem__).removeprefix("u") if known else UNKNOWN
