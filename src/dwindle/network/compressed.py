"""This file holds the value that travels through a recipe: a network, how its tensors are encoded, its history.

Invariant, at every technique boundary: each parameter and buffer equals `decode(its encoding)`, bit for bit.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from dwindle.core.encoding import Dense, Encoding, decode
from dwindle.errors import EncodingError, NetworkError
from dwindle.network.activations import CallSite, Quantizer


@dataclass(frozen=True, slots=True)
class FoldedBatchNorm:
    """A structural edit: batch norm `batchnorm` was merged into the layer `layer` and replaced by an identity."""

    layer: str
    batchnorm: str


@dataclass(frozen=True, slots=True)
class RemovedChannels:
    """A structural edit: channels were removed, and each tensor named in `shapes` has the shape given there since."""

    shapes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Replaced:
    """A structural edit: the network was exchanged for the one that the context offers under `name`."""

    name: str


Edit = FoldedBatchNorm | RemovedChannels | Replaced


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One step of the history: what ran, with which settings and seed, what it decided, and what came out.

    Attributes:
        technique: class name.
        settings: the technique's fields as plain JSON values.
        decisions: what was found on the way (thresholds reached, ranges measured), as plain JSON values.
        curve: one mapping of figures for each training epoch of this step.
        digest: `CompressedModel.digest()` after the step.
    """

    technique: str
    settings: Mapping[str, Any]
    seed: int
    version: str
    decisions: Mapping[str, Any] = field(default_factory=dict[str, Any])
    curve: tuple[Mapping[str, float], ...] = ()
    digest: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class CompressedModel:
    """A network together with how it is encoded and how it came to be. Build one with `CompressedModel.dense`.

    Attributes:
        network: never changed by us; every technique returns a copy.
        encodings: one for each parameter and persistent buffer; tied weights have one, under their first name.
        aliases: further name of a tied weight -> its first name.
        activations: how values between layers are quantized; empty where they are float.
        edits: structural changes since the network was given to `dense`, in order.
        n_dense_weights: parameters of the network that was given to `dense`; 4 bytes each is the size compared against.
    """

    network: nn.Module
    encodings: Mapping[str, Encoding]
    n_dense_weights: int
    aliases: Mapping[str, str] = field(default_factory=dict[str, str])
    activations: Mapping[CallSite, Quantizer] = field(default_factory=dict[CallSite, Quantizer])
    edits: tuple[Edit, ...] = ()
    history: tuple[Record, ...] = ()

    @classmethod
    def dense(cls, network: nn.Module) -> Self:
        """Return `network` (copied) with every tensor stored as plain values.

        Raises:
            NetworkError: a weight is NaN or infinite.
        """
        network = copy.deepcopy(network)
        encodings: dict[str, Encoding] = {}
        aliases: dict[str, str] = {}
        first_names: dict[int, str] = {}
        for name, tensor in network.state_dict(keep_vars=True).items():
            _require_finite(name, tensor)
            first = first_names.setdefault(id(tensor), name)
            if first == name:
                encodings[name] = Dense(tensor.detach().clone())
            else:
                aliases[name] = first
        n_dense_weights = sum(p.numel() for p in network.parameters())
        return cls(network=network, encodings=encodings, aliases=aliases, n_dense_weights=n_dense_weights)

    def with_encodings(self, changed: Mapping[str, Encoding]) -> Self:
        """Return a copy in which the tensors named in `changed` are encoded anew and hold the decoded values.

        Raises:
            EncodingError: a name is unknown, or an encoding has another shape than its tensor.
        """
        network = copy.deepcopy(self.network)
        tensors = network.state_dict(keep_vars=True)
        for name, encoding in changed.items():
            if name not in self.encodings:
                raise EncodingError(f"{name!r} is not an encoded tensor of this model")
            _load(name, tensors[name], decode(encoding))
        return replace(self, network=network, encodings={**self.encodings, **changed})

    def digest(self) -> str:
        """Return a short hash of every tensor and activation quantizer; equal for equal models in any process."""
        sha = hashlib.sha256()
        for name in sorted(self.encodings):
            values = decode(self.encodings[name]).detach().cpu().contiguous()
            sha.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
            sha.update(values.reshape(-1).view(torch.uint8).numpy().data)
        for site in sorted(self.activations):
            sha.update(f"{site} {self.activations[site]}".encode())
        return sha.hexdigest()[:16]


def _load(name: str, target: Tensor, values: Tensor) -> None:
    if target.shape != values.shape:
        raise EncodingError(f"{name!r} has shape {tuple(target.shape)}, its new encoding {tuple(values.shape)}")
    with torch.no_grad():
        target.copy_(values)


def _require_finite(name: str, tensor: Tensor) -> None:
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        n_bad = int((~torch.isfinite(tensor)).sum())
        raise NetworkError(
            f"{name!r} holds {n_bad} NaN or infinite values; train the network again or repair the checkpoint"
        )
