"""This file turns the contents of a `.dwn` file into a running ONNX Runtime session; it alone imports onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dwindle.container.integer import PARTS, integer_form
from dwindle.container.records import Array, Record
from dwindle.container.references import external_names
from dwindle.errors import ContainerError, RuntimeUnavailableError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

LEFT_OUT = ("WeightBiasQuantization",)
"""Optimizations that change the model: this one rounds float weights to 8 bits wherever activations are quantized."""


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


def open_session(contents: Source, n_threads: int = 1, *, is_exact: bool = True) -> InferenceSession:
    """Return a session on the CPU that computes with `n_threads` threads; `session_options` explains `is_exact`.

    From an opened file (`reader.open_file`), only one weight at a time is in memory beside what the engine holds.

    Raises:
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
    options = session_options(n_threads, is_exact=is_exact)
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
    options.add_external_initializers(list(weights), values)
    try:
        return onnxruntime.InferenceSession(
            contents.graph, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(LEFT_OUT)
        )
    except Exception as error:
        raise ContainerError(f"onnxruntime cannot run the graph of this file: {error}") from error


def session_options(n_threads: int, *, is_exact: bool = True) -> Any:
    """Return options that let a session compute what the file says, with `n_threads` threads.

    `is_exact` keeps all bits of uint8 x int8 products; without it, x86 processors that lack VNNI add pairs of them in
    int16, which saturates (faster, and another model's answer). Elsewhere it changes nothing.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.inter_op_num_threads = 1
    # Level 1 computes in float32. By default onnxruntime (1.31) rounds the inputs of a MatMul to 8 bits where only its
    # weight is quantized, which the graph does not ask for (measured: 1 % of the largest output).
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # its errors come as exceptions; their log lines would only precede ours
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.x64quantprecision", "1" if is_exact else "0")
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
