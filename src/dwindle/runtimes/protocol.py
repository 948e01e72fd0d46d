"""This file holds the protocol of a runtime: load a file, run it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy.typing as npt

from dwindle.artifact import Artifact

Array = npt.NDArray[Any]


class Session(Protocol):
    """A loaded file."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs in order."""
        ...

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Return the outputs for one batch; every input is (batch, ...)."""
        ...


class Runtime(Protocol):
    """An engine."""

    @property
    def name(self) -> str:
        """Name and version, as it stands in a measurement: `onnxruntime 1.31.1`."""
        ...

    @property
    def formats(self) -> tuple[str, ...]:
        """Artifact formats it can load."""
        ...

    def unavailable(self) -> str | None:
        """Return why it cannot run here, with the command that installs it; None if it can."""
        ...

    def load(self, artifact: Artifact, *, n_threads: int = 1) -> AbstractContextManager[Session]:
        """Load `artifact`; leaving the context frees it."""
        ...
