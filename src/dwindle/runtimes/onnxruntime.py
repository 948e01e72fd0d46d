"""This file runs `.onnx` and `.dwn` files on ONNX Runtime's CPU provider."""

from __future__ import annotations

import importlib.util
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dwindle.artifact import Artifact
from dwindle.container import reader, session
from dwindle.container.session import EngineOptions, Execution, GraphLevel
from dwindle.errors import MeasurementError
from dwindle.runtimes.given_inputs import require_inputs
from dwindle.runtimes.loadable import require_loadable
from dwindle.runtimes.package import version_of
from dwindle.runtimes.protocol import Array, InputSpec

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

DTYPES: Final = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(double)": np.dtype(np.float64),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(int8)": np.dtype(np.int8),
    "tensor(int16)": np.dtype(np.int16),
    "tensor(uint16)": np.dtype(np.uint16),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(uint32)": np.dtype(np.uint32),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(uint64)": np.dtype(np.uint64),
    "tensor(bool)": np.dtype(np.bool_),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxRuntime:
    """ONNX Runtime on the CPU.

    Attributes:
        is_exact: let 8-bit products keep all their bits. x86 processors without VNNI add pairs of uint8 x int8 products
            in int16, which saturates. Measured on AVX2, one thread: a 64 x 64 x 3 x 3 convolution on 28 x 28 is up to 2
            output steps off in 4 % of its outputs at 0.35 ms; exactly, it is rounding alone (half a step) at 0.50 ms.
            Exact is the default, because a number must belong to the model that was compressed. On other processors
            it changes nothing, and with VNNI it is not passed on: onnxruntime 1.31 would take its slow exact products
            there as well (a ResNet-18 of width 32 with VNNI and AMX, one thread: 1.9 ms, and 0.66 ms without; equal
            answers). Only Linux tells of VNNI; elsewhere it is passed on.
        graph_level: which rewriting of the graph is allowed: `all`, `extended`, `basic`, `none`.
        execution: `sequential`, or `parallel`: branches of the graph at the same time.
        n_inter_threads: threads for branches, with `parallel`.
        spins: threads that wait keep their processor busy.

    Raises:
        SettingError: an unknown value, or threads for branches that never run in parallel.
    """

    is_exact: bool = True
    graph_level: GraphLevel = "all"
    execution: Execution = "sequential"
    n_inter_threads: int = 1
    spins: bool = False

    def __post_init__(self) -> None:
        _ = self.options  # made here, they refuse what cannot work

    @property
    def options(self) -> EngineOptions:
        """How the engine computes."""
        return EngineOptions(
            is_exact=self.is_exact,
            graph_level=self.graph_level,
            execution=self.execution,
            n_inter_threads=self.n_inter_threads,
            spins=self.spins,
        )

    @property
    def name(self) -> str:
        """Name and version, as it stands in a measurement."""
        return f"onnxruntime {version_of('onnxruntime', distribution='onnxruntime')}{self.options.words()}"

    @property
    def formats(self) -> tuple[str, ...]:
        """Artifact formats it can load."""
        return ("onnx", "dwn")

    def unavailable(self) -> str | None:
        """Return why it cannot run here, with the command that installs it; None if it can."""
        if importlib.util.find_spec("onnxruntime") is None:
            return "the package onnxruntime is missing: pip install onnxruntime"
        return None

    def load(self, artifact: Artifact, *, n_threads: int = 1) -> AbstractContextManager[OnnxSession]:
        """Load `artifact`; leaving the context frees it. Exactly `n_threads` threads compute.

        Raises:
            SettingError: fewer than one thread.
            RuntimeUnavailableError: onnxruntime is not installed.
            MeasurementError: the format is unknown or the file cannot be loaded.
            ContainerError: a `.dwn` file is broken.
        """
        require_loadable(self, artifact, n_threads=n_threads)
        return self.load_with(artifact, self.options, n_threads=n_threads)

    @contextmanager
    def load_with(self, artifact: Artifact, options: EngineOptions, *, n_threads: int = 1) -> Generator[OnnxSession]:
        """Load `artifact` with other options than one's own, such as those that write a profile."""
        if artifact.format == "dwn":
            yield OnnxSession(_open_container(artifact, n_threads, options))
            return
        yield OnnxSession(_open(artifact, session.session_options(n_threads, options)))


@dataclass(frozen=True, slots=True, eq=False)
class OnnxSession:
    """A loaded file."""

    session: InferenceSession

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs in order."""
        return tuple(value.name for value in self.session.get_inputs())

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """What the file says about its inputs."""
        return tuple(
            InputSpec(name=v.name, dtype=DTYPES.get(v.type), type_name=v.type, shape=tuple(v.shape))
            for v in self.session.get_inputs()
        )

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Return the outputs for one batch; every input is (batch, ...).

        Raises:
            NetworkError: an input has the wrong shape or dtype, or there is one too many or too few.
            MeasurementError: the engine failed.
        """
        specs = self.inputs
        require_inputs(inputs, specs)
        try:
            outputs: Any = self.session.run(None, {spec.name: x for spec, x in zip(specs, inputs, strict=True)})
        except Exception as error:  # onnxruntime raises classes of its own that it exports nowhere
            shapes = [array.shape for array in inputs]
            raise MeasurementError(f"onnxruntime failed on inputs of shape {shapes}: {error}") from error
        return tuple(outputs)


def _open_container(artifact: Artifact, n_threads: int, options: EngineOptions) -> InferenceSession:
    with reader.open_file(artifact.path) as opened:
        return session.open_session(opened, n_threads=n_threads, engine_options=options)


def _open(artifact: Artifact, options: Any) -> InferenceSession:
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(
            str(artifact.path),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=list(session.LEFT_OUT),
        )
    except Exception as error:  # onnxruntime raises classes of its own that it exports nowhere
        raise MeasurementError(
            f"onnxruntime cannot load {artifact.path}: {str(error).strip()}; export it again, with operators that "
            "onnxruntime has and with all its weights"
        ) from error
