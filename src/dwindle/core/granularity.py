"""This file says which weights share one scale, and spreads scales over a tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from dwindle.errors import SettingError


@dataclass(frozen=True, slots=True)
class PerTensor:
    """One scale for the whole tensor."""


@dataclass(frozen=True, slots=True)
class PerChannel:
    """One scale for each index along `axis`, which counts from 0."""

    axis: int = 0

    def __post_init__(self) -> None:
        if self.axis < 0:
            raise SettingError(f"PerChannel(axis={self.axis}): axes count from 0, the outputs of a layer")


@dataclass(frozen=True, slots=True)
class PerGroup:
    """One scale for each `size` consecutive weights of a row; the last group of a row may be shorter.

    A row is everything behind one index of the first axis; a tensor of fewer than two axes is one row.
    """

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise SettingError(f"PerGroup(size={self.size}): a group holds at least one weight")


Granularity = PerTensor | PerChannel | PerGroup


def n_scales(shape: tuple[int, ...], granularity: Granularity) -> int:
    """Return how many scales a tensor of `shape` has.

    Raises:
        SettingError: the axis of `PerChannel` lies outside the shape.

    >>> n_scales((4, 10), PerGroup(3))
    16
    """
    match granularity:
        case PerTensor():
            return 1
        case PerChannel(axis):
            if not 0 <= axis < len(shape):
                raise SettingError(
                    f"PerChannel(axis={axis}) does not fit shape {shape}; axis must be in [0, {len(shape)})"
                )
            return shape[axis]
        case PerGroup(size):
            n_rows, n_columns = row_shape(shape)
            return n_rows * math.ceil(n_columns / size)


def row_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return (rows, weights in a row) of a tensor of `shape`, as `PerGroup` counts them."""
    if len(shape) < 2:
        return 1, math.prod(shape)
    return shape[0], math.prod(shape[1:])


def expand(scales: Tensor, granularity: Granularity, shape: tuple[int, ...]) -> Tensor:
    """Return flat `scales` (n_scales,) in a form that broadcasts against a tensor of `shape`."""
    match granularity:
        case PerTensor():
            return scales.reshape(())
        case PerChannel(axis):
            return scales.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        case PerGroup(size):
            n_rows, n_columns = row_shape(shape)
            size = min(size, max(n_columns, 1))  # a group longer than a row must not cost its length in memory
            spread = scales.reshape(n_rows, math.ceil(n_columns / size)).repeat_interleave(size, dim=1)
            return spread[:, :n_columns].reshape(shape)
