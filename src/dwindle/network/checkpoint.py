"""This file loads a network's weights from safetensors and saves them; what could run code is refused by name."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save
from torch import Tensor, nn

from dwindle.errors import CheckpointError, NetworkError
from dwindle.whole_file import write_whole

CONVERT: Final = (
    "where you trust the file, convert it once: "
    "safetensors.torch.save_file(torch.load(path, weights_only=True), 'weights.safetensors')"
)
MAX_HEADER_BYTES: Final = 100_000_000
"""The limit that the safetensors format itself sets."""
_HEAD: Final = 8
_N_LISTED: Final = 5


def load_checkpoint(network: nn.Module, path: Path) -> None:
    """Load the safetensors file at `path` into `network`, in place; nothing is changed unless everything fits.

    A tied weight may be stored under any one of its names. Floats are converted to the network's floating-point type.

    Raises:
        CheckpointError: the file is absent, is not safetensors, or its names, shapes or types do not fit the network.
        NetworkError: a weight is NaN or infinite.
    """
    load_tensors(network, read_safetensors(Path(path)), origin=str(path))


def load_tensors(network: nn.Module, stored: Mapping[str, Tensor], *, origin: str) -> None:
    """Load tensors under the names of the network's state dict, as `load_checkpoint` does; `origin` opens messages.

    Raises:
        CheckpointError: names, shapes or types do not fit the network.
        NetworkError: a weight is NaN or infinite.
    """
    wanted = network.state_dict(keep_vars=True)
    _require_names(stored, wanted, origin)
    for name in filter(stored.__contains__, wanted):  # in the network's order; that of a file may be anyone's
        _require_fit(name, stored[name], wanted[name])
    with torch.no_grad():
        for name, tensor in stored.items():
            wanted[name].copy_(tensor)


def save_checkpoint(network: nn.Module, path: Path) -> None:
    """Write the parameters and buffers of `network` as safetensors, atomically; a tied weight is stored once.

    Raises:
        CheckpointError: the file cannot be written.
    """
    path = Path(path)
    seen: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    try:
        write_whole(path, save(tensors))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error}; free some space or name another folder") from error


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file; no other format is opened.

    Raises:
        CheckpointError: the file is absent or is not safetensors; the message says what it is instead.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}; name a safetensors file") from error
    if kind := _other_format(data):
        raise CheckpointError(f"{path} is {kind}, which can run code when it is loaded; {CONVERT}")
    n_header = int.from_bytes(data[:_HEAD], "little")
    if len(data) < _HEAD or n_header > min(MAX_HEADER_BYTES, len(data) - _HEAD):
        raise CheckpointError(
            f"{path} ({len(data):,} bytes) is not safetensors or was cut short: "
            f"its header claims {n_header:,} bytes; write it again with safetensors.torch.save_file"
        )
    try:
        return parse(data)
    except (SafetensorError, json.JSONDecodeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} is not valid safetensors ({error}); write it again with safetensors.torch.save_file"
        ) from error


def _other_format(data: bytes) -> str:
    """Return what `data` is where it is a well-known other kind of checkpoint, else nothing."""
    if data.startswith(b"PK\x03\x04"):
        return "a zip archive, as torch.save writes it (a pickle inside)"
    if data[:1] == b"\x80" and data[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"} and data[_HEAD : _HEAD + 1] != b"{":
        return "a pickle"
    if data.startswith(b"\x89HDF"):
        return "an HDF5 file, as Keras writes it (not torch weights)"
    return ""


def _require_names(stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor], origin: str) -> None:
    unexpected = [name for name in stored if name not in wanted]
    held = {id(wanted[name]) for name in stored if name in wanted}
    missing = [name for name, tensor in wanted.items() if id(tensor) not in held]
    if not missing and not unexpected:
        return
    facts = [
        f"{len(names)} {kind} ({_list(names, others)})"
        for kind, names, others in (("missing", missing, unexpected), ("unexpected", unexpected, tuple(wanted)))
        if names
    ]
    raise CheckpointError(
        f"{origin} does not fit the network: {'; '.join(facts)}; rename its tensors or build its network"
    )


def _list(names: list[str], others: Collection[str]) -> str:
    """Return the first few names, each with the nearest of `others`."""
    words: list[str] = []
    for name in names[:_N_LISTED]:
        close = difflib.get_close_matches(name, list(others), n=1, cutoff=0.6)
        words.append(f"{name!r}, nearest {close[0]!r}" if close else repr(name))
    return "; ".join(words) + (f"; and {len(names) - _N_LISTED} more" if len(names) > _N_LISTED else "")


def _require_fit(name: str, tensor: Tensor, wanted: Tensor) -> None:
    if tensor.shape != wanted.shape:
        raise CheckpointError(
            f"{name!r} has shape {tuple(tensor.shape)} in the checkpoint and {tuple(wanted.shape)} in the network; "
            "build the network with the arguments that the checkpoint was trained with"
        )
    if tensor.is_floating_point() != wanted.is_floating_point():
        raise CheckpointError(f"{name!r} is {tensor.dtype} in the checkpoint and {wanted.dtype} in the network")
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        n_bad = int((~torch.isfinite(tensor)).sum())
        raise NetworkError(f"{name!r} holds {n_bad} NaN or infinite values; train the network again")
