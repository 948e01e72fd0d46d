"""This file holds the protocol of a runtime: load a file, run it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dwindle.artifact import Artifact

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """What a file says about one of its inputs.

    Attributes:
        dtype: None for a type that NumPy does not have.
        type_name: the engine's name of the type.
        shape: a number where the size is fixed, a name or None where it is not.
    """

    name: str
    dtype: np.dtype[Any] | None
    type_name: str
    shape: tuple[int | str | None, ...]

    def __str__(self) -> str:
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name} ({sizes}) {self.dtype or self.type_name}"


class Session(Protocol):
    """A loaded file."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs in order."""
        ...

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """What the file says about its inputs, in order; codes that may be given as floats count as floats."""
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
