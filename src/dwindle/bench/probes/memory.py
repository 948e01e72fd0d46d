"""This file measures memory: the most bytes that a fresh process holds while it loads a file and runs it.

A fresh process, because this one has torch, the data and everything else in its memory. It is started several times,
and each time reports three figures: what Python and the engine take before the file is touched, what is held once the
file is loaded, and the peak, loading (decoding of a `.dwn` included) and running taken together. Engines are compared
by the peak beyond the baseline (`memory_added`): what an engine's binding for Python imports is in all three.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from dwindle.artifact import Artifact
from dwindle.bench.batches import n_examples
from dwindle.bench.measurement import (
    MEMORY_ADDED,
    MEMORY_BASELINE,
    MEMORY_LOADED,
    MEMORY_PEAK,
    Measurement,
    Subject,
)
from dwindle.bench.probes.memory_child import ENGINES
from dwindle.core.statistics import mean_interval
from dwindle.errors import MeasurementError, SettingError
from dwindle.runtimes.protocol import Array, Runtime
from dwindle.settings import TAG, to_plain

_MODULE: Final = "dwindle.bench.probes.memory_child"
_TAIL: Final = 600
"""Characters of a failed process's last words that a message quotes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryProtocol:
    """How memory is measured.

    Attributes:
        n_processes: fresh processes, one after the other; two are the fewest that have a spread.
        n_runs: runs of the file in each.
        timeout_seconds: a process that takes longer is killed.
    """

    n_processes: int = 3
    n_runs: int = 3
    timeout_seconds: float = 300.0

    def __post_init__(self) -> None:
        if self.n_processes < 2 or self.n_runs < 1 or not 0 < self.timeout_seconds < math.inf:
            raise SettingError(
                f"n_processes must be at least 2, n_runs at least 1 and timeout_seconds positive; got "
                f"{self.n_processes}, {self.n_runs}, {self.timeout_seconds}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What one fresh process held, in bytes; `source` says how the system knows it, `has_torch` that torch is in it."""

    baseline: int
    loaded: int
    peak: int
    source: str
    has_torch: bool = False


def measure_memory(
    subject: Subject,
    artifact: Artifact,
    inputs: tuple[Array, ...],
    *,
    runtime: Runtime,
    protocol: MemoryProtocol | None = None,
    n_threads: int = 1,
) -> tuple[Measurement, ...]:  # fmt: skip
    """Return peak, peak beyond the baseline, memory once loaded, and the baseline, each with its t-interval.

    Raises:
        MeasurementError: a fresh process cannot build this engine, crashes, runs out of memory or time.
    """
    protocol = protocol or MemoryProtocol()
    found = footprints(artifact, inputs, runtime=runtime, protocol=protocol, n_threads=n_threads)
    figures = {
        MEMORY_PEAK: [f.peak for f in found],
        MEMORY_ADDED: [f.peak - f.baseline for f in found],
        MEMORY_LOADED: [f.loaded for f in found],
        MEMORY_BASELINE: [f.baseline for f in found],
    }
    conditions: dict[str, str | float] = {"batch": n_examples(inputs), "source": found[0].source}
    if found[0].has_torch:
        conditions["baseline_holds"] = "torch"
    return tuple(
        subject.measured(
            metric, mean_interval([float(v) for v in values]), protocol="fresh process", conditions=conditions
        )
        for metric, values in figures.items()
    )


def footprints(
    artifact: Artifact, inputs: tuple[Array, ...], *, runtime: Runtime, protocol: MemoryProtocol, n_threads: int = 1
) -> tuple[Footprint, ...]:
    """Return what each fresh process held.

    Raises:
        MeasurementError: as `measure_memory`.
    """
    engine, settings = _engine(runtime)
    with tempfile.TemporaryDirectory(prefix="dwindle-memory-") as folder:
        batch = Path(folder) / "inputs.npz"
        with batch.open("wb") as file:
            np.savez(file, **{f"input_{i:03}": array for i, array in enumerate(inputs)})  # type: ignore[arg-type]
        orders = {
            "engine": engine,
            "settings": settings,
            "path": str(artifact.path.resolve()),
            "format": artifact.format,
            "inputs": str(batch),
            "n_threads": n_threads,
            "n_runs": protocol.n_runs,
        }
        answers = [Path(folder) / f"answer_{number}.json" for number in range(protocol.n_processes)]
        return tuple(
            _footprint(orders | {"answer": str(answer)}, artifact.path, seconds=protocol.timeout_seconds)
            for answer in answers
        )


def _engine(runtime: Runtime) -> tuple[str, Mapping[str, Any]]:
    name = type(runtime).__name__
    if name not in ENGINES:
        raise MeasurementError(
            f"memory is measured in a fresh process, which can build {', '.join(ENGINES)} but not {name}; "
            "measure with memory=False, or with another runtime"
        )
    return name, {key: value for key, value in to_plain(runtime).items() if key != TAG}


def _footprint(orders: Mapping[str, Any], path: Path, *, seconds: float) -> Footprint:
    """Return what a fresh process finds that follows `orders`, which measure the file at `path`."""
    # It must find this very package, however the caller made it importable; and -P in the command keeps it from finding
    # a numpy.py in the caller's folder.
    root = str(Path(__file__).resolve().parents[3])
    found = os.environ.get("PYTHONPATH", "")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in (root, found) if part)}
    try:
        finished = subprocess.run(
            (sys.executable, "-P", "-m", _MODULE),
            input=json.dumps(orders),
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise MeasurementError(
            f"the fresh process that measures the memory of {path} took longer than {seconds:g} s and was stopped; "
            "allow more time or use a smaller batch"
        ) from error
    if finished.returncode != 0:
        raise MeasurementError(_failure(path, finished.returncode, finished.stderr))
    try:
        return Footprint(**json.loads(Path(orders["answer"]).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise MeasurementError(
            f"the fresh process that measures the memory of {path} ended without an answer ({error}); see that nothing "
            "ends Python when it starts, and that the folder for temporary files is not full"
        ) from error


def _failure(path: Path, code: int, words: str) -> str:
    end = words.strip()[-_TAIL:] or "it said nothing"
    if code < 0:  # killed by a signal; the system's own killer uses 9
        reason = f"was killed by signal {-code}" + (", as happens when the memory runs out" if code == -9 else "")
    else:
        reason = f"failed with code {code}"
    return f"the fresh process that measures the memory of {path} {reason}; its last words: {end}"
