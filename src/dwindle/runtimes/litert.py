"""This file runs `.tflite` files on LiteRT (formerly TensorFlow Lite), on the CPU."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dwindle.artifact import Artifact
from dwindle.errors import MeasurementError, NetworkError
from dwindle.runtimes.chatter import caught_chatter
from dwindle.runtimes.fixed_batch import run_in_parts
from dwindle.runtimes.loadable import require_beginning, require_loadable
from dwindle.runtimes.package import engine_package, version_of
from dwindle.runtimes.protocol import Array, InputSpec

PACKAGE: Final = "ai_edge_litert"
MAGIC: Final = rb".{4}TFL3"
_NUMBER: Final = re.compile(r"(\d+)\D*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class LiteRtRuntime:
    """LiteRT's interpreter.

    Attributes:
        delegated: let XNNPACK run what it can, as on a phone; without it the built-in kernels run everything, as
            LiteRT for microcontrollers does.
    """

    delegated: bool = True

    @property
    def name(self) -> str:
        """Name and version, as it stands in a measurement."""
        found = version_of(PACKAGE, distribution="ai-edge-litert")
        return f"litert {found}" + ("" if self.delegated else " (built-in kernels)")

    @property
    def formats(self) -> tuple[str, ...]:
        """Artifact formats it can load."""
        return ("tflite",)

    def unavailable(self) -> str | None:
        """Return why it cannot run here, with the command that installs it; None if it can."""
        if importlib.util.find_spec(PACKAGE) is None:
            return "the package ai-edge-litert is missing: pip install 'dwindle[litert]'"
        return None

    @contextmanager
    def load(self, artifact: Artifact, *, n_threads: int = 1) -> Generator[LiteRtSession]:
        """Load `artifact`; leaving the context frees it.

        Raises:
            SettingError: fewer than one thread.
            RuntimeUnavailableError: ai-edge-litert is not installed.
            MeasurementError: the file is no `.tflite`, or LiteRT refuses it.
        """
        require_loadable(self, artifact, n_threads=n_threads)
        interpreter = self.interpreter(artifact, n_threads=n_threads)
        try:
            session = LiteRtSession.of(interpreter)
        except (KeyError, RuntimeError, ValueError) as error:  # what it tells of its inputs contradicts itself
            raise MeasurementError(f"litert cannot load {artifact.path}: {error}; export it again") from error
        yield session

    def interpreter(self, artifact: Artifact, *, n_threads: int = 1) -> Any:
        """Return LiteRT's own interpreter of `artifact`, its memory planned.

        Raises:
            MeasurementError: LiteRT refuses the file.
        """
        require_beginning(artifact.path, MAGIC, kind=".tflite")
        litert = engine_package(f"{PACKAGE}.interpreter", extra="litert")
        kinds = litert.OpResolverType
        kind = kinds.AUTO if self.delegated else kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        with caught_chatter() as told:
            try:
                made = litert.Interpreter(
                    model_content=artifact.path.read_bytes(),
                    num_threads=n_threads,
                    experimental_op_resolver_type=kind,
                )
                made.allocate_tensors()
            except (OSError, RuntimeError, ValueError) as error:
                raise MeasurementError(
                    f"litert cannot load {artifact.path}: {error} {told()}".strip() + "; export it again"
                ) from error
        return made


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LiteRtSession:
    """A loaded file.

    Attributes:
        interpreter: LiteRT's own.
        given: what LiteRT tells of each input, in order.
        wanted: the same of each output.
    """

    interpreter: Any
    given: tuple[Mapping[str, Any], ...]
    wanted: tuple[Mapping[str, Any], ...]

    @classmethod
    def of(cls, interpreter: Any) -> LiteRtSession:
        """Return the session of an interpreter, inputs and outputs in the order of the network's."""
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        if signatures := interpreter.get_signature_list():
            runner = interpreter.get_signature_runner(next(iter(signatures)))
            inputs = _in_order(runner.get_input_details())
            outputs = _in_order(runner.get_output_details())
        return cls(interpreter=interpreter, given=tuple(inputs), wanted=tuple(outputs))

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs in order."""
        return tuple(str(detail["name"]) for detail in self.given)

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """What the file says about its inputs; what it takes as codes may be given as floats."""
        return tuple(_spec(detail) for detail in self.given)

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Return the outputs for one batch; every input is (batch, ...); codes go in and come out as floats.

        Raises:
            NetworkError: an input has the wrong shape or dtype, there is one too many or too few, or one that the file
                takes as codes holds NaN.
            MeasurementError: the engine failed.
        """
        specs = self.inputs
        narrow = list(map(_narrowed, inputs, specs))
        return run_in_parts(self._run, [*narrow, *inputs[len(narrow) :]], specs)

    def _run(self, *inputs: Array) -> tuple[Array, ...]:
        try:
            for detail, array in zip(self.given, inputs, strict=True):
                self.interpreter.set_tensor(detail["index"], _as_codes(array, detail))
            self.interpreter.invoke()
            return tuple(_as_floats(self.interpreter.get_tensor(detail["index"]), detail) for detail in self.wanted)
        except (RuntimeError, ValueError) as error:
            raise MeasurementError(f"litert failed on inputs of shape {[a.shape for a in inputs]}: {error}") from error


def _in_order(details: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return what is told of each value in the order of the numbers that their names end with: args_0, args_1, ..."""
    numbers = {name: int(found[1]) for name in details if (found := _NUMBER.search(name)) is not None}
    if len(numbers) < len(details):
        return list(details.values())
    return [details[name] for name in sorted(details, key=lambda name: numbers[name])]


def _grid(detail: Mapping[str, Any]) -> tuple[float, int] | None:
    """Return scale and zero point of a value of signed codes; uint8, as older files have, counts as the raw input."""
    parameters: Mapping[str, Sequence[Any]] = detail["quantization_parameters"]
    if len(parameters["scales"]) != 1 or np.dtype(detail["dtype"]).kind != "i":
        return None
    return float(parameters["scales"][0]), int(parameters["zero_points"][0])


def _spec(detail: Mapping[str, Any]) -> InputSpec:
    dtype, grid = np.dtype(detail["dtype"]), _grid(detail)
    shape = tuple(int(size) for size in detail["shape"])  # an open batch is allocated for one example
    name = dtype.name if grid is None else f"{dtype.name} codes, scale {grid[0]:.6g}, zero point {grid[1]}"
    return InputSpec(
        name=str(detail["name"]), dtype=dtype if grid is None else np.dtype(np.float32), type_name=name, shape=shape
    )


def _narrowed(array: Array, spec: InputSpec) -> Array:
    """Return int64, torch's type of an index, as the int32 that the converter makes of it, if the values allow it."""
    if spec.dtype != np.int32 or array.dtype != np.int64:
        return array
    bounds = np.iinfo(np.int32)
    fits = array.size == 0 or (array.min() >= bounds.min and array.max() <= bounds.max)
    return array.astype(np.int32) if fits else array


def _as_codes(array: Array, detail: Mapping[str, Any]) -> Array:
    grid = _grid(detail)
    if grid is None:
        return array
    if np.isnan(array).any():
        raise NetworkError(f"input {detail['name']!r} holds NaN, which has no code on the grid of the file")
    scale, zero_point = np.float32(grid[0]), grid[1]
    bounds = np.iinfo(detail["dtype"])
    return np.clip(np.rint(array / scale) + zero_point, bounds.min, bounds.max).astype(bounds.dtype)


def _as_floats(array: Array, detail: Mapping[str, Any]) -> Array:
    grid = _grid(detail)
    if grid is None:
        return array
    return (array.astype(np.float32) - np.float32(grid[1])) * np.float32(grid[0])
