"""This file holds what an engine tells of its own time: every operation of every call, beside the time of the call."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from dwindle.errors import MeasurementError
from dwindle.runtimes.protocol import Array

UNKNOWN: Final = ""
"""Numbers of a kernel whose engine does not tell what it computes with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One operation as an engine runs it.

    Attributes:
        name: the engine's own name.
        kind: the engine's kind, such as QLinearConv or `Fully Connected`.
        numbers: what it computes with: int8, int16, float32, ...; empty where the engine does not tell.
    """

    name: str
    kind: str
    numbers: str = UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CallTimes:
    """Times of the same calls by the engine's clock and by ours.

    Attributes:
        kernels: what ran, in the order of the first call.
        ms: (n_samples, n_kernels) what each took in one call.
        engine_ms: (n_samples,) what the engine says its run took beside its operations; None where it does not say.
        wall_ms: (n_samples,) what a call took, by a clock around it.
        calls_per_sample: 1 where the engine tells of every call; more where it tells only the mean over so many.
    """

    kernels: tuple[Kernel, ...]
    ms: Array
    engine_ms: Array | None
    wall_ms: Array
    calls_per_sample: int = 1

    def __post_init__(self) -> None:
        n_samples = len(self.wall_ms)
        shapes = [self.ms.shape == (n_samples, len(self.kernels))]
        shapes += [] if self.engine_ms is None else [self.engine_ms.shape == (n_samples,)]
        if n_samples < 1 or not all(shapes):
            raise MeasurementError(
                f"a profile of {len(self.kernels)} operations and {n_samples} calls came as {self.ms.shape}; the "
                "engine did not tell of every call"
            )
        if not (np.isfinite(self.ms).all() and np.isfinite(self.wall_ms).all() and (self.wall_ms > 0).all()):
            raise MeasurementError("the engine's profile holds times that are no numbers; profile again")


def timed_ms(call: Callable[[], object]) -> float:
    """Return the milliseconds that `call` takes."""
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1e3
