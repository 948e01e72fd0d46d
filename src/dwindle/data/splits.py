"""This file holds what every data set here becomes: three splits of tensors, and how a validation split is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import TensorDataset


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits:
    """A data set: `train` is learned from, `validation` decides, `test` is read once.

    Each split yields `(input, target)`; inputs are float32 of one shape, targets int64 class numbers.
    """

    name: str
    train: TensorDataset
    validation: TensorDataset
    test: TensorDataset
    class_names: tuple[str, ...]

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


def hold_out(inputs: Tensor, targets: Tensor, *, n_held_out: int, seed: int = 0) -> tuple[TensorDataset, TensorDataset]:
    """Split (n, ...) inputs and (n,) targets at random into a training set and a validation set of `n_held_out`."""
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    kept, held_out = order[n_held_out:], order[:n_held_out]
    return TensorDataset(inputs[kept], targets[kept]), TensorDataset(inputs[held_out], targets[held_out])
