"""This file turns whatever holds training data into batches, in an order that depends on nothing but a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

from dwindle.errors import DataError
from dwindle.network.train import Batch

Data = Dataset[Any] | DataLoader[Any]
"""Items (or, from a loader, batches) of `(input, target)`; a data set needs a length and items by number."""
IGNORED_LABEL: Final = -100
"""The target that cross entropy leaves out."""
_N_PROBED: Final = 64


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
            return inputs[:n], targets[:n]
        return self._take(data, torch.arange(min(n, self.n_examples)))

    def fingerprint(self) -> str:
        """Return a short hash of the size and of up to 64 examples spread over the data (none from a `DataLoader`)."""
        sha = hashlib.sha256(f"{self.n_examples} {self.n_shuffled}".encode())
        if not isinstance(self.data, DataLoader):
            numbers = torch.linspace(0, self.n_examples - 1, min(_N_PROBED, self.n_examples)).long()
            for tensor in self._take(self.data, numbers):
                sha.update(hash_bytes(tensor))
        return sha.hexdigest()[:16]

    def _take(self, data: Dataset[Any], numbers: Tensor) -> Batch:
        if isinstance(data, TensorDataset):
            return self._pair(tuple(tensor[numbers] for tensor in data.tensors))
        return self._pair(default_collate([data[int(number)] for number in numbers]))

    def _pair(self, batch: Any) -> Batch:
        items = cast("Sequence[Any]", batch) if isinstance(batch, tuple | list) else ()
        if len(items) != 2 or not all(isinstance(item, Tensor) for item in items):
            raise DataError(
                f"the {self.what} data yield {_describe(batch)}; an item must be (input, target), tensors or numbers"
            )
        return cast("Tensor", items[0]), cast("Tensor", items[1])


def hash_bytes(tensor: Tensor) -> bytes:
    """Return the SHA-256 of a tensor's type, shape and values, whatever its memory layout."""
    values = tensor.detach().cpu().contiguous()
    sha = hashlib.sha256(f"{values.dtype} {tuple(values.shape)}".encode())
    sha.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.digest()


def are_classes(output: Any, targets: Tensor) -> bool:
    """Return whether `output` holds scores (batch, classes) and `targets` class numbers (batch,)."""
    return isinstance(output, Tensor) and output.ndim == 2 and targets.ndim == 1 and not targets.is_floating_point()


def try_first_batch(network: nn.Module, batches: Batches, device: torch.device) -> Any:
    """Return the network's output (eval mode, no gradient) for two examples: what is wrong shows before any step.

    Raises:
        DataError: an input is NaN or infinite, or the network rejects its shape or type.
    """
    inputs, _ = batches.first(2)
    if inputs.is_floating_point() and not bool(torch.isfinite(inputs).all()):
        raise DataError(f"the first {batches.what} inputs hold NaN or infinite values; repair the data")
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            return network(inputs.to(device))
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise DataError(
            f"the network rejects {batches.what} inputs of shape {tuple(inputs.shape)} and type {inputs.dtype}: "
            f"{error}; the data must have the shape that the network was built for"
        ) from error
    finally:
        for module, was_training in modes.items():
            module.training = was_training


def require_labels(targets: Tensor, n_classes: int, what: str) -> None:
    """Refuse class numbers outside [0, n_classes); targets that are not whole numbers are not classes and pass.

    Raises:
        DataError: a label is out of range.
    """
    if targets.is_floating_point() or targets.numel() == 0:
        return
    used = targets[targets != IGNORED_LABEL]
    low, high = (int(v) for v in used.aminmax()) if used.numel() else (0, 0)
    if low < 0 or high >= n_classes:
        raise DataError(
            f"{what} labels lie in [{low}, {high}], the network has {n_classes} outputs; "
            f"labels must lie in [0, {n_classes - 1}]"
        )


def all_targets(batches: Batches) -> Tensor | None:
    """Return every target where that costs nothing (a `TensorDataset` of pairs), else None."""
    data = batches.data.dataset if isinstance(batches.data, DataLoader) else batches.data
    return data.tensors[1] if isinstance(data, TensorDataset) and len(data.tensors) == 2 else None


def _length(data: Any) -> int:
    return len(cast("Sized", data))


def _describe(item: Any) -> str:
    if isinstance(item, tuple | list):
        parts = [type(part).__name__ for part in cast("Sequence[Any]", item)]
        return f"{type(item).__name__} of {', '.join(parts) or 'nothing'}"
    return type(cast("object", item)).__name__
