"""This file turns the contents of a `.dwn` file into a running ONNX Runtime session; it alone imports onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import numpy as np

from dwindle.container.integer import PARTS, integer_form
from dwindle.container.records import Array, Record
from dwindle.container.references import external_names
from dwindle.errors import ContainerError, RuntimeUnavailableError, SettingError
from dwindle.processor import VNNI, this_processor

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

LEFT_OUT = ("WeightBiasQuantization",)
"""Optimizations that change the model: this one rounds float weights to 8 bits wherever activations are quantized."""

GraphLevel = Literal["all", "extended", "basic", "none"]
Execution = Literal["sequential", "parallel"]
GRAPH_LEVELS: Final[Mapping[GraphLevel, str]] = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "none": "ORT_DISABLE_ALL",
}
EXECUTIONS: Final[Mapping[Execution, str]] = {"sequential": "ORT_SEQUENTIAL", "parallel": "ORT_PARALLEL"}
MAX_INTER_THREADS: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How ONNX Runtime computes; the defaults are those of every measurement that names no other.

    Attributes:
        is_exact: keep all bits of uint8 x int8 products; without it, x86 processors that lack VNNI add pairs of them in
            int16, which saturates (faster, and another model's answer). Elsewhere it changes nothing, but where the
            system does not tell what the processor can do (it is not Linux), int8 is slower with it.
        graph_level: which rewriting of the graph is allowed before it runs. `none` runs every node as the file has it:
            quantize, float operation, dequantize; int8 arithmetic needs at least `extended`.
        execution: `parallel` runs branches of the graph at the same time, on `n_inter_threads` threads.
        n_inter_threads: threads for branches; the threads inside an operation are those of the load.
        spins: threads that wait for work keep their processor busy; saves time between operations, costs energy.
        profile_prefix: the engine writes how long each operation took into a file whose path begins like this.
        optimized_path: the engine writes the graph that it made of the file's to this path.
    """

    is_exact: bool = True
    graph_level: GraphLevel = "all"
    execution: Execution = "sequential"
    n_inter_threads: int = 1
    spins: bool = False
    profile_prefix: str = ""
    optimized_path: str = ""

    def __post_init__(self) -> None:
        if self.graph_level not in GRAPH_LEVELS:
            raise SettingError(f"graph_level must be one of {', '.join(GRAPH_LEVELS)}; got {self.graph_level!r}")
        if self.execution not in EXECUTIONS:
            raise SettingError(f"execution must be one of {', '.join(EXECUTIONS)}; got {self.execution!r}")
        if not 1 <= self.n_inter_threads <= MAX_INTER_THREADS:
            raise SettingError(f"n_inter_threads must be 1 to {MAX_INTER_THREADS}, got {self.n_inter_threads}")
        if self.n_inter_threads > 1 and self.execution != "parallel":
            raise SettingError(
                f"n_inter_threads = {self.n_inter_threads} has no effect in sequential execution; use "
                "execution='parallel', or 1"
            )

    def words(self) -> str:
        """Return what differs from the defaults, in brackets; empty where nothing does.

        >>> EngineOptions(is_exact=False, graph_level="basic").words()
        ' (saturating, graph level basic)'
        """
        parts = [
            "" if self.is_exact else "saturating",
            "" if self.graph_level == "all" else f"graph level {self.graph_level}",
            "" if self.execution == "sequential" else f"parallel, {self.n_inter_threads} inter threads",
            "spinning" if self.spins else "",
        ]
        told = ", ".join(part for part in parts if part)
        return f" ({told})" if told else ""


DEFAULTS: Final = EngineOptions()


class Source(Protocol):
    """Where weights come from: `Contents` in memory, or an `Opened` file, which decodes a weight when it is wanted."""

    @property
    def graph(self) -> bytes:
        """The ONNX model without weights."""
        ...

    def __contains__(self, name: object, /) -> bool:
        """Return whether `name` is a tensor or another name of one."""
        ...

    def record(self, name: str) -> Record:
        """Return how tensor `name` is encoded."""
        ...

    def array(self, name: str) -> Array:
        """Return tensor `name`, decoded."""
        ...


def open_session(
    contents: Source, n_threads: int = 1, *, engine_options: EngineOptions = DEFAULTS
) -> InferenceSession:  # fmt: skip
    """Return a session on the CPU that computes with `n_threads` threads.

    From an opened file (`reader.open_file`), only one weight at a time is in memory beside what the engine holds.

    Raises:
        SettingError: fewer than one thread.
        RuntimeUnavailableError: onnxruntime is not installed.
        ContainerError: the file has no graph, or onnxruntime refuses it.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeUnavailableError("onnxruntime is not installed; run: pip install onnxruntime") from error
    if not contents.graph:
        raise ContainerError("this file holds weights but no graph; export it again with an example input")
    weights = external_arrays(contents)
    options = session_options(n_threads, engine_options)
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
    options.add_external_initializers(list(weights), values)
    try:
        return onnxruntime.InferenceSession(
            contents.graph, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(LEFT_OUT)
        )
    except Exception as error:
        raise ContainerError(f"onnxruntime cannot run the graph of this file: {error}") from error


def session_options(n_threads: int, chosen: EngineOptions = DEFAULTS) -> Any:
    """Return options that let a session compute what the file says, with `n_threads` threads.

    Raises:
        SettingError: fewer than one thread, which onnxruntime takes for all that there are.
    """
    import onnxruntime

    if n_threads < 1:
        raise SettingError(f"n_threads must be at least 1, got {n_threads}")

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.inter_op_num_threads = chosen.n_inter_threads
    # Level 1 computes in float32. By default onnxruntime (1.31) rounds the inputs of a MatMul to 8 bits where only its
    # weight is quantized, which the graph does not ask for (measured: 1 % of the largest output).
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    options.execution_mode = getattr(onnxruntime.ExecutionMode, EXECUTIONS[chosen.execution])
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, GRAPH_LEVELS[chosen.graph_level])
    options.log_severity_level = 4  # its errors come as exceptions; their log lines would only precede ours
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if chosen.spins else "0")
    if chosen.execution == "parallel":
        options.add_session_config_entry("session.inter_op.allow_spinning", "1" if chosen.spins else "0")
    # With VNNI this entry buys nothing and makes int8 three times slower (onnxruntime 1.31).
    must_avoid_pairs = chosen.is_exact and VNNI.isdisjoint(this_processor().features)
    options.add_session_config_entry("session.x64quantprecision", "1" if must_avoid_pairs else "0")
    if chosen.profile_prefix:
        options.enable_profiling = True
        options.profile_file_prefix = chosen.profile_prefix
    if chosen.optimized_path:
        options.optimized_model_filepath = chosen.optimized_path
    return options


def external_arrays(contents: Source) -> Mapping[str, Array]:
    """Return the array behind each name that the graph refers to.

    Raises:
        ContainerError: the graph refers to a weight that the file does not hold, or to integers that it does not have.
    """
    arrays: dict[str, Array] = {}
    names = dict.fromkeys(external_names(contents.graph))
    for name in names:
        if name not in arrays:  # onnxruntime refuses an array that the graph does not read, such as zero points of zero
            arrays.update({key: array for key, array in _arrays_for(name, contents).items() if key in names})
    return arrays


def _arrays_for(name: str, contents: Source) -> dict[str, Array]:
    if name in contents:
        return {name: np.require(contents.array(name), requirements="C")}
    weight, _, part = name.rpartition("/")
    form = integer_form(contents.record(weight)) if part in PARTS and weight in contents else None
    if form is None:
        raise ContainerError(f"the graph refers to {name!r}, which this file does not hold; export it again")
    return {f"{weight}/{part}": np.require(getattr(form, part), requirements="C") for part in PARTS}
