"""This file holds the protocol of an exporter: one target format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dwindle.artifact import Artifact
from dwindle.network.compressed import CompressedModel
from dwindle.network.inputs import Inputs

if TYPE_CHECKING:
    from onnx import ModelProto


class Exporter(Protocol):
    """One target format."""

    @property
    def format(self) -> str:
        """The artifact's format and file suffix."""
        ...

    def obstacles(self, model: CompressedModel) -> list[str]:
        """Return the reasons why this target cannot express `model`; empty if it can."""
        ...

    def export(
        self, model: CompressedModel, example: Inputs, path: Path, *, graph: ModelProto | None = None
    ) -> Artifact:
        """Write `model` to `path`, whole or not at all; `example` is one input batch.

        `graph` is the model's graph with references, where it is built already (`deploy` builds it once for all
        formats); it is not changed.
        """
        ...
