"""This file runs `.pte` files on ExecuTorch, whose CPU kernels are XNNPACK's."""

from __future__ import annotations

import importlib.util
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from dwindle.artifact import Artifact
from dwindle.errors import MeasurementError
from dwindle.runtimes.chatter import caught_chatter
from dwindle.runtimes.fixed_batch import run_in_parts
from dwindle.runtimes.loadable import require_beginning, require_loadable
from dwindle.runtimes.package import engine_package, version_of
from dwindle.runtimes.protocol import Array, InputSpec

METHOD: Final = "forward"
MAGIC: Final = rb".{4}ET\d\d"
DTYPES: Final = {
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
    torch.float16: np.dtype(np.float16),
    torch.int8: np.dtype(np.int8),
    torch.uint8: np.dtype(np.uint8),
    torch.int16: np.dtype(np.int16),
    torch.int32: np.dtype(np.int32),
    torch.int64: np.dtype(np.int64),
    torch.bool: np.dtype(np.bool_),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecuTorchRuntime:
    """ExecuTorch's runtime for Python.

    Attributes:
        is_traced: the engine notes how long each operation of each call takes, which takes time itself.
    """

    is_traced: bool = False

    @property
    def name(self) -> str:
        """Name and version, as it stands in a measurement."""
        found = version_of("executorch", distribution="executorch")
        return f"executorch {found}" + (" (traced)" if self.is_traced else "")

    @property
    def formats(self) -> tuple[str, ...]:
        """Artifact formats it can load."""
        return ("pte",)

    def unavailable(self) -> str | None:
        """Return why it cannot run here, with the command that installs it; None if it can."""
        if importlib.util.find_spec("executorch") is None:
            return "the package executorch is missing: pip install 'dwindle[executorch]'"
        return None

    @contextmanager
    def load(self, artifact: Artifact, *, n_threads: int = 1) -> Generator[ExecuTorchSession]:
        """Load `artifact`; leaving the context frees it. ExecuTorch has one pool of threads for the whole process.

        Raises:
            SettingError: fewer than one thread.
            RuntimeUnavailableError: executorch is not installed.
            MeasurementError: the file is no `.pte`, or ExecuTorch refuses it.
        """
        require_loadable(self, artifact, n_threads=n_threads)
        require_beginning(artifact.path, MAGIC, kind=".pte")
        with caught_chatter() as told:
            portable_lib, runtime = _engine()
            if portable_lib._threadpool_get_thread_count() != n_threads:
                portable_lib._unsafe_reset_threadpool(n_threads)
            try:
                program = runtime.load_program(artifact.path, enable_etdump=self.is_traced)
                method = program.load_method(METHOD)
            except (KeyError, OSError, RuntimeError, ValueError) as error:  # KeyError: it has no method of this name
                raise MeasurementError(
                    f"executorch cannot load {artifact.path}: {error} {told()}".strip() + "; export it again"
                ) from error
        meta = method.metadata
        inputs = tuple(_spec(meta, i) for i in range(meta.num_inputs()))
        yield ExecuTorchSession(program=program, method=method, inputs=inputs)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExecuTorchSession:
    """A loaded file.

    Attributes:
        program: ExecuTorch's own; it holds the trace, where there is one.
        method: the same.
        inputs: what the file says about its inputs.
    """

    program: Any
    method: Any
    inputs: tuple[InputSpec, ...]

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs in order; a `.pte` file numbers them."""
        return tuple(spec.name for spec in self.inputs)

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Return the outputs for one batch; every input is (batch, ...).

        Raises:
            NetworkError: an input has the wrong shape or dtype, or there is one too many or too few.
            MeasurementError: the engine failed.
        """
        return run_in_parts(self._run, inputs, self.inputs)

    def _run(self, *inputs: Array) -> tuple[Array, ...]:
        tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in inputs]
        try:
            outputs = self.method.execute(tensors)
        except RuntimeError as error:
            shapes = [array.shape for array in inputs]
            raise MeasurementError(f"executorch failed on inputs of shape {shapes}: {error}") from error
        return tuple(output.numpy().copy() for output in outputs)  # its memory is written again by the next call


def _engine() -> tuple[Any, Any]:
    """Return ExecuTorch's bindings and its runtime."""
    bindings = engine_package("executorch.extension.pybindings.portable_lib", extra="executorch")
    return bindings, engine_package("executorch.runtime", extra="executorch").Runtime.get()


def _spec(meta: Any, position: int) -> InputSpec:
    tensor = meta.input_tensor_meta(position)
    dtype = _dtype(tensor.dtype())
    return InputSpec(
        name=f"input_{position}",
        dtype=dtype,
        type_name=str(tensor.dtype()),
        shape=tuple(int(size) for size in tensor.sizes()),
    )


def _dtype(code: Any) -> np.dtype[Any] | None:
    """Return the NumPy twin of a type that ExecuTorch tells as torch's number of it, or as torch's own."""
    return DTYPES.get(code) if isinstance(code, torch.dtype) else _BY_NUMBER.get(int(code))


_BY_NUMBER: Final = {
    0: np.dtype(np.uint8), 1: np.dtype(np.int8), 2: np.dtype(np.int16), 3: np.dtype(np.int32), 4: np.dtype(np.int64),
    5: np.dtype(np.float16), 6: np.dtype(np.float32), 7: np.dtype(np.float64), 11: np.dtype(np.bool_),
}  # fmt: skip
"""ScalarType of c10, which a `.pte` file holds."""
