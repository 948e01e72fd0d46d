"""This file turns encodings into something that can be trained: masks, shared centroids and fixed factors.

A parametrized module cannot be copied or pickled, so the caller's network is copied first and parametrized after, and
parametrizations never leave the `with` block:

    with trainable(model) as copy:
        trainer(copy.network, ...)
        changed = copy.finish()
    model = model.with_encodings(changed)
"""

from __future__ import annotations

import copy as copying
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dwindle.core.encoding import (
    Affine,
    Codebook,
    Dense,
    Encoding,
    Half,
    Scaled,
    Sparse,
    affine_of,
    codebook_of,
    decode,
    describe,
    is_half,
    support_of,
)
from dwindle.core.half import to_half
from dwindle.errors import EncodingError, NetworkError
from dwindle.network.compressed import CompressedModel

_Prepared = TypeVar("_Prepared")
_BLOCK: Final = 1 << 17

CentroidGradient = Literal["mean", "sum"]
"""Whether a centroid's gradient is the mean or the sum over the weights that share it.

The mean is the gradient of the unshared weights projected onto the shared ones, so the learning rate of the other
weights fits it whatever the size of a cluster. The sum (Han et al. 2016, section 3) is the derivative of the loss by
the centroid; it grows with the cluster, and needs a learning rate that is smaller by about that size.
"""


class TrainingCopy:
    """A parametrized copy of a compressed model's network; train `network` in place, then `finish`.

    Centroids are parameters of one axis: an optimizer that decays only those of two or more axes leaves them alone.
    """

    def __init__(self, model: CompressedModel, *, centroid_gradient: CentroidGradient) -> None:
        self.network = copying.deepcopy(model.network)
        self._encodings = model.encodings
        self._centroid_gradient: CentroidGradient = centroid_gradient
        self._slots: dict[str, _Slot] = {}
        self._owners = _owners_by_name(self.network)
        for name, owners in self._owners.items():
            encoding = self._encodings.get(name, None)
            if encoding is None:
                continue
            if affine_of(encoding) is not None:
                owners[0].parameter.requires_grad = False
            elif not isinstance(encoding, Dense | Half):
                self._parametrize(name, encoding)

    def value(self, name: str) -> Tensor:
        """Return the weight `name` as the network computes with it now, detached."""
        return cast("Tensor", getattr(*self._place(name))).detach()

    def support(self, name: str) -> Tensor | None:
        """Return a copy of the support of weight `name`, or None where nothing is pruned."""
        slot = self._slots.get(name)
        return None if slot is None or slot.structure.support is None else slot.structure.support.clone()

    def restrict(self, name: str, support: Tensor) -> None:
        """Prune weight `name` to `support` (bool, the weight's shape); earlier zeros stay zero.

        A weight that was dense gets its mask here. Do that before training starts (an all-True support will do), so
        that every checkpoint of the training holds the mask.

        Raises:
            EncodingError: the weight is unknown or holds integer codes, or the support has another shape.
        """
        shape = self.value(name).shape
        encoding = self._encodings[name]
        if affine_of(encoding) is not None:
            raise EncodingError(f"{name!r} is {describe(encoding)}: integer codes are not trained, so not pruned here")
        if support.dtype != torch.bool or support.shape != shape:
            raise EncodingError(
                f"the support of {name!r} must be bool of shape {tuple(shape)}, "
                f"got {support.dtype} of shape {tuple(support.shape)}"
            )
        if name not in self._slots:
            self._parametrize(name, encoding)
        slot = self._slots[name]
        slot.structure.restrict(support)
        if slot.structure.indices is None:  # a centroid stays alive: kept weights share it
            with torch.no_grad():
                slot.floats.masked_fill_(~support, 0.0)

    def finish(self) -> Mapping[str, Encoding]:
        """Return every trained tensor and every buffer re-encoded, structure kept, and remove the parametrizations.

        Each encoding decodes to the very values that the network computed with; float16 numbers are trained as float32
        and rounded here.

        Raises:
            EncodingError: a weight that is stored as float16 has grown beyond its range.
        """
        changed: dict[str, Encoding] = {name: _named(name, slot.encode) for name, slot in self._slots.items()}
        self.remove()
        tensors = self.network.state_dict(keep_vars=True)
        for name, encoding in self._encodings.items():
            if name in changed or not isinstance(encoding, Dense | Half):
                continue
            values = _contiguous(tensors[name])
            changed[name] = Dense(values) if isinstance(encoding, Dense) else _named(name, partial(to_half, values))
        return {name: changed[name] for name in self._encodings if name in changed}

    def remove(self) -> None:
        """Turn every parametrized weight back into a plain parameter; safe to call twice."""
        for name, slot in self._slots.items():
            parameter = nn.Parameter(self.value(name).clone(), requires_grad=slot.floats.requires_grad)
            for owner in slot.owners:
                parametrize.remove_parametrizations(owner.module, owner.attribute, leave_parametrized=False)
                setattr(owner.module, owner.attribute, parameter)
        self._slots.clear()

    def _place(self, name: str) -> tuple[nn.Module, str]:
        if name not in self._owners or name not in self._encodings:
            raise EncodingError(f"{name!r} is not an encoded weight of this network; weights are {list(self._owners)}")
        return self._owners[name][0].module, self._owners[name][0].attribute

    def _parametrize(self, name: str, encoding: Encoding) -> None:
        owners, was = self._owners[name], self._owners[name][0].parameter
        structure = _Structure(encoding, centroid_gradient=self._centroid_gradient)
        floats = was if isinstance(encoding, Dense | Half) else nn.Parameter(_floats_of(encoding), was.requires_grad)
        shared: nn.Module | None = None
        for owner in owners:  # tied weights must share one list, or the twin keeps its own unmasked copy
            parametrize.register_parametrization(owner.module, owner.attribute, structure, unsafe=True)
            lists = cast("nn.ModuleDict", owner.module.parametrizations)
            shared = lists[owner.attribute] if shared is None else shared
            lists[owner.attribute] = shared
            shared.original = floats
        self._slots[name] = _Slot(owners=owners, structure=structure, weight=shared)


@contextmanager
def trainable(model: CompressedModel, *, centroid_gradient: CentroidGradient = "mean") -> Generator[TrainingCopy]:
    """Yield a copy of the model's network in which what is float can be trained and what is structure cannot change.

    Weights outside a support stay exactly zero; weights of one cluster stay equal (the centroids are trained); factors
    are fixed; integer codes are frozen; tied weights stay tied. Batch norm statistics are updated as usual.

    Raises:
        NetworkError: the network was changed behind the model's back and no longer holds its encoded tensors.
    """
    unknown = sorted(set(model.encodings) - set(model.network.state_dict()))
    if unknown:
        raise NetworkError(
            f"the network lacks the encoded tensors {unknown}; pass the model as its last step returned it"
        )
    copy = TrainingCopy(model, centroid_gradient=centroid_gradient)
    try:
        yield copy
    finally:
        copy.remove()


@dataclass(frozen=True)
class _Owner:
    """A place in the network that holds a parameter; a tied parameter has several."""

    module: nn.Module
    attribute: str
    parameter: nn.Parameter = field(repr=False)


@dataclass(frozen=True)
class _Slot:
    """A parametrized weight: where it sits, its structure, and the list that holds the floats being trained."""

    owners: tuple[_Owner, ...]
    structure: _Structure
    weight: nn.Module | None

    @property
    def floats(self) -> nn.Parameter:
        return cast("nn.Parameter", cast("nn.Module", self.weight).original)

    def encode(self) -> Encoding:
        return self.structure.encode(self.floats)


class _Structure(nn.Module):
    """`decode` as a differentiable function of the innermost floats.

    Buffers, all persistent so that a training checkpoint holds them: `support`, `indices`, `factor`; each may be None.
    They are copies: loading a checkpoint writes into them.
    """

    support: Tensor | None
    indices: Tensor | None
    factor: Tensor | None

    def __init__(self, encoding: Encoding, *, centroid_gradient: CentroidGradient) -> None:
        super().__init__()
        support, codebook = support_of(encoding), codebook_of(encoding)
        self.register_buffer("support", None if support is None else _contiguous(support))
        self.register_buffer("indices", None if codebook is None else _contiguous(codebook.indices))
        self.register_buffer("factor", _contiguous(encoding.factor) if isinstance(encoding, Scaled) else None)
        self.axis = encoding.axis if isinstance(encoding, Scaled) else 0
        self.is_half = is_half(encoding)
        self.takes_mean = centroid_gradient == "mean"
        self._prepared: tuple[object, Any] = (None, None)

    def forward(self, floats: Tensor) -> Tensor:
        """Map the trained floats, centroids (k,) or values of the weight's shape, to the weight."""
        if self.indices is not None:
            weight = cast("Tensor", _Spread.apply(floats, self.indices, self._clusters(self.indices), self.takes_mean))
        elif self.support is not None:
            weight = floats * self._gate(self.support, floats)
        else:
            weight = floats
        if self.factor is None:
            return weight
        return weight * self.factor.reshape([-1 if i == self.axis else 1 for i in range(weight.ndim)])

    def restrict(self, support: Tensor) -> None:
        """Shrink the support in place."""
        if self.support is None:
            self.support = _contiguous(support)
        else:
            self.support.logical_and_(support)

    def encode(self, floats: Tensor) -> Encoding:
        """Return the encoding of which `forward(floats)` is the decoded tensor."""
        values = _contiguous(floats)
        encoding: Any
        if self.indices is None and self.support is not None:
            values = torch.where(self.support, values, torch.zeros((), dtype=values.dtype)).contiguous()
        encoding = to_half(values) if self.is_half else Dense(values)
        if self.indices is not None:
            encoding = Codebook(_contiguous(self.indices), encoding)
        if self.support is not None:
            encoding = Sparse(_contiguous(self.support), encoding)
        return encoding if self.factor is None else Scaled(encoding, self.factor.clone(), self.axis)

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


def _owners_by_name(network: nn.Module) -> dict[str, tuple[_Owner, ...]]:
    """Return the first name of each parameter with every place that holds it."""
    places: dict[int, list[_Owner]] = {}
    for module in network.modules():
        for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            places.setdefault(id(parameter), []).append(_Owner(module, attribute, parameter))
    return {name: tuple(places[id(parameter)]) for name, parameter in network.named_parameters()}


def _floats_of(encoding: Encoding) -> Tensor:
    """Return a copy of the innermost floats."""
    match encoding:
        case Dense() | Half():
            return _contiguous(decode(encoding))
        case Codebook(_, inner) | Sparse(_, inner) | Scaled(inner, _, _):
            return _floats_of(inner)
        case Affine():
            raise EncodingError(f"{describe(encoding)} has no float values left to train")


def _named(name: str, encode: Callable[[], Encoding]) -> Encoding:
    try:
        return encode()
    except EncodingError as error:
        raise EncodingError(f"{name!r}: {error}") from error


def _contiguous(values: Tensor) -> Tensor:
    return values.detach().clone(memory_format=torch.contiguous_format)
