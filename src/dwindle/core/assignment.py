"""This file gives weights to centroids while both are trained: to which, when, and what becomes of unused ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from dwindle.core.encoding import Codebook, Dense, Encoding, Half, Scaled, Sparse, index_dtype
from dwindle.errors import SettingError
from dwindle.settings import require_kinds

_BLOCK: Final = 1 << 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Reassign:
    """While shared weights are trained, each moves to the centroid that its own latent value is nearest to.

    Attributes:
        frequency: optimizer steps between two assignments; 1 is what TensorFlow MOT does. Between two of them latent
            values run ahead of the weights that the gradient is taken at, so large ones want a small learning rate.
        end: fraction of the training from which on every weight stays where it is, so that centroids settle; 1 assigns
            to the last step.
    """

    frequency: int = 1
    end: float = 0.75

    def __post_init__(self) -> None:
        require_kinds(self)
        if not self.frequency >= 1:
            raise SettingError(f"Reassign: frequency counts optimizer steps from 1, got {self.frequency}")
        if not 0 < self.end <= 1:
            raise SettingError(f"Reassign: end is a fraction of the training in (0, 1], got {self.end}")


def is_reassigned(reassign: Reassign, step: int, *, n_steps: int) -> bool:
    """Say whether weights move after optimizer step `step` (from 1) of `n_steps`.

    They do after every `frequency`-th step before the end, and after the first step at or past it, so at least once.

    >>> [step for step in range(1, 9) if is_reassigned(Reassign(frequency=4, end=0.75), step, n_steps=8)]
    [4, 6]
    """
    here, before = step / n_steps, (step - 1) / n_steps
    return before < reassign.end <= here or (here < reassign.end and step % reassign.frequency == 0)


def nearest(values: Tensor, centroids: Tensor) -> Tensor:
    """Return the index of the centroid nearest to each value; the lower centroid where two are equally near.

    Args:
        values: floats of any shape.
        centroids: (k,), k >= 1, in any order.

    Returns:
        The shape of `values`: uint8 up to 256 centroids, else int32.

    >>> nearest(torch.tensor([0.1, 0.5, 0.9]), torch.tensor([1.0, 0.0])).tolist()
    [1, 1, 0]
    """
    ordered, order = centroids.detach().double().sort(stable=True)
    borders = ordered[:-1] + (ordered[1:] - ordered[:-1]) / 2  # float64: the midpoint of two float32 is exact
    order = order.to(index_dtype(len(centroids)))
    flat = values.detach().flatten()
    size = _BLOCK if flat.device.type == "cpu" else max(len(flat), 1)  # blocks stay in the cache of a processor
    found = [
        order.index_select(0, torch.bucketize(block.double(), borders, out_int32=True)) for block in flat.split(size)
    ]
    return torch.cat(found).reshape(values.shape)


def without_unused(encoding: Encoding) -> Encoding:
    """Return `encoding` without the centroids that no kept weight shares; one stays where no weight is left.

    The decoded tensor is the same. An encoding without a codebook of floats comes back as it is.

    >>> book = Codebook(torch.tensor([0, 2], dtype=torch.uint8), Dense(torch.tensor([0.5, 1.0, 2.0])))
    >>> without_unused(book).centroids.values.tolist()
    [0.5, 2.0]
    """
    match encoding:
        case Codebook(indices, (Dense() | Half()) as centroids):
            return _used(indices, centroids, torch.ones_like(indices, dtype=torch.bool))
        case Sparse(support, Codebook(indices, (Dense() | Half()) as centroids)):
            return Sparse(support, _used(indices, centroids, support))
        case Scaled((Codebook() | Sparse()) as values, factor, axis):
            inner = without_unused(values)
            return Scaled(inner, factor, axis) if isinstance(inner, Codebook | Sparse) else encoding
        case _:
            return encoding


def _used(indices: Tensor, centroids: Dense | Half, support: Tensor) -> Codebook:
    n_centroids = len(centroids.values)
    is_used = torch.bincount(indices[support].int(), minlength=n_centroids) > 0
    if n_centroids and not bool(is_used.any()):
        is_used[0] = True
    if bool(is_used.all()):
        return Codebook(indices, centroids)
    places = is_used.cumsum(0) - 1
    kept = places.to(index_dtype(int(is_used.sum())))
    moved = torch.where(support, kept.index_select(0, indices.flatten().int()).reshape(indices.shape), 0)
    return Codebook(moved.to(kept.dtype), replace(centroids, values=centroids.values[is_used]))
