"""This file reads OpenVINO's performance counters: the mean time of each operation over the calls of a compiled model.

The counters never start anew and hold whole microseconds, so every sample is a model compiled again: the mean over its
calls, the first one taken out again.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from dwindle.artifact import Artifact
from dwindle.runtimes.call_times import UNKNOWN, CallTimes, Kernel, timed_ms
from dwindle.runtimes.openvino import OpenVinoRuntime, OpenVinoSession
from dwindle.runtimes.protocol import Array

N_SAMPLES: Final = 5
_RAN: Final = "EXECUTED"
_SUFFIX: Final = re.compile(r"_(f32|f16|bf16|[iu]8|[iu]32)$", re.IGNORECASE)
_Sample = tuple[dict[Kernel, float], float]
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
    kernels = tuple(dict.fromkeys(kernel for times, _ in samples for kernel in times))
    ms = np.array([[times.get(kernel, 0.0) for kernel in kernels] for times, _ in samples])
    return CallTimes(
        kernels=kernels,
        ms=ms.reshape(n_samples, len(kernels)),
        engine_ms=None,
        wall_ms=np.array([wall for _, wall in samples]),
        calls_per_sample=n_calls,
    )


def _sample(session: OpenVinoSession, inputs: tuple[Array, ...], n_calls: int) -> _Sample:
    """Return the mean of each operation, and that of a call, over the calls after the first."""
    session.run(*inputs)  # which also leaves its inputs with the engine
    first = dict(_means(session))
    wall = timed_ms(lambda: [session.request.infer(share_outputs=True) for _ in range(n_calls)]) / n_calls
    totals = {kernel: mean * (n_calls + 1) - first.get(kernel, 0.0) for kernel, mean in _means(session)}
    return {kernel: max(total / n_calls, 0.0) for kernel, total in totals.items()}, wall


def _means(session: OpenVinoSession) -> Iterator[tuple[Kernel, float]]:
    """Yield each operation that ran, and its mean in ms since the model was compiled.

    OpenVINO numbers what it makes itself, anew whenever it compiles, and lists what runs side by side in any order: an
    operation is known by its kind and its place among those of its kind.
    """
    seen: Counter[str] = Counter()
    for entry in session.request.profiling_info:
        if entry.status.name == _RAN:
            kind, numbers = str(entry.node_type), numbers_of(str(entry.exec_type))
            seen[kind + numbers] += 1
            name = f"{kind} {seen[kind + numbers]}"
            yield Kernel(name=name, kind=kind, numbers=numbers), entry.real_time.total_seconds() * 1e3


def numbers_of(exec_type: str, names: Mapping[str, str] = _NUMBERS) -> str:
    """Return what a kernel of OpenVINO computes with, from the end of the name of its implementation.

    >>> numbers_of("brgconv_avx2_I8"), numbers_of("jit_uni_f32"), numbers_of("unknown")
    ('int8', 'float32', '')
    """
    found = _SUFFIX.search(exec_type)
    return names.get(found[1].lower(), UNKNOWN) if found else UNKNOWN
