"""This file maps the floats that are trained to the weight that a network computes with: `decode`, differentiable.

A mask for a support, a look-up for a codebook, a fixed factor for each channel; and, between the floats and these, the
grid that they are rounded to where a network learns to live with integers (`network/weight_grids.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from dwindle.core.encoding import (
    Affine,
    Codebook,
    Dense,
    Encoding,
    Half,
    Scaled,
    Sparse,
    codebook_of,
    decode,
    describe,
    is_half,
    support_of,
)
from dwindle.core.half import to_half
from dwindle.errors import EncodingError

_Prepared = TypeVar("_Prepared")
_BLOCK: Final = 1 << 17

CentroidGradient = Literal["mean", "sum"]
"""Whether a centroid's gradient is the mean or the sum over the weights that share it.

The mean is the gradient of the unshared weights projected onto the shared ones, so the learning rate of the other
weights fits it whatever the size of a cluster. The sum (Han et al. 2016, section 3) is the derivative of the loss by
the centroid; it grows with the cluster, and needs a learning rate that is smaller by about that size.
"""


class WeightGrid(Protocol):
    """What rounds the floats of one weight while they are trained; an `nn.Module`, which may learn its own scales."""

    def __call__(self, floats: Tensor, support: Tensor | None) -> Tensor:
        """Return `floats` as the grid holds them, differentiable; only those inside `support` (None: all) count."""
        ...

    def encode(self, encoding: Encoding) -> Encoding:
        """Return `encoding`, whose innermost values are the trained floats, as what the call above rounds them to."""
        ...


class Structure(nn.Module):
    """`decode` as a differentiable function of the innermost floats.

    Buffers, all persistent so that a training checkpoint holds them: `support`, `indices`, `factor`; each may be None.
    They are copies: loading a checkpoint writes into them.
    """

    support: Tensor | None
    indices: Tensor | None
    factor: Tensor | None

    def __init__(
        self, encoding: Encoding, *, centroid_gradient: CentroidGradient, grid: WeightGrid | None = None
    ) -> None:
        super().__init__()
        self.grid = grid
        support, codebook = support_of(encoding), codebook_of(encoding)
        self.register_buffer("support", None if support is None else contiguous(support))
        self.register_buffer("indices", None if codebook is None else contiguous(codebook.indices))
        self.register_buffer("factor", contiguous(encoding.factor) if isinstance(encoding, Scaled) else None)
        self.axis = encoding.axis if isinstance(encoding, Scaled) else 0
        self.is_half = is_half(encoding)
        self.takes_mean = centroid_gradient == "mean"
        self._prepared: tuple[object, Any] = (None, None)

    def forward(self, floats: Tensor) -> Tensor:
        """Map the trained floats, centroids (k,) or values of the weight's shape, to the weight."""
        return self.scaled(self.spread(floats))

    def spread(self, floats: Tensor) -> Tensor:
        """Return the weight as `forward` does, before its factors."""
        if self.grid is not None:
            floats = self.grid(floats, self.support if self.indices is None else None)
        if self.indices is not None:
            return cast("Tensor", _Spread.apply(floats, self.indices, self._clusters(self.indices), self.takes_mean))
        return floats if self.support is None else floats * self._gate(self.support, floats)

    def scaled(self, weight: Tensor) -> Tensor:
        """Return `weight` times its factors."""
        if self.factor is None:
            return weight
        return weight * self.factor.reshape([-1 if i == self.axis else 1 for i in range(weight.ndim)])

    def restrict(self, support: Tensor) -> None:
        """Shrink the support in place."""
        if self.support is None:
            self.support = contiguous(support)
        else:
            self.support.logical_and_(support)

    def encode(self, floats: Tensor) -> Encoding:
        """Return the encoding of which `forward(floats)` is the decoded tensor (float16 numbers are rounded here)."""
        values = contiguous(floats)
        encoding: Any
        if self.indices is None and self.support is not None:
            values = torch.where(self.support, values, torch.zeros((), dtype=values.dtype)).contiguous()
        encoding = to_half(values) if self.is_half and self.grid is None else Dense(values)
        if self.indices is not None:
            encoding = Codebook(contiguous(self.indices), encoding)
        if self.support is not None:
            encoding = Sparse(contiguous(self.support), encoding)
        if self.grid is not None:
            encoding = self.grid.encode(encoding)
        return encoding if self.factor is None else _scaled(encoding, self.factor, self.axis)

    def _gate(self, support: Tensor, floats: Tensor) -> Tensor:
        """Return 1 inside the support and 0 outside: a product takes a third of the time of a choice, twice a step."""
        return self._once((floats.dtype, *_state(support)), lambda: support.to(floats.dtype))

    def _clusters(self, indices: Tensor) -> _Clusters:
        key = _state(indices) if self.support is None else (*_state(indices), *_state(self.support))
        return self._once(key, lambda: _Clusters.of(indices, self.support))

    def _once(self, key: object, prepare: Callable[[], _Prepared]) -> _Prepared:
        """Return what was prepared for `key`; prepared anew only where support or indices have changed."""
        if self._prepared[0] != key:
            self._prepared = (key, prepare())
        return self._prepared[1]


def _state(tensor: Tensor) -> tuple[object, ...]:
    """Return what changes whenever the values or the layout of `tensor` do."""
    return tensor.data_ptr(), tensor.stride(), tensor._version  # pyright: ignore[reportPrivateUsage]


@dataclass(frozen=True)
class _Clusters:
    """The kept weights in the order of memory, so that a weight in channels-last order is never copied to another.

    Attributes:
        positions: of the kept weights; None: all of them.
        indices: int32, the cluster of each kept weight.
        sizes: float64 (at least 1), how many kept weights each cluster has; as many as the highest index needs.
    """

    positions: Tensor | None
    indices: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, indices: Tensor, support: Tensor | None) -> _Clusters:
        positions, flat = None, _in_memory_order(indices, indices)
        if support is not None:
            positions = _in_memory_order(support, indices).nonzero().flatten()
            flat = flat.index_select(0, positions)
        flat = flat.to(torch.int32, copy=True)
        return cls(positions, flat, torch.bincount(flat).clamp_(min=1).double())


class _Spread(torch.autograd.Function):
    """Centroids (k,) to a weight: its centroid for each kept weight, else zero; only kept weights cost time."""

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        ctx, centroids, indices, clusters, takes_mean = arguments
        ctx.indices, ctx.clusters, ctx.takes_mean, ctx.n_centroids = indices, clusters, takes_mean, len(centroids)
        weight = torch.empty_like(indices, dtype=centroids.dtype)
        flat = weight.as_strided((weight.numel(),), (1,))
        if clusters.positions is None:
            torch.index_select(centroids, 0, clusters.indices, out=flat)
        else:
            flat.zero_().index_copy_(0, clusters.positions, centroids.index_select(0, clusters.indices))
        return weight

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        clusters: _Clusters = ctx.clusters
        flat = _in_memory_order(grad_outputs[0], ctx.indices)
        inside = flat if clusters.positions is None else flat.index_select(0, clusters.positions)
        total = _sums(inside, clusters.indices, ctx.n_centroids)
        if ctx.takes_mean:
            total[: len(clusters.sizes)] /= clusters.sizes
        return total.to(flat.dtype), None, None, None


def _sums(values: Tensor, clusters: Tensor, n_clusters: int) -> Tensor:
    """Return the sums (n_clusters,) of the values of each cluster in float64.

    On a processor in blocks that stay in its cache, the copy in float64 included: a quarter faster.
    """
    size = _BLOCK if values.device.type == "cpu" else max(len(values), 1)
    total = torch.zeros(n_clusters, dtype=torch.float64, device=values.device)
    for block, which in zip(values.split(size), clusters.split(size), strict=True):
        total += torch.bincount(which, weights=block.double(), minlength=n_clusters)
    return total


def _in_memory_order(tensor: Tensor, like: Tensor) -> Tensor:
    """Return `tensor` flat, in the order in which the elements of `like` lie in memory; a view where it lies so, too.

    `like` has no gaps and no element twice: parameters and buffers are contiguous in some order of their axes.
    """
    if tensor.stride() != like.stride():
        tensor = torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
    return tensor.as_strided((tensor.numel(),), (1,))


def floats_of(encoding: Encoding) -> Tensor:
    """Return a copy of the innermost floats."""
    match encoding:
        case Dense() | Half():
            return contiguous(decode(encoding))
        case Codebook(_, inner) | Sparse(_, inner) | Scaled(inner, _, _):
            return floats_of(inner)
        case Affine():
            raise EncodingError(f"{describe(encoding)} has no float values left to train")


def contiguous(values: Tensor) -> Tensor:
    """Return a detached copy of `values` in the order of their axes."""
    return values.detach().clone(memory_format=torch.contiguous_format)


def _scaled(encoding: Any, factor: Tensor, axis: int) -> Scaled:
    """Return `encoding` times `factor`; a grid may have left a factor of its own."""
    if isinstance(encoding, Scaled):
        return Scaled(encoding.values, encoding.factor * factor, axis)
    return Scaled(encoding, factor.clone(), axis)
