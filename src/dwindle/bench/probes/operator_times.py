"""This file measures which operations an engine spends its time in: a profile of one file on one engine.

Every operation belongs to a class (`operator_classes.py`). Where an engine tells how long its run took, the run less
its operations is a class of its own, `engine`: a difference, so with it the classes add up to the run, whatever the
operations explain; what these explain alone is told beside it. What is left of a call, by our clock around it, belongs
to no class: it lowers the coverage and is never shared out.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from dwindle.artifact import Artifact
from dwindle.bench.batches import n_examples
from dwindle.bench.machine import this_machine
from dwindle.bench.probes.middle_half import middle_half, middle_interval, middle_mean, resampled_halves
from dwindle.bench.probes.operator_classes import CLASSES, ENGINE, QUANTIZING, class_of
from dwindle.errors import MeasurementError, RuntimeUnavailableError, SettingError
from dwindle.runtimes.call_times import CallTimes, timed_ms
from dwindle.runtimes.fixed_batch import fixed_batch
from dwindle.runtimes.protocol import Array, Runtime, Session

LEAST_RUNS: Final = 2
"""Calls; from one alone no interval follows."""
MOST_RUNS: Final = 10_000
"""onnxruntime keeps a million events, and a network has some hundred operations."""
UNTOLD: Final = {
    "litert": (
        "LiteRT's Python interpreter does not tell the time of single operations (ai-edge-litert 2.3); its C++ tool "
        "does: benchmark_model --enable_op_profiling=true"
    )
}
"""Engines that run a file and do not tell, with the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation that the engine ran.

    Attributes:
        name: the engine's own name.
        kind: the engine's kind, such as QLinearConv.
        group: its class, one of `operator_classes.CLASSES`.
        numbers: what it computes with: int8, float32, ...; empty where the engine does not tell.
        ms: its time in one call, the mean over the calls that count.
        share: of the time of a call, the mean over the same calls.
    """

    name: str
    kind: str
    group: str
    numbers: str
    ms: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassTime:
    """All operations of a class together.

    Attributes:
        group: the class; `engine` for what the engine does beside operations.
        n_operations: how many.
        ms: in one call, the mean over the calls that count.
        share: of the time of a call, the mean over the same calls, in [0, 1].
        low: lower end of the 95 % interval of `share`.
        high: upper end.
    """

    group: str
    n_operations: int
    ms: float
    share: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not all(0 <= value < math.inf for value in (self.ms, self.share, self.low, self.high)):
            raise MeasurementError(
                f"{self.group}: {self.ms} ms, share {self.share} [{self.low}, {self.high}] is no measurement; profile "
                "again"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorProfile:
    """Where the time of a call goes.

    Of eight calls and more the middle half counts, by how long they took: some calls are disturbed by other work.

    Attributes:
        operations: what ran, the slowest first.
        classes: their classes, the slowest first; they add up to `coverage`.
        quantizing: what quantizes and dequantizes as operations of its own, together.
        wall_ms: time of a call by a clock around it, the mean over the same calls.
        unprofiled_ms: the same of other calls right before, without the profile, which takes some microseconds for
            each operation: in small networks most of the class `engine` is the profile itself.
        coverage: the share of `wall_ms` that the classes explain; with the class `engine` it is the engine's whole run.
        artifact: sha256 of the file.
        runtime: name and version of the engine.
        machine: `bench.machine.Machine.summary()`.
        n_runs: how many count, and stand behind each interval.
        calls_per_run: calls that each of them is the mean of.
        n_calls: all calls that were profiled.
        n_threads: threads of the engine.
        batch: examples in a call.
    """

    operations: tuple[Operation, ...]
    classes: tuple[ClassTime, ...]
    quantizing: ClassTime
    wall_ms: float
    unprofiled_ms: float
    coverage: float
    artifact: str
    runtime: str
    machine: str
    n_runs: int
    calls_per_run: int = 1
    n_calls: int = 0
    n_threads: int = 1
    batch: int = 1

    def __post_init__(self) -> None:
        times = (self.wall_ms, self.unprofiled_ms)
        if not all(0 < value < math.inf for value in times) or not 0 <= self.coverage < math.inf:
            raise MeasurementError(
                f"a call of {self.wall_ms} ms ({self.unprofiled_ms} ms without the profile), coverage {self.coverage}, "
                "is no measurement; profile again"
            )

    @property
    def coverage_of_operations(self) -> float:
        """The share of `wall_ms` that the engine's operations explain, without the class `engine`."""
        return sum(found.share for found in self.classes if found.group != ENGINE)

    def of(self, *groups: str) -> tuple[Operation, ...]:
        """Return the operations of some classes."""
        return tuple(operation for operation in self.operations if operation.group in groups)

    def ms_of(self, *groups: str) -> float:
        """Return the time of some classes in one call."""
        return sum(found.ms for found in self.classes if found.group in groups)

    def share_of(self, *groups: str) -> float:
        """Return the share of some classes in the time of a call."""
        return sum(found.share for found in self.classes if found.group in groups)


def measure_operators(
    artifact: Artifact, inputs: tuple[Array, ...], runtime: Runtime, *, n_runs: int = 30, n_threads: int = 1
) -> OperatorProfile:
    """Return the profile of `n_runs` calls of `artifact`, after one that does not count.

    Raises:
        SettingError: fewer than two runs, too many, or fewer than one thread.
        RuntimeUnavailableError: the engine does not tell the time of its operations, or is not installed.
        MeasurementError: it refuses the file or the inputs.
    """
    if not LEAST_RUNS <= n_runs <= MOST_RUNS or n_threads < 1:
        raise SettingError(
            f"a profile takes {LEAST_RUNS} to {MOST_RUNS:,} runs and at least one thread, got {n_runs} and {n_threads}"
        )
    if reason := unavailable(runtime):
        raise RuntimeUnavailableError(reason)
    if artifact.format not in runtime.formats:
        raise MeasurementError(f"{runtime.name} does not run .{artifact.format} files ({artifact.path})")
    with runtime.load(artifact, n_threads=n_threads) as session:
        inputs = _of_one_call(inputs, session)
        session.run(*inputs)
        unprofiled = [timed_ms(functools.partial(session.run, *inputs)) for _ in range(n_runs)]
    times = PROFILERS[engine_name(runtime)](runtime, artifact, inputs, n_runs=n_runs, n_threads=n_threads)
    found = profile_of(times, runtime.name, artifact=artifact.sha256, unprofiled_ms=middle_mean(np.array(unprofiled)))
    return replace(found, n_threads=n_threads, batch=n_examples(inputs))


def _of_one_call(inputs: tuple[Array, ...], session: Session) -> tuple[Array, ...]:
    """Return the examples of one call, where the file fixes their number: a session may make several calls of more."""
    size = fixed_batch(session.inputs)
    counts = {len(array) for array in inputs if array.ndim}
    return inputs if size is None or min(counts, default=size) <= size else tuple(array[:size] for array in inputs)


def engine_name(runtime: Runtime) -> str:
    """Return the name of an engine without its version."""
    return runtime.name.partition(" ")[0]


def unavailable(runtime: Runtime) -> str | None:
    """Return why `runtime` cannot say where its time goes; None if it can."""
    name = engine_name(runtime)
    if name not in PROFILERS:
        known = ", ".join(PROFILERS)
        return f"{UNTOLD.get(name, f'{name} does not tell the time of its operations')}; {known} tell it from here"
    return runtime.unavailable()


def profile_of(times: CallTimes, runtime: str, *, artifact: str, unprofiled_ms: float) -> OperatorProfile:
    """Return the profile that `times` amount to, of one thread and one example."""
    counted = _counted(times)
    kept = counted.kept
    groups = [class_of(kernel.kind, engine=runtime.partition(" ")[0]) for kernel in times.kernels]
    ms = times.ms[kept].mean(axis=0)
    shares = (times.ms[kept] / times.wall_ms[kept, None]).mean(axis=0)
    operations = [
        Operation(
            name=kernel.name,
            kind=kernel.kind,
            group=group,
            numbers=kernel.numbers,
            ms=float(ms[i]),
            share=float(shares[i]),
        )
        for i, (kernel, group) in enumerate(zip(times.kernels, groups, strict=True))
    ]
    classes = [counted.together(group, (group,), groups) for group in CLASSES if group in groups]
    if times.engine_ms is not None:
        classes.append(counted.class_time(ENGINE, times.engine_ms, n_operations=0))
    return OperatorProfile(
        operations=tuple(sorted(operations, key=lambda operation: -operation.ms)),
        classes=tuple(sorted(classes, key=lambda found: -found.ms)),
        quantizing=counted.together("quantize and dequantize", QUANTIZING, groups),
        wall_ms=float(times.wall_ms[kept].mean()),
        unprofiled_ms=unprofiled_ms,
        coverage=sum(found.share for found in classes),
        artifact=artifact,
        runtime=runtime,
        machine=this_machine().summary(),
        n_runs=len(kept),
        calls_per_run=times.calls_per_sample,
        n_calls=len(times.wall_ms) * times.calls_per_sample,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Counted:
    """All calls, and which of them count.

    Attributes:
        times: of all calls.
        kept: places of those that count.
        halves: what would have counted of other calls of the same kind; None where all count.
    """

    times: CallTimes
    kept: Array
    halves: Array | None

    def class_time(self, group: str, ms: Array, *, n_operations: int) -> ClassTime:
        """Return what a class took, from its time in each call, (n_calls,)."""
        share = middle_interval(ms / self.times.wall_ms, self.kept, self.halves)
        return ClassTime(
            group=group,
            n_operations=n_operations,
            ms=float(ms[self.kept].mean()),
            share=share.value,
            low=max(share.low, 0.0),
            high=share.high,
        )

    def together(self, name: str, those: tuple[str, ...], groups: Sequence[str]) -> ClassTime:
        """Return what the operations took whose group is one of `those`."""
        places = [i for i, found in enumerate(groups) if found in those]
        return self.class_time(name, self.times.ms[:, places].sum(axis=1), n_operations=len(places))


def _counted(times: CallTimes) -> _Counted:
    if len(times.wall_ms) < LEAST_RUNS:
        raise MeasurementError("one run says nothing about the spread of its shares; profile at least two")
    return _Counted(times=times, kept=middle_half(times.wall_ms), halves=resampled_halves(times.wall_ms))


def _onnxruntime(
    runtime: Any, artifact: Artifact, inputs: tuple[Array, ...], *, n_runs: int, n_threads: int
) -> CallTimes:
    from dwindle.runtimes.onnx_profile import profile

    return profile(runtime, artifact, inputs, n_runs=n_runs, n_threads=n_threads)


def _openvino(runtime: Any, artifact: Artifact, inputs: tuple[Array, ...], *, n_runs: int, n_threads: int) -> CallTimes:
    from dwindle.runtimes.openvino_profile import profile

    return profile(runtime, artifact, inputs, n_runs=n_runs, n_threads=n_threads)


def _executorch(
    runtime: Any, artifact: Artifact, inputs: tuple[Array, ...], *, n_runs: int, n_threads: int
) -> CallTimes:
    from dwindle.runtimes.executorch_profile import profile

    return profile(runtime, artifact, inputs, n_runs=n_runs, n_threads=n_threads)


def _torch(runtime: Any, artifact: Artifact, inputs: tuple[Array, ...], *, n_runs: int, n_threads: int) -> CallTimes:
    from dwindle.runtimes.torch_profile import profile

    return profile(runtime, artifact, inputs, n_runs=n_runs, n_threads=n_threads)


PROFILERS: Final[Mapping[str, Callable[..., CallTimes]]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "executorch": _executorch,
    "torch": _torch,
}
"""Engines that tell the time of each operation."""
