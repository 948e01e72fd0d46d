"""This file holds the training seam: the protocol that techniques call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from dwindle.network.inputs import Inputs, Targets

Batch = tuple[Inputs, Targets]
Loss = Callable[[Any, Batch, Tensor], Tensor]
"""`loss(output, batch, base_loss)` returns the loss to descend; it can replace the base loss or mix with it."""
AfterStep = Callable[[int], None]
"""`after_step(step)` runs after optimizer step number `step` (from 1): schedules of masks and the like."""

Progress = Callable[[str, int, int], None]
"""`report_progress(what, done, total)`: called during work of more than a second."""


class Trainer(Protocol):
    """Whoever trains: called by a technique with a network to train in place, never patched."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the training data."""
        ...

    def __call__(  # ruff: ignore[too-many-arguments] (the whole seam in one signature)
        self,
        network: nn.Module,
        *,
        steps: int,
        seed: int,
        stage: str,
        learning_rate: float | None = None,
        loss: Loss | None = None,
        after_step: AfterStep | None = None,
    ) -> tuple[Mapping[str, float], ...]:
        """Train `network` in place for `steps` optimizer steps and return one mapping of figures for each epoch.

        The optimizer is built inside, so after any parametrization. `stage` names the checkpoint: a run that was killed
        and is called again with the same arguments goes on where its last checkpoint was, and ends at the same weights.
        """
        ...
