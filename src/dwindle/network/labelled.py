"""This file holds labelled examples with the loss that judges them: what decides, never what is reported."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dwindle.network.train import Batch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labelled:
    """Batches of validation data and a loss.

    Attributes:
        batches: `(inputs, targets)`, iterable more than once.
        base_loss: `base_loss(output, target)`, a scalar: the mean over the examples of a batch.
    """

    batches: Iterable[Batch]
    base_loss: Callable[[Any, Any], Tensor]
