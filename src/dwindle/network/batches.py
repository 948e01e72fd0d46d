"""This file turns whatever holds training data into batches, in an order that depends on nothing but a seed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Final, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, StackDataset, TensorDataset, default_collate

from dwindle.errors import DataError, DwindleError
from dwindle.network.inputs import Targets, are_finite, as_inputs, as_tuple, call, describe, take
from dwindle.network.train import Batch

Data = Dataset[Any] | DataLoader[Any]
"""Items (or, from a loader, batches) of `(input, target)`; a data set needs a length and items by number.

Either may be a tuple of tensors: `((image, table), target)` is an item for a network with two inputs.
"""
IGNORED_LABEL: Final = -100
"""The target that cross entropy leaves out."""
_N_PROBED: Final = 64
_N_AT_ONCE: Final = 128


@dataclass(frozen=True, kw_only=True, eq=False)
class Batches:
    """`data` in batches of `batch_size`; a `DataLoader` keeps its own batch size, workers and collation.

    Raises:
        DataError: the data are empty, have no length, or do not yield `(input, target)` tensors.
    """

    data: Data
    batch_size: int
    what: str = "training"

    def __post_init__(self) -> None:
        if not isinstance(self.data, Sized):
            raise DataError(f"the {self.what} data ({type(self.data).__name__}) have no length; pass a map-style set")
        if len(self.data) == 0:
            raise DataError(f"the {self.what} data set is empty; pass at least one (input, target)")

    @property
    def n_examples(self) -> int:
        """Number of examples."""
        return _length(self.data.dataset if isinstance(self.data, DataLoader) else self.data)

    @property
    def n_shuffled(self) -> int:
        """Batches in one shuffled pass; an incomplete last batch is left out, as it disturbs batch norm."""
        return len(self.data) if isinstance(self.data, DataLoader) else max(1, self.n_examples // self.batch_size)

    def shuffled(self, seed: int) -> Iterator[Batch]:
        """Yield one pass over the data in the order that `seed` stands for.

        A `DataLoader` draws its order from its own generator, or else from torch's: either is seeded here.
        """
        if isinstance(self.data, DataLoader):
            for generator in (self.data.generator, getattr(self.data.sampler, "generator", None)):
                if isinstance(generator, torch.Generator):
                    generator.manual_seed(seed)
            yield from map(self._pair, self.data)
            return
        order = torch.randperm(self.n_examples, generator=torch.Generator().manual_seed(seed))
        for numbers in order.split(self.batch_size)[: self.n_shuffled]:
            yield self._take(self.data, numbers)

    def ordered(self) -> Iterator[Batch]:
        """Yield every example once, in the order of the data set."""
        if isinstance(self.data, DataLoader):
            yield from map(self._pair, self.data)
            return
        for numbers in torch.arange(self.n_examples).split(self.batch_size):
            yield self._take(self.data, numbers)

    def first(self, n: int) -> Batch:
        """Return the first `n` examples, or fewer where there are fewer."""
        data = self.data
        if isinstance(data, DataLoader):
            inputs, targets = self._pair(next(iter(data)))
            return take(inputs, slice(n)), take(targets, slice(n))
        return self._take(data, torch.arange(min(n, self.n_examples)))

    def fingerprint(self) -> str:
        """Return a short hash of the size and of up to 64 examples spread over the data (none from a `DataLoader`)."""
        sha = hashlib.sha256(f"{self.n_examples} {self.n_shuffled}".encode())
        if not isinstance(self.data, DataLoader):
            numbers = torch.linspace(0, self.n_examples - 1, min(_N_PROBED, self.n_examples)).long()
            for tensors in self._take(self.data, numbers):
                for tensor in as_tuple(tensors):
                    sha.update(hash_bytes(tensor))
        return sha.hexdigest()[:16]

    def _take(self, data: Dataset[Any], numbers: Tensor) -> Batch:
        if (columns := _columns(data)) is not None:
            return self._pair(_rows(columns, numbers))
        items = [self._item(data, int(number)) for number in numbers]
        try:
            together = default_collate(items)
        except (RuntimeError, TypeError) as error:
            raise DataError(
                f"the {self.what} data ({type(data).__name__}) hold items that do not make one batch: {error}; "
                "each item must be (input, target) of one shape; tensors of whole sets go into TensorDataset(x, y)"
            ) from error
        return self._pair(together)

    def _item(self, data: Dataset[Any], number: int) -> Any:
        try:
            return data[number]
        except DwindleError:
            raise
        except Exception as error:  # a user's own code
            raise DataError(
                f"item {number} of the {self.what} data ({type(data).__name__}) cannot be read: "
                f"{type(error).__name__}: {error}; repair it or leave it out"
            ) from error

    def _pair(self, batch: Any) -> Batch:
        items = cast("Sequence[Any]", batch) if isinstance(batch, tuple | list) else ()
        inputs, targets = map(as_inputs, items) if len(items) == 2 else (None, None)
        if inputs is None or targets is None:
            raise DataError(
                f"the {self.what} data yield {_describe(batch)}; an item must be (input, target), tensors or numbers; "
                "several inputs are a tuple in the order of the network's forward: ((image, table), target)"
            )
        sizes = {tensor.shape[:1] for tensor in (*as_tuple(inputs), *as_tuple(targets))}
        if len(sizes) != 1 or sizes == {()}:
            raise DataError(
                f"the {self.what} data yield a batch of inputs {describe(inputs)} and targets {describe(targets)}; "
                "each needs one first axis of equal length, the batch"
            )
        return inputs, targets


def hash_bytes(tensor: Tensor) -> bytes:
    """Return the SHA-256 of a tensor's type, shape and values, whatever its memory layout."""
    values = tensor.detach().cpu().contiguous()
    sha = hashlib.sha256(f"{values.dtype} {tuple(values.shape)}".encode())
    sha.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.digest()


def are_classes(output: Any, targets: Targets) -> TypeGuard[Tensor]:
    """Return whether `output` holds scores (batch, two or more classes) and `targets` class numbers (batch,)."""
    if not isinstance(output, Tensor) or not isinstance(targets, Tensor):
        return False
    return output.ndim == 2 and output.shape[1] > 1 and targets.ndim == 1 and not targets.is_floating_point()


def try_first_batch(network: nn.Module, batches: Batches, device: torch.device) -> Any:
    """Return the network's output (eval mode, no gradient) for two examples: what is wrong shows before any step.

    Raises:
        DataError: an input is NaN or infinite, or the network rejects its shape or type.
    """
    inputs, _ = batches.first(2)
    if not are_finite(inputs):
        raise DataError(f"the first {batches.what} inputs hold NaN or infinite values; repair the data")
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            moved = tuple(tensor.to(device) for tensor in as_tuple(inputs))
            return call(network, moved)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise DataError(
            f"the network rejects {batches.what} inputs, {describe(inputs)}: {error}; the data must have the shape, "
            "and as many inputs in the same order, as the network was built for"
        ) from error
    finally:
        for module, was_training in modes.items():
            module.training = was_training


def try_loss(base_loss: Callable[[Any, Any], Tensor], output: Any, targets: Targets, *, what: str) -> None:
    """Compute the loss of a few examples: what is wrong with it shows before any step.

    Raises:
        DataError: the loss raises, is no finite scalar, or compares each output with every target.
    """
    name = getattr(base_loss, "__name__", type(base_loss).__name__)
    given = f"outputs {_shapes(output)} and targets {describe(targets)} of the {what} data"
    try:
        with torch.no_grad():
            value: Any = base_loss(output, targets)
    except DataError:
        raise
    except Exception as error:  # a user's own code
        raise DataError(f"the loss {name} rejects {given}: {type(error).__name__}: {error}") from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        kind = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise DataError(f"the loss {name} returned {kind} for {given}; it must return one number as a tensor")
    if not bool(torch.isfinite(value).all()):
        raise DataError(f"the loss {name} is {float(value)} for {given}; look for NaN in the data and the weights")
    if not _is_paired(base_loss, output, targets, value=float(value)):
        raise DataError(
            f"the loss {name} compares each output with every target, because shapes differ: {given}; "
            "give both one shape, for example target.reshape(output.shape)"
        )


def _is_paired(base_loss: Callable[[Any, Any], Tensor], output: Any, targets: Targets, *, value: float) -> bool:
    """Return False where (n, 1) against (n,) became (n, n) without a word: in one shape the loss is another then."""
    if not isinstance(output, Tensor) or not isinstance(targets, Tensor):
        return True
    if output.shape == targets.shape or output.numel() != targets.numel() or output.shape[:1] != targets.shape[:1]:
        return True
    try:
        with torch.no_grad():
            alike = base_loss(output.reshape(targets.shape), targets)
    except Exception:  # ruff: ignore[blind-except] - a user's own code may need the shapes as they are
        return True
    return math.isclose(float(alike), value, rel_tol=1e-3, abs_tol=1e-6)


def require_labels(targets: Targets, n_classes: int, what: str) -> None:
    """Refuse class numbers outside [0, n_classes); targets that are not whole numbers are not classes and pass.

    Raises:
        DataError: a label is out of range.
    """
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.numel() == 0:
        return
    used = targets[targets != IGNORED_LABEL]
    low, high = (int(v) for v in used.aminmax()) if used.numel() else (0, 0)
    if low < 0 or high >= n_classes:
        raise DataError(
            f"{what} labels lie in [{low}, {high}], the network has {n_classes} outputs; "
            f"labels must lie in [0, {n_classes - 1}]"
        )


def all_targets(batches: Batches) -> Tensor | None:
    """Return every target where that costs nothing (they are one tensor in memory), else None."""
    columns = _columns(batches.data.dataset if isinstance(batches.data, DataLoader) else batches.data)
    return columns[1] if columns is not None and len(columns) == 2 and isinstance(columns[1], Tensor) else None


def require_finite(batches: Batches, *, also_targets: bool) -> None:
    """Refuse NaN and infinity in data that are tensors in memory; others show theirs when they are read.

    Targets may hold NaN where a loss and metrics of one's own leave them out.

    Raises:
        DataError: there is one.
    """
    data = batches.data.dataset if isinstance(batches.data, DataLoader) else batches.data
    parts = ("inputs", "targets") if also_targets else ("inputs",)
    for what, columns in zip(parts, _columns(data) or (), strict=False):
        for tensor in _flat(columns):
            if (number := _first_not_finite(tensor)) is not None:
                raise DataError(
                    f"the {batches.what} {what} hold NaN or infinite values, first in example {number}; repair the data"
                )


def _flat(columns: Any) -> Iterator[Tensor]:
    for column in (columns,) if isinstance(columns, Tensor) else columns:
        yield from (column,) if isinstance(column, Tensor) else _flat(column)


def _first_not_finite(tensor: Tensor) -> int | None:
    if not tensor.is_floating_point():
        return None
    for start in range(0, len(tensor), _N_AT_ONCE):
        is_finite = torch.isfinite(tensor[start : start + _N_AT_ONCE])
        is_finite = is_finite.reshape(len(is_finite), -1).all(1)
        if not bool(is_finite.all()):
            return start + int(is_finite.int().argmin())
    return None


def _columns(data: Any) -> tuple[Any, ...] | None:
    """Return the tensors in memory that `data` takes its items from, nested as an item is; None where it does not."""
    if isinstance(data, TensorDataset):
        return data.tensors
    held: Any = data.datasets if isinstance(data, StackDataset) else None
    if not isinstance(held, tuple):
        return None
    parts = [part if isinstance(part, Tensor) else _columns(part) for part in cast("tuple[Any, ...]", held)]
    return None if any(part is None for part in parts) else tuple(parts)


def _rows(columns: tuple[Any, ...], numbers: Tensor) -> tuple[Any, ...]:
    return tuple(column[numbers] if isinstance(column, Tensor) else _rows(column, numbers) for column in columns)


def _shapes(output: Any) -> str:
    tensors = as_inputs(output)
    return type(output).__name__ if tensors is None else describe(tensors)


def _length(data: Any) -> int:
    return len(cast("Sized", data))


def _describe(item: Any) -> str:
    if isinstance(item, tuple | list):
        parts = [_describe(part) if isinstance(part, Mapping) else type(part).__name__ for part in cast("Any", item)]
        return f"{type(item).__name__} of {', '.join(parts) or 'nothing'}"
    if isinstance(item, Mapping):
        return f"a mapping of {', '.join(map(str, cast('Mapping[Any, Any]', item)))}"
    return type(cast("object", item)).__name__
