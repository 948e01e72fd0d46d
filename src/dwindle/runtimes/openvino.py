"""This file runs OpenVINO IR (`.xml` with its `.bin`) and `.onnx` files on OpenVINO's CPU plugin."""

from __future__ import annotations

import importlib.util
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from dwindle.artifact import Artifact, files_of
from dwindle.errors import MeasurementError, NetworkError, SettingError
from dwindle.runtimes.chatter import caught_chatter
from dwindle.runtimes.fixed_batch import run_in_parts
from dwindle.runtimes.loadable import require_loadable
from dwindle.runtimes.package import engine_package, version_of
from dwindle.runtimes.protocol import Array, InputSpec

Precision = Literal["f32", "bf16", "int8"]
HINTS: Final[Mapping[Precision, str]] = {"f32": "f32", "bf16": "bf16", "int8": "f32"}
"""What the plugin is told to compute floats in. Integers come from the quantizers of the graph, never from a hint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenVinoRuntime:
    """OpenVINO on the CPU: one request at a time, in one stream.

    Processors without VNNI add pairs of uint8 x int8 products in int16, which saturates where weights are large. There
    is no option against it; weights of 7 bits (`QuantizeStatic(weights=7)`) cannot saturate.

    Attributes:
        precision: what floats are computed in, always told to the plugin, whose own choice depends on the processor
            (it takes bf16 where that is fast). `int8` computes the floats that are left in f32, and refuses a file
            without quantizers.
    """

    precision: Precision = "f32"

    def __post_init__(self) -> None:
        if self.precision not in HINTS:
            raise SettingError(f"precision must be one of {', '.join(HINTS)}; got {self.precision!r}")

    @property
    def name(self) -> str:
        """Name, version and precision, as they stand in a measurement."""
        return f"openvino {version_of('openvino', distribution='openvino')} ({self.precision})"

    @property
    def formats(self) -> tuple[str, ...]:
        """Artifact formats it can load."""
        return ("xml", "onnx")

    def unavailable(self) -> str | None:
        """Return why it cannot run here, with the command that installs it or the setting that runs; None if it can."""
        if importlib.util.find_spec("openvino") is None:
            return "the package openvino is missing: pip install 'dwindle[openvino]'"
        if self.precision == "bf16" and "BF16" not in capabilities():
            return "this processor does not compute in bf16 (OpenVINO would emulate it); use precision='f32'"
        return None

    def load(self, artifact: Artifact, *, n_threads: int = 1) -> AbstractContextManager[OpenVinoSession]:
        """Load `artifact`; leaving the context frees it. Exactly `n_threads` threads compute.

        Raises:
            RuntimeUnavailableError: openvino is not installed, or the processor lacks the precision.
            SettingError: fewer than one thread.
            MeasurementError: the format is unknown or the file cannot be loaded.
        """
        require_loadable(self, artifact, n_threads=n_threads)
        return self.load_with(artifact, {}, n_threads=n_threads)

    @contextmanager
    def load_with(
        self, artifact: Artifact, properties: Mapping[str, Any], *, n_threads: int = 1
    ) -> Generator[OpenVinoSession]:
        """Load `artifact` with further properties of the plugin, such as those that let it count its time."""
        for path in files_of(artifact.path):
            if not path.is_file():
                raise MeasurementError(
                    f"{path} is missing, and {artifact.path.name} needs it; export the network again"
                )
        core = engine_package("openvino", extra="openvino").Core()
        try:
            with caught_chatter():
                model: Any = core.read_model(str(artifact.path))
                compiled: Any = core.compile_model(model, "CPU", {**settings(n_threads, self.precision), **properties})
        except RuntimeError as error:
            raise MeasurementError(
                f"openvino cannot load {artifact.path}: {_last_line(error)}; export it again, with operators that "
                "openvino has and with all its weights"
            ) from error
        if self.precision == "int8":
            _require_quantizers(model, artifact)
        yield OpenVinoSession(request=compiled.create_infer_request(), inputs=tuple(map(_spec, compiled.inputs)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenVinoSession:
    """A loaded file."""

    request: Any
    inputs: tuple[InputSpec, ...]

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs in order."""
        return tuple(spec.name for spec in self.inputs)

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Return the outputs for one batch; every input is (batch, ...).

        Raises:
            NetworkError: an input has the wrong shape or dtype, or there is one too many or too few.
            MeasurementError: the engine failed.
        """
        given = zip(self.inputs, inputs, strict=False)
        sizes = {len(array) for spec, array in given if spec.shape[:1] == (None,) and array.ndim}
        if len(sizes) > 1:  # openvino would compute something with them
            raise NetworkError(f"the inputs hold {', '.join(map(str, sorted(sizes)))} examples; give as many of each")
        return run_in_parts(self._run, inputs, self.inputs)

    def _run(self, *inputs: Array) -> tuple[Array, ...]:
        try:
            # Inputs are read where they lie; outputs are copied once, because the next run writes over them.
            given = [np.ascontiguousarray(array) for array in inputs]
            found: Any = self.request.infer(given, share_inputs=True, share_outputs=True)
            return tuple(np.array(array) for array in found.values())
        except RuntimeError as error:
            shapes = [array.shape for array in inputs]
            raise MeasurementError(f"openvino failed on inputs of shape {shapes}: {_last_line(error)}") from error


def settings(n_threads: int, precision: Precision) -> dict[str, Any]:
    """Return what the plugin is told, so that nothing depends on what it would choose for this processor."""
    return {
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "INFERENCE_NUM_THREADS": n_threads,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        # Threads bound to processors of the plugin's choice would meet whatever else runs there.
        "ENABLE_CPU_PINNING": False,
        # Otherwise the inputs of a product with 8-bit weights may be rounded at run time, which the graph does not say.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        "CACHE_DIR": "",
    }


def capabilities() -> tuple[str, ...]:
    """Return what OpenVINO says this processor is good at: FP32, INT8, BF16, ..."""
    core = engine_package("openvino", extra="openvino").Core()
    return tuple(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def _spec(port: Any) -> InputSpec:
    shape = tuple(int(size.get_length()) if size.is_static else None for size in port.get_partial_shape())
    element: Any = port.get_element_type()
    try:
        dtype = np.dtype(element.to_dtype())
    except (RuntimeError, TypeError):  # NumPy has no bfloat16 and nothing below 8 bits
        dtype = None
    names = sorted(port.get_names())
    return InputSpec(
        name=names[0] if names else port.get_node().get_friendly_name(),
        dtype=dtype,
        type_name=str(element.get_type_name()),
        shape=shape,
    )


def _require_quantizers(model: Any, artifact: Artifact) -> None:
    if not any(op.get_type_name() == "FakeQuantize" for op in model.get_ops()):
        raise MeasurementError(
            f"{artifact.path} has no quantized activations, so nothing in it runs in int8; quantize it with "
            "QuantizeStatic, or use precision='f32'"
        )


def _last_line(error: RuntimeError) -> str:
    """Return what went wrong without the places in OpenVINO's own sources, which come first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
