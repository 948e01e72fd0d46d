"""This file holds the protocol of an exporter: one target format."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from torch import Tensor

from dwindle.artifact import Artifact
from dwindle.network.compressed import CompressedModel


class Exporter(Protocol):
    """One target format."""

    @property
    def format(self) -> str:
        """The artifact's format and file suffix."""
        ...

    def obstacles(self, model: CompressedModel) -> list[str]:
        """Return the reasons why this target cannot express `model`; empty if it can."""
        ...

    def export(self, model: CompressedModel, example: Tensor, path: Path) -> Artifact:
        """Write `model` to `path`, whole or not at all; `example` is one input batch (batch, ...)."""
        ...
