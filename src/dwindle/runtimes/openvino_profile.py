"""This file reads OpenVINO's performance counters: the mean time of each operation over the calls of a compiled model.

The counters never start anew and hold whole microseconds, so every sample is a model compiled again: the mean over its
calls, the first one taken out again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from dwindle.artifact import Artifact
from dwindle.errors import MeasurementError
from dwindle.runtimes.call_times import UNKNOWN, CallTimes, Kernel, timed_ms
from dwindle.runtimes.openvino import OpenVinoRuntime, OpenVinoSession
from dwindle.runtimes.protocol import Array

N_SAMPLES: Final = 5
_RAN: Final = "EXECUTED"
_SUFFIX: Final = re.compile(r"_(f32|f16|bf16|[iu]8|[iu]32)$")
_Sample = tuple[tuple[Kernel, ...], list[float], float]
_NUMBERS: Final = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "i8": "int8", "u8": "int8"}


def profile(
    runtime: OpenVinoRuntime, artifact: Artifact, inputs: tuple[Array, ...], *, n_runs: int, n_threads: int = 1
) -> CallTimes:
    """Return the means of up to five samples that together hold at least `n_runs` calls.

    Raises:
        MeasurementError: the engine refuses the file or the inputs.
    """
    n_samples = min(N_SAMPLES, n_runs)
    n_calls = -(-n_runs // n_samples)
    samples: list[_Sample] = []
    for _ in range(n_samples):
        with runtime.load_with(artifact, {"PERF_COUNT": True}, n_threads=n_threads) as session:
            samples.append(_sample(session, inputs, n_calls))
    if len({tuple(kernel.kind for kernel in kernels) for kernels, _, _ in samples}) > 1:
        raise MeasurementError(f"openvino compiles {artifact.path} to other operations each time; profile it elsewhere")
    return CallTimes(
        kernels=samples[0][0],
        ms=np.array([times for _, times, _ in samples]).reshape(n_samples, -1),
        engine_ms=None,
        wall_ms=np.array([wall for _, _, wall in samples]),
        calls_per_sample=n_calls,
    )


def _sample(session: OpenVinoSession, inputs: tuple[Array, ...], n_calls: int) -> _Sample:
    """Return the operations, the mean of each, and that of a call, over the calls after the first."""
    session.run(*inputs)  # which also leaves its inputs with the engine
    first = {place: mean for place, _, mean in _means(session)}
    wall = timed_ms(lambda: [session.request.infer(share_outputs=True) for _ in range(n_calls)]) / n_calls
    told = list(_means(session))
    totals = [mean * (n_calls + 1) - first.get(place, 0.0) for place, _, mean in told]
    kernels = tuple(kernel for _, kernel, _ in told)
    return kernels, [max(total / n_calls, 0.0) for total in totals], wall


def _means(session: OpenVinoSession) -> Iterator[tuple[int, Kernel, float]]:
    """Yield the place of each operation that ran, what it is, and its mean in ms since the model was compiled."""
    for place, entry in enumerate(session.request.profiling_info):
        if entry.status.name == _RAN:
            yield place, _kernel(entry), entry.real_time.total_seconds() * 1e3


def _kernel(entry: Any) -> Kernel:
    return Kernel(name=str(entry.node_name), kind=str(entry.node_type), numbers=numbers_of(str(entry.exec_type)))


def numbers_of(exec_type: str, names: Mapping[str, str] = _NUMBERS) -> str:
    """Return what a kernel of OpenVINO computes with, from the end of the name of its implementation.

    >>> numbers_of("brgconv_avx2_i8"), numbers_of("jit_uni_f32"), numbers_of("unknown")
    ('int8', 'float32', '')
    """
    found = _SUFFIX.search(exec_type)
    return names.get(found[1], UNKNOWN) if found else UNKNOWN
