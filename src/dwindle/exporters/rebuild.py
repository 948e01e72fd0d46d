"""This file makes the compressed model of a `.dwn` file again, in the user's network: the way to formats made from it.

A file holds tensors, edits and quantizers, yet no code. What it was made from, ONNX aside, only the user can build.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from dwindle.container.contents import Contents
from dwindle.core.encoding import decode
from dwindle.errors import ExportError
from dwindle.exporters.native import from_record
from dwindle.network.compressed import CompressedModel
from dwindle.network.file_notes import activations_of, edited_network, fill, n_dense_weights_of


def model_of(
    contents: Contents, network: nn.Module | Callable[[], nn.Module], *, where: str = "the file"
) -> CompressedModel:  # fmt: skip
    """Return the model that a file was written from, without its history; it has the same digest.

    Args:
        contents: what `read` returns.
        network: of the architecture that was compressed, before any folding, or a function that builds one; a network
            given is copied and left as it is. Its weights do not matter.
        where: the file, for messages.

    Raises:
        NetworkError: the tensors of the file are not those of the network.
        SettingError: the file's notes are malformed.
    """
    encodings = {name: from_record(record) for name, record in contents.records.items()}
    tensors = {name: decode(encoding) for name, encoding in encodings.items()}
    tensors |= {name: tensors[first] for name, first in contents.aliases.items()}
    filled = fill(edited_network(network, contents.metadata, where=where), tensors, where=where)
    return CompressedModel(
        network=filled,
        encodings=encodings,
        n_dense_weights=n_dense_weights_of(contents.metadata, filled, where=where),
        aliases=dict(contents.aliases),
        activations=activations_of(contents.metadata, where=where),
    )


def require_no_preprocessing(metadata: Mapping[str, Any], *, to: str) -> None:
    """Check that a file takes what its network takes.

    Raises:
        ExportError: it preprocesses.
    """
    if metadata.get("preprocessing"):
        raise ExportError(
            f"this file preprocesses its input, which a .{to} made from its network would not; deploy the model "
            "without preprocessing, or export it to onnx or xml"
        )
