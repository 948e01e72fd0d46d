"""This file says what a network is called with: one tensor, or a tuple of tensors where it has several inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

Inputs = Tensor | tuple[Tensor, ...]
"""Each tensor is (batch, ...), all of one batch size; a tuple holds the positional arguments of `forward`."""
Targets = Tensor | tuple[Tensor, ...]
"""What the answers are compared with: one tensor of any shape (batch, ...), or several where a loss takes several."""


def as_tuple(inputs: Inputs) -> tuple[Tensor, ...]:
    """Return the positional arguments that `inputs` stands for."""
    return (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)


def as_inputs(value: Any) -> Inputs | None:
    """Return `value` where it is a tensor, or a tuple or list of one or more tensors (a loader gives lists), else None.

    >>> as_inputs([torch.ones(2), torch.ones(2)])
    (tensor([1., 1.]), tensor([1., 1.]))
    """
    if isinstance(value, Tensor):
        return value
    parts = cast("Sequence[Any]", value) if isinstance(value, tuple | list) else ()
    return tuple(parts) if parts and all(isinstance(part, Tensor) for part in parts) else None


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


def are_finite(inputs: Inputs) -> bool:
    """Return whether no value is NaN or infinite."""
    return all(not t.is_floating_point() or bool(torch.isfinite(t).all()) for t in as_tuple(inputs))


def describe(inputs: Inputs) -> str:
    """Return types and shapes for messages, several joined by `and`.

    >>> describe((torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)))
    'float32 (2, 3) and int64 (2,)'
    """
    return " and ".join(f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}" for t in as_tuple(inputs))


def tensors_in(tree: Any) -> list[Tensor]:
    """Return every tensor in what a network answers: a tensor, or mappings, tuples and lists of answers."""
    match tree:
        case Tensor():
            return [tree]
        case Mapping():
            return [tensor for item in cast("Mapping[Any, Any]", tree).values() for tensor in tensors_in(item)]
        case tuple() | list():
            return [tensor for item in cast("list[Any]", tree) for tensor in tensors_in(item)]
        case _:
            return []


def in_float32(value: Any) -> Any:
    """Return `value` with every floating-point tensor in it as float32, however it is nested."""
    from lightning_utilities.core.apply_func import apply_to_collection

    def convert(tensor: Tensor) -> Tensor:
        return tensor.float() if tensor.is_floating_point() else tensor

    return apply_to_collection(value, Tensor, convert)
