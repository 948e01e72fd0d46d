"""This file holds what every data set here becomes: three splits of tensors, and how a validation split is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import TensorDataset

from dwindle.errors import DataError, SettingError


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits:
    """A data set: `train` is learned from, `validation` decides, `test` is read once.

    Each split yields `(input, target)`; inputs are float32 (uint8 if a loader was asked to keep bytes) of one shape,
    targets int64 class numbers.

    Raises:
        DataError: a split is empty, holds NaN, or has a label without a class name.
    """

    name: str
    train: TensorDataset
    validation: TensorDataset
    test: TensorDataset
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        for part, dataset in (("training", self.train), ("validation", self.validation), ("test", self.test)):
            require_usable(dataset, n_classes=self.n_classes, what=f"{self.name} {part}")

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


def require_usable(dataset: TensorDataset, *, n_classes: int, what: str) -> None:
    """Refuse a data set that nothing can be learned from or measured on; a single class is fine.

    Raises:
        DataError: it is empty or not (inputs, targets), an input is NaN or infinite, a label is outside [0, n_classes).
    """
    if len(dataset.tensors) != 2:
        raise DataError(f"the {what} data hold {len(dataset.tensors)} tensors; pass TensorDataset(inputs, targets)")
    inputs, targets = dataset.tensors
    if len(targets) == 0:
        raise DataError(f"the {what} data set is empty; pass at least one (input, target)")
    if inputs.is_floating_point() and not bool(torch.isfinite(inputs).all()):
        n_bad = int((~torch.isfinite(inputs.flatten(1))).any(1).sum())
        raise DataError(f"{n_bad} of {len(inputs):,} {what} inputs hold NaN or infinite values; repair or drop them")
    low, high = (int(label) for label in targets.aminmax())
    if low < 0 or high >= n_classes:
        raise DataError(
            f"{what} labels lie in [{low}, {high}]; with {n_classes} classes they lie in [0, {n_classes - 1}]"
        )


def batches(dataset: TensorDataset, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield `(inputs, targets)` of up to `size` examples, in the order of the data set.

    >>> pair = TensorDataset(torch.zeros(5, 2), torch.arange(5))
    >>> [targets.tolist() for _, targets in batches(pair, 2)]
    [[0, 1], [2, 3], [4]]
    """
    if size < 1:
        raise DataError(f"a batch holds at least one example, got size {size}")
    inputs, targets = dataset.tensors
    yield from zip(inputs.split(size), targets.split(size), strict=True)


def hold_out(inputs: Tensor, targets: Tensor, *, n_held_out: int, seed: int = 0) -> tuple[TensorDataset, TensorDataset]:
    """Split (n, ...) inputs and (n,) targets at random into a training set and a validation set of `n_held_out`.

    Raises:
        DataError: nothing would be left on one side.
    """
    if not 0 < n_held_out < len(targets):
        raise DataError(f"of {len(targets):,} examples, {n_held_out:,} cannot be held out; hold out some and keep some")
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    kept, held_out = order[n_held_out:], order[:n_held_out]
    return TensorDataset(inputs[kept], targets[kept]), TensorDataset(inputs[held_out], targets[held_out])


def resize(images: Tensor, size: int) -> Tensor:
    """Return (n, channels, size, size) images, resized bilinearly from (n, channels, height, width) floats.

    Raises:
        SettingError: `size` is below 1.
    """
    if size < 1:
        raise SettingError(f"size must be at least 1 pixel, got {size}")
    if tuple(images.shape[-2:]) == (size, size):
        return images
    return functional.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
