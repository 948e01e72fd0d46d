"""This file holds what a `.dwn` file contains, as one value, and turns it into a state dict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dwindle.container.records import Array, Record, decode_record


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """What a `.dwn` file contains.

    Attributes:
        records: tensor name -> how it is encoded.
        aliases: further name of a tied weight -> its name in `records`.
        graph: an ONNX model whose weights are external references by name (docs/format.md, section Graph).
        metadata: JSON values: class names, preprocessing, history, versions, ...
    """

    records: Mapping[str, Record]
    aliases: Mapping[str, str] = field(default_factory=dict[str, str])
    graph: bytes = b""
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __contains__(self, name: object) -> bool:
        """Return whether `name` is a tensor or another name of one."""
        return name in self.records or name in self.aliases

    def record(self, name: str) -> Record:
        """Return the record of tensor `name` (aliases count)."""
        return self.records[self.aliases.get(name, name)]

    def array(self, name: str) -> Array:
        """Return tensor `name` (aliases count), decoded."""
        return decode_record(self.record(name))

    def state_dict(self) -> dict[str, Array]:
        """Return every tensor by name, decoded; tied names share one array."""
        tensors = {name: decode_record(record) for name, record in self.records.items()}
        return tensors | {alias: tensors[name] for alias, name in self.aliases.items()}
