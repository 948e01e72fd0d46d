"""This file changes one weight as a technique would, without training: what a layer is sensitive to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor

from dwindle.core.affine import quantize
from dwindle.core.codebook import kmeans_1d
from dwindle.core.encoding import MAX_BITS, MIN_BITS, Dense, decode
from dwindle.core.few_bits import Levels
from dwindle.core.granularity import Granularity, PerTensor
from dwindle.core.sparsity import magnitude_support
from dwindle.errors import SettingError
from dwindle.network.few_bit_grid import FewBitGrid, FewBits
from dwindle.network.significance.counts import require_counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """The smallest magnitudes become zero.

    Attributes:
        sparsity: share of the layer's weights that go, in [0, 1].
    """

    sparsity: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity <= 1:
            raise SettingError(f"Pruned: sparsity must be in [0, 1], got {self.sparsity}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounded:
    """Weights are rounded to signed codes, symmetric about zero, that cover the largest magnitude.

    Attributes:
        n_bits: width of a code, 2 to 16.
        granularity: which weights share one scale.
    """

    n_bits: int = 4
    granularity: Granularity = PerTensor()  # ruff: ignore[function-call-in-dataclass-default-argument] (frozen)

    def __post_init__(self) -> None:
        if type(self.n_bits) is not int or not MIN_BITS <= self.n_bits <= MAX_BITS:
            raise SettingError(f"Rounded: n_bits must be in [{MIN_BITS}, {MAX_BITS}], got {self.n_bits}; or Binary()")


@dataclass(frozen=True, slots=True, kw_only=True)
class Binary:
    """Weights are centred and keep their signs, times one factor for the layer, as `Binarize` starts its training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clustered:
    """Weights become the nearest of a few shared values.

    Attributes:
        codebook_size: how many values the layer has then, at most.
    """

    codebook_size: int = 16

    def __post_init__(self) -> None:
        require_counts(self, codebook_size=1)


Change = Pruned | Rounded | Binary | Clustered


def apply_change(weight: Tensor, change: Change) -> Tensor:
    """Return what `change` leaves of `weight`, finite floats of any shape; of its type and device.

    Raises:
        SettingError: values that are not finite, or a granularity that the shape does not have.

    >>> apply_change(torch.tensor([[-3.0, 1.0], [0.5, 2.0]]), Pruned(sparsity=0.5)).tolist()
    [[-3.0, 0.0], [0.0, 2.0]]
    """
    values = weight.detach().to("cpu", torch.float32)
    match change:
        case Pruned():
            support = magnitude_support(values, change.sparsity)
            changed = torch.where(support, values, torch.zeros(()))
        case Rounded():
            changed = decode(quantize(values, n_bits=change.n_bits, granularity=change.granularity))
        case Clustered():
            clustering = kmeans_1d(values, change.codebook_size, init="linear")
            changed = clustering.centroids[clustering.indices.long()]
        case Binary():
            grid = FewBitGrid(Dense(values), FewBits(levels=Levels(1)))
            changed = grid(values, None).detach()
        case _:
            assert_never(change)
    return changed.to(weight.device, weight.dtype)


def squared_error(weight: Tensor, change: Change) -> float:
    """Return |W - Q(W)|^2, summed over the weights.

    >>> squared_error(torch.tensor([-3.0, 1.0]), Pruned(sparsity=0.5))
    1.0
    """
    gap = weight.detach().double() - apply_change(weight, change).double()
    return float(gap.square().sum())
