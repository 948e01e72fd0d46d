"""This file takes a model's state apart into named tensors and plain values, and puts it together again: no pickle."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from dwindle.core.encoding import Affine, Codebook, Dense, Encoding, Half, Scaled, Sparse
from dwindle.core.granularity import PerChannel, PerGroup, PerTensor
from dwindle.errors import RecipeError
from dwindle.network.activations import ActivationQuantizer, CallSite, DynamicQuantizer, LevelQuantizer, Quantizer
from dwindle.network.compressed import CompressedModel, Record
from dwindle.network.edits import NO_NETWORKS, apply_edits, edit_from_plain
from dwindle.settings import TAG, from_plain, to_plain

ENCODINGS: Final = {c.__name__: c for c in (Dense, Half, Affine, Codebook, Sparse, Scaled)}
GRANULARITIES: Final = {c.__name__: c for c in (PerTensor, PerChannel, PerGroup)}
QUANTIZERS: Final = {c.__name__: c for c in (ActivationQuantizer, DynamicQuantizer, LevelQuantizer)}


def pack(model: CompressedModel) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return every tensor of `model` by a unique key, and the rest of its state, history left out, as JSON values."""
    tensors: dict[str, Tensor] = {}
    encodings = {name: _pack_encoding(encoding, name, tensors) for name, encoding in model.encodings.items()}
    activations = [[to_plain(site), to_plain(model.activations[site])] for site in sorted(model.activations)]
    state = {
        "encodings": encodings,
        "aliases": dict(model.aliases),
        "activations": activations,
        "edits": [to_plain(edit) for edit in model.edits],
        "n_dense_weights": model.n_dense_weights,
    }
    return tensors, state


def unpack(
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    *,
    base: CompressedModel,
    networks: Mapping[str, nn.Module] = NO_NETWORKS,
) -> CompressedModel:
    """Return the model that was packed, built on the network of `base`, from which it differs by edits and encodings.

    Args:
        tensors: as `pack` returned them.
        state: as `pack` returned it.
        base: a model that it descends from.
        networks: by name, what took the place of the network on the way.

    Raises:
        RecipeError: the packed model does not descend from `base`.
    """
    edits = tuple(edit_from_plain(plain, where="stage: edits") for plain in state["edits"])
    if edits[: len(base.edits)] != base.edits:
        raise RecipeError("the stored stage belongs to a network with other structural edits")
    encodings = {name: _unpack_encoding(plain, name, tensors) for name, plain in state["encodings"].items()}
    activations = {
        from_plain(CallSite, site, where="stage"): _unpack_quantizer(quantizer)
        for site, quantizer in state["activations"]
    }
    rebuilt = replace(
        base,
        network=apply_edits(base.network, edits[len(base.edits) :], networks),
        encodings=encodings,
        aliases=dict(state["aliases"]),
        activations=activations,
        edits=edits,
        n_dense_weights=state["n_dense_weights"],
    )
    return rebuilt.with_encodings(encodings)


def fingerprint(model: CompressedModel) -> str:
    """Return a hash of all that a technique may read of `model`, structure included (`digest` sees only values)."""
    tensors, state = pack(model)
    sha = hashlib.sha256(json.dumps([state, repr(model.network)], sort_keys=True).encode())
    for key in sorted(tensors):
        update_with_tensor(sha, key, tensors[key])
    return sha.hexdigest()


def update_with_tensor(sha: hashlib._Hash, key: str, tensor: Tensor) -> None:  # pyright: ignore[reportPrivateUsage]
    """Feed name, type, shape and bytes of `tensor` into `sha`."""
    values = tensor.detach().cpu().contiguous()
    sha.update(f"{key} {values.dtype} {tuple(values.shape)}".encode())
    sha.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())


def record_to_plain(record: Record) -> dict[str, Any]:
    """Return `record` as plain JSON values."""
    return {key: value for key, value in to_plain(record).items() if key != TAG}


def record_from_plain(plain: Mapping[str, Any]) -> Record:
    """Return the record that `record_to_plain` turned into `plain`.

    Raises:
        SettingError: a key is unknown or missing, or a value has the wrong type.
    """
    return from_plain(Record, plain, where="record")


def _pack_encoding(encoding: Encoding, prefix: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    plain: dict[str, Any] = {TAG: type(encoding).__name__}
    for field in dataclasses.fields(encoding):
        value = getattr(encoding, field.name)
        if isinstance(value, Tensor):
            tensors[f"{prefix}/{field.name}"] = value
        elif isinstance(value, Encoding):
            plain[field.name] = _pack_encoding(value, f"{prefix}/{field.name}", tensors)
        else:
            plain[field.name] = to_plain(value)
    return plain


def _unpack_encoding(plain: Mapping[str, Any], prefix: str, tensors: Mapping[str, Tensor]) -> Encoding:
    cls = cast("Any", ENCODINGS[plain[TAG]])
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        key = f"{prefix}/{field.name}"
        value = plain.get(field.name)
        if field.name not in plain:
            values[field.name] = tensors[key]
        elif isinstance(value, Mapping):
            values[field.name] = _unpack_nested(cast("Mapping[str, Any]", value), key, tensors)
        else:
            values[field.name] = value
    return cls(**values)


def _unpack_nested(plain: Mapping[str, Any], prefix: str, tensors: Mapping[str, Tensor]) -> Any:
    granularity = GRANULARITIES.get(plain[TAG])
    return from_plain(granularity, plain, where=prefix) if granularity else _unpack_encoding(plain, prefix, tensors)


def _unpack_quantizer(plain: Mapping[str, Any]) -> Quantizer:
    return from_plain(QUANTIZERS[plain[TAG]], plain, where="stage")
