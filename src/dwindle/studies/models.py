"""This file keeps the models that a study trained, so that what comes after them can be made by later versions, too.

The stage cache of a recipe knows the source of every class that takes part, and forgets what older code made. A study
takes weeks; its outcomes are known by what its file says, and so are the models behind them.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import nn

from dwindle.core.encoding import Dense
from dwindle.errors import DwindleError, NetworkError
from dwindle.network.compressed import CompressedModel
from dwindle.network.edits import NO_NETWORKS
from dwindle.recipe.pack import pack, record_from_plain, record_to_plain, unpack
from dwindle.settings import nearest
from dwindle.whole_file import write_whole

_STATE: Final = "model"


def save_model(path: Path, model: CompressedModel) -> None:
    """Write `model` to `path`, a safetensors file; a kill leaves the whole file or none.

    Raises:
        OSError: it cannot be written.
    """
    tensors, state = pack(model)
    plain = {"state": state, "history": [record_to_plain(record) for record in model.history]}
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, safetensors.torch.save(copies, metadata={_STATE: json.dumps(plain)}))


def load_model(
    path: Path, base: CompressedModel, *, networks: Mapping[str, nn.Module] = NO_NETWORKS
) -> CompressedModel | None:
    """Return the model at `path`, built on the network of `base`; None where there is none that is whole.

    Args:
        path: of `save_model`.
        base: the network before any step, whatever its weights.
        networks: by name, what may have taken its place.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # ruff: ignore[in-dict-keys] (no mapping)
            plain: dict[str, Any] = json.loads(file.metadata()[_STATE])
        model = unpack(tensors, plain["state"], base=base, networks=networks)
        history = tuple(record_from_plain(record) for record in plain["history"])
    except (OSError, SafetensorError, DwindleError, KeyError, TypeError, ValueError):
        return None
    return replace(model, history=history) if history and model.digest() == history[-1].digest else None


def partly_anew(
    before: CompressedModel, fresh: CompressedModel, patterns: Sequence[str], *, where: str
) -> CompressedModel:
    """Return `fresh` with the weights of `before`, but for parameters and buffers that match one of `patterns`.

    Raises:
        NetworkError: `before` is no plain network, what is kept does not fit, or a pattern matches nothing.
    """
    is_plain = all(isinstance(encoding, Dense) for encoding in before.encodings.values())
    if not is_plain or before.edits or before.activations:
        raise NetworkError(f"{where}: it starts partly anew from a compressed network; name a stage that is dense")
    new = fresh.network.state_dict()
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in new):
            raise NetworkError(f"{where}: anew names {pattern!r}; {nearest(pattern, new)}")
    kept = {
        name: value
        for name, value in before.network.state_dict().items()
        if not any(fnmatchcase(name, pattern) for pattern in patterns)
    }
    network = copy.deepcopy(fresh.network)
    try:
        network.load_state_dict({**new, **kept})
    except RuntimeError as error:
        raise NetworkError(f"{where}: the weights it starts from do not fit its network: {error}") from error
    return CompressedModel.dense(network)
