"""This file runs `.dwn` files in torch, in a network that the caller builds."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from dwindle.artifact import Artifact
from dwindle.container.reader import Opened, open_file
from dwindle.errors import MeasurementError, NetworkError, SettingError
from dwindle.network.edits import apply_edits, edit_from_plain, own_edits
from dwindle.runtimes.protocol import Array


@dataclass(frozen=True, kw_only=True, eq=False)
class TorchRuntime:
    """Torch on the CPU, in float32: the weights of the file, in a network of the user's own code.

    Attributes:
        network: a network of the architecture that was compressed, before any folding, or a function that builds one;
            a network given is copied and left as it is.
    """

    network: nn.Module | Callable[[], nn.Module]

    @property
    def name(self) -> str:
        """Name and version, as it stands in a measurement."""
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
            MeasurementError: the file is no `.dwn`, or its activations are quantized, which plain modules do not do.
            NetworkError: the file's tensors are not those of the network.
            ContainerError: the file is broken.
        """
        if n_threads < 1:
            raise SettingError(f"n_threads must be at least 1, got {n_threads}")
        if artifact.format not in self.formats:
            raise MeasurementError(
                f"{self.name} loads {', '.join(self.formats)}, not {artifact.format!r} ({artifact.path}); deploy as dwn"
            )
        with open_file(artifact.path) as opened:
            network = self._filled(opened, artifact)
        before = torch.get_num_threads()
        torch.set_num_threads(n_threads)
        try:
            yield TorchSession(network=network)
        finally:
            torch.set_num_threads(before)

    def _filled(self, opened: Opened, artifact: Artifact) -> nn.Module:
        if opened.metadata.get("activations"):
            raise MeasurementError(
                f"{artifact.path} has quantized activations, which a plain torch network does not compute; run it with "
                "OnnxRuntime"
            )
        network = self.network if isinstance(self.network, nn.Module) else self.network()
        edits = cast("list[Mapping[str, Any]]", opened.metadata.get("edits", []))
        made = [edit_from_plain(plain, where=f"{artifact.path}: edits") for plain in edits]
        network = apply_edits(network, own_edits(made))
        return _load(network, opened, artifact).eval()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TorchSession:
    """A loaded file."""

    network: nn.Module

    @property
    def input_names(self) -> tuple[str, ...]:
        """`input`, however many there are: torch names them in the network's own code."""
        return ("input",)

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Return the outputs for one batch; every input is (batch, ...).

        Raises:
            NetworkError: the network returns something else than a tensor or a tuple of tensors.
        """
        with torch.inference_mode():
            outputs: object = self.network(*(torch.from_numpy(np.ascontiguousarray(array)) for array in inputs))
        parts = cast("tuple[object, ...]", outputs) if isinstance(outputs, tuple | list) else (outputs,)
        tensors = [part for part in parts if isinstance(part, Tensor)]
        if len(tensors) != len(parts):
            raise NetworkError(f"the network returns {type(outputs).__name__}; return a tensor or a tuple of tensors")
        return tuple(tensor.cpu().numpy() for tensor in tensors)


def _load(network: nn.Module, opened: Opened, artifact: Artifact) -> nn.Module:
    state = {name: torch.from_numpy(array) for name, array in opened.state_dict().items()}
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        details = "; ".join(line.strip() for line in str(error).splitlines()[1:])
        raise NetworkError(
            f"{artifact.path} does not fit {type(network).__name__}: {details}; build the network that was compressed"
        ) from error
    return network
