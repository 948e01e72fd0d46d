"""This file writes and reads the checkpoint of a training under way: whole or not at all, and never run as code."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from dwindle.errors import CheckpointError
from dwindle.whole_file import write_whole


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, nested lists and mappings of them) to `path`, atomically.

    Raises:
        CheckpointError: the file cannot be written, for example on a full disk; an earlier checkpoint stays as it was.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    try:
        write_whole(path, buffer.getbuffer())
    except OSError as error:
        raise CheckpointError(
            f"the training checkpoint {path} ({buffer.tell():,} bytes) cannot be written: {error}; "
            "free some space or choose another workdir, then run again: it goes on from the last checkpoint"
        ) from error


def read_state(path: Path) -> Mapping[str, Any] | None:
    """Return what `write_state` wrote, or None where there is no such file.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes raise whatever the unpickler or zip reader stumbles over
        raise CheckpointError(
            f"the training checkpoint {path} cannot be read ({error}); delete it to train this stage from its start"
        ) from error
    return cast("Mapping[str, Any]", state)
