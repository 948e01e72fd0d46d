"""This file runs `.dwn` files in torch, in a network that the caller builds.

Torch computes in floats. Activations that a file quantizes are rounded to their codes and back between the operations:
such a run says what integers would answer, not how fast an engine with integer kernels is.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from dwindle.artifact import Artifact
from dwindle.container.reader import open_file
from dwindle.errors import MeasurementError, NetworkError
from dwindle.network.activations import CallSite, Quantizer
from dwindle.network.capture import Captured, capture
from dwindle.network.compressed import CompressedModel
from dwindle.network.file_graph import example_of, read_graph
from dwindle.network.file_notes import activations_of, edited_network, fill
from dwindle.network.inputs import Inputs
from dwindle.network.recurrent import lstm_calls
from dwindle.network.simulate import simulate
from dwindle.runtimes.fixed_batch import run_in_parts
from dwindle.runtimes.loadable import require_loadable
from dwindle.runtimes.protocol import Array, InputSpec


@dataclass(frozen=True, kw_only=True, eq=False)
class TorchRuntime:
    """Torch on the CPU: the weights of the file, in a network of the user's own code.

    Attributes:
        network: a network of the architecture that was compressed, before any folding, or a function that builds one;
            a network given is copied and left as it is.
    """

    network: nn.Module | Callable[[], nn.Module]

    @property
    def name(self) -> str:
        """Name and version, as it stands in a measurement; its arithmetic is float32, whatever the file's is."""
        return f"torch {torch.__version__}"

    @property
    def formats(self) -> tuple[str, ...]:
        """Artifact formats it can load."""
        return ("dwn",)

    def unavailable(self) -> str | None:
        """Return None: dwindle needs torch anyway."""
        return None

    @contextmanager
    def load(self, artifact: Artifact, *, n_threads: int = 1) -> Generator[TorchSession]:
        """Load `artifact`; torch computes with `n_threads` threads until the context is left.

        Raises:
            SettingError: fewer than one thread.
            MeasurementError: the file is no `.dwn`, preprocesses its input, has quantized activations and no graph, or
                has an LSTM that computes with integers.
            NetworkError: the file's tensors are not those of the network.
            ContainerError: the file is broken.
        """
        require_loadable(self, artifact, n_threads=n_threads)
        with open_file(artifact.path) as opened:
            graph = read_graph(opened.graph) if opened.graph else None
            example = None if graph is None else example_of(graph)
            if opened.metadata.get("preprocessing"):
                raise MeasurementError(
                    f"{artifact.path} preprocesses its input, which {self.name} does not; run it with OnnxRuntime"
                )
            network = edited_network(self.network, opened.metadata, where=str(artifact.path))
            state = {name: torch.from_numpy(array) for name, array in opened.state_dict().items()}
            network = fill(network, state, where=str(artifact.path))
            if activations := activations_of(opened.metadata, where=str(artifact.path)):
                network = _rounding(network, activations, example=example, artifact=artifact)
        inputs = () if graph is None else tuple(map(_spec, graph.graph.input))
        before = torch.get_num_threads()
        torch.set_num_threads(n_threads)
        try:
            yield TorchSession(network=network, inputs=inputs)
        finally:
            torch.set_num_threads(before)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TorchSession:
    """A loaded file.

    Attributes:
        network: answers like the file.
        inputs: what the file's graph says about its inputs.
    """

    network: nn.Module
    inputs: tuple[InputSpec, ...]

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs in order; `input` where the file has no graph that names them."""
        return tuple(spec.name for spec in self.inputs) or ("input",)

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Return the outputs for one batch; every input is (batch, ...).

        Raises:
            NetworkError: an input has the wrong shape or dtype, or there is one too many or too few; or the network
                returns something else than a tensor or a tuple of tensors.
            MeasurementError: the network failed.
        """
        return run_in_parts(self._run, inputs, self.inputs) if self.inputs else self._run(*inputs)

    def _run(self, *inputs: Array) -> tuple[Array, ...]:
        try:
            with torch.inference_mode():
                outputs: object = self.network(*(torch.from_numpy(np.ascontiguousarray(array)) for array in inputs))
        except Exception as error:  # the user's own code raises whatever it likes
            shapes = [array.shape for array in inputs]
            raise MeasurementError(f"torch failed on inputs of shape {shapes}: {error}") from error
        parts = cast("tuple[object, ...]", outputs) if isinstance(outputs, tuple | list) else (outputs,)
        tensors = [part for part in parts if isinstance(part, Tensor)]
        if len(tensors) != len(parts):
            raise NetworkError(f"the network returns {type(outputs).__name__}; return a tensor or a tuple of tensors")
        return tuple(tensor.cpu().numpy() for tensor in tensors)


def _spec(value: onnx.ValueInfoProto) -> InputSpec:
    held = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(held.elem_type)
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in held.shape.dim)
    return InputSpec(name=value.name, dtype=dtype, type_name=dtype.name, shape=shape)


def _rounding(
    network: nn.Module,
    activations: Mapping[CallSite, Quantizer],
    *,
    example: Inputs | None,
    artifact: Artifact,
) -> nn.Module:
    """Return `network` with activations that pass through their codes.

    Raises:
        MeasurementError: the file has no graph, or an LSTM in it computes with integers.
    """
    if example is None:
        raise MeasurementError(f"{artifact.path} has quantized activations but no graph; export it with an example")
    captured = capture(network, example)
    if _has_integer_lstm(captured, activations):
        raise MeasurementError(
            f"{artifact.path} has an LSTM that computes with integers inside, which torch's does not; run it with "
            "OnnxRuntime"
        )
    model = replace(CompressedModel.dense(network), activations=dict(activations))
    return simulate(model, example, captured=captured)


def _has_integer_lstm(captured: Captured, activations: Mapping[CallSite, Quantizer]) -> bool:
    return any(call.site in activations for call in lstm_calls(captured))
