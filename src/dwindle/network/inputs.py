"""This file says what a network is called with: one tensor, or a tuple of tensors where it has several inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

Inputs = Tensor | tuple[Tensor, ...]
"""Each tensor is (batch, ...), all of one batch size; a tuple holds the positional arguments of `forward`."""


def as_tuple(inputs: Inputs) -> tuple[Tensor, ...]:
    """Return the positional arguments that `inputs` stands for."""
    return (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)


def call(network: nn.Module, inputs: Inputs) -> Any:
    """Return what `network` answers to `inputs`."""
    return network(*as_tuple(inputs))


def n_examples(inputs: Inputs) -> int:
    """Return the batch size."""
    return int(as_tuple(inputs)[0].shape[0])


def take(inputs: Inputs, numbers: Tensor | slice) -> Inputs:
    """Return the examples with these numbers, in this order.

    >>> take((torch.arange(3), torch.ones(3, 2)), slice(0, 2))[0].tolist()
    [0, 1]
    """
    return inputs[numbers] if isinstance(inputs, Tensor) else tuple(tensor[numbers] for tensor in inputs)


def join(parts: list[Inputs]) -> Inputs:
    """Return several batches as one; all must have the same number of inputs."""
    if all(isinstance(part, Tensor) for part in parts):
        return torch.cat([as_tuple(part)[0] for part in parts])
    return tuple(torch.cat(tensors) for tensors in zip(*map(as_tuple, parts), strict=True))


def describe(inputs: Inputs) -> str:
    """Return shapes and types for messages: `float32 (2, 3, 32, 32)`, or several joined by `and`."""
    return " and ".join(f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}" for t in as_tuple(inputs))
