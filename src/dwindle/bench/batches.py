"""This file turns what a user calls data into batches of NumPy arrays, and refuses data that cannot be measured on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dwindle.errors import DataError, DwindleError, NetworkError
from dwindle.runtimes.protocol import Array

Data = Dataset[Any] | Iterable[tuple[Any, Any]]
"""A data set of (input, target) examples, or batches (inputs, targets); several inputs come as a tuple or list."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """`inputs`, each (batch, ...), and `targets` (batch, ...), or a tuple of such where there are several."""

    inputs: tuple[Array, ...]
    targets: Array | tuple[Array, ...]
    number: int = 0

    def __len__(self) -> int:
        return len(self.targets[0] if isinstance(self.targets, tuple) else self.targets)

    def head(self, n: int) -> Batch:
        """Return the first `n` examples."""
        return self.part(slice(n))

    def part(self, which: slice) -> Batch:
        """Return the examples with these numbers."""
        several = isinstance(self.targets, tuple)
        targets = tuple(array[which] for array in self.targets) if several else self.targets[which]
        return Batch(inputs=tuple(array[which] for array in self.inputs), targets=targets, number=self.number)


def batches(data: Data, *, batch_size: int) -> Iterator[Batch]:
    """Yield the batches of `data`; a data set with a length is cut into batches of `batch_size`.

    Raises:
        DataError: the data is empty, a batch is no pair, or inputs and targets differ in number.
    """
    number = 0
    for item in _source(data, batch_size):
        batch = _to_batch(item, number)
        if len(batch):
            yield batch
            number += 1
    if number == 0:
        raise DataError("the data set is empty: there is nothing to measure accuracy on; give at least one example")


class Answering(Protocol):
    """What answers a batch: a session, or what does more with each of its calls."""

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Return the outputs for one batch; every input is (batch, ...)."""
        ...


def is_finite(array: Array) -> bool:
    """Return whether an array holds no NaN and nothing infinite; whole numbers and texts never do."""
    return not np.issubdtype(array.dtype, np.floating) or bool(np.isfinite(array).all())


def n_examples(inputs: tuple[Array, ...]) -> int:
    """Return the length of the first axis; 1 where the first input is a scalar, or where there is none."""
    return len(inputs[0]) if inputs and inputs[0].ndim else 1


def run_batch(session: Answering, batch: Batch, *, what: str) -> tuple[Array, ...]:
    """Return the outputs of `session` for `batch`; `what` names the file in messages.

    Raises:
        DataError: the engine refuses these inputs, or returns another number of rows.
    """
    shapes = ", ".join(f"{array.shape} {array.dtype}" for array in batch.inputs)
    try:
        outputs = session.run(*batch.inputs)
    except NetworkError as error:
        raise DataError(f"{what} cannot run the inputs of batch {batch.number}: {error}") from error
    except DwindleError:
        raise
    except Exception as error:  # each engine has its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{what} cannot run the inputs of batch {batch.number} ({shapes}): {reason}; "
            "give inputs of the shape and type of the example it was exported with"
        ) from error
    for output in outputs:
        if output.shape[:1] != (len(batch),):
            raise DataError(
                f"{what} answers batch {batch.number} ({shapes}) with shape {output.shape}, not {len(batch)} rows; "
                "give inputs of the shape of the example it was exported with, batch first"
            )
    return outputs


def _source(data: Data, batch_size: int) -> Iterable[Any]:
    if not isinstance(data, Dataset):
        return data
    is_empty = hasattr(data, "__len__") and len(cast("Sized", data)) == 0
    return () if is_empty else DataLoader(data, batch_size=batch_size, shuffle=False)


def _to_batch(item: object, number: int) -> Batch:
    pair = cast("tuple[Any, ...]", item) if isinstance(item, tuple | list) else ()
    if len(pair) != 2:
        raise DataError(
            f"batch {number} of the data is {type(item).__name__} with {len(pair)} parts, expected (inputs, targets)"
        )
    several = isinstance(pair[0], tuple | list)
    inputs = tuple(_to_array(part) for part in pair[0]) if several else (_to_array(pair[0]),)
    targets = _to_targets(pair[1])
    every = (*inputs, *(targets if isinstance(targets, tuple) else (targets,)))
    lengths = [array.shape[:1] for array in every]
    if lengths[0] == () or len(set(lengths)) != 1:
        shapes = ", ".join(str(array.shape) for array in every)
        raise DataError(
            f"batch {number} of the data holds shapes {shapes}; inputs and targets need one first axis of equal length"
        )
    return Batch(inputs=inputs, targets=targets, number=number)


def _to_targets(value: Any) -> Array | tuple[Array, ...]:
    """Return several targets, a tuple or list of tensors or arrays, as a tuple; a list of numbers is one target."""
    parts = cast("tuple[Any, ...]", value) if isinstance(value, tuple | list) else ()
    if parts and all(isinstance(part, Tensor | np.ndarray) and part.ndim > 0 for part in parts):
        return tuple(_to_array(part) for part in parts)
    return _to_array(value)


def _to_array(value: Any) -> Array:
    return value.detach().to("cpu", copy=False).numpy() if isinstance(value, Tensor) else np.asarray(value)


def as_arrays(example: Tensor | tuple[Tensor, ...]) -> tuple[Array, ...]:
    """Return an example batch as arrays."""
    tensors = (example,) if isinstance(example, torch.Tensor) else example
    return tuple(_to_array(tensor) for tensor in tensors)
