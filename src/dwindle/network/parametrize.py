"""This file trains a compressed network: its weights are computed from what is float in their encodings.

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
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dwindle.core.encoding import Dense, Encoding, Half, affine_of, describe
from dwindle.core.half import to_half
from dwindle.errors import EncodingError, NetworkError
from dwindle.network.compressed import CompressedModel
from dwindle.network.reassigned import Reassigned
from dwindle.network.structure import CentroidGradient, Structure, WeightGrid, contiguous, floats_of

NO_GRIDS: Final[Mapping[str, WeightGrid]] = {}
NO_LATENTS: Final[Mapping[str, Tensor]] = {}


class TrainingCopy:
    """A parametrized copy of a compressed model's network; train `network` in place, then `finish`.

    Centroids are parameters of one axis: an optimizer that decays only those of two or more axes leaves them alone.
    """

    def __init__(
        self,
        model: CompressedModel,
        *,
        centroid_gradient: CentroidGradient,
        grids: Mapping[str, WeightGrid],
        latents: Mapping[str, Tensor],
        network: nn.Module | None,
    ) -> None:
        self.network = copying.deepcopy(model.network) if network is None else network
        self._encodings = model.encodings
        self._centroid_gradient: CentroidGradient = centroid_gradient
        self._grids = grids
        self._latents = latents
        self._slots: dict[str, _Slot] = {}
        self._owners = {model.aliases.get(name, name): owners for name, owners in _owners_by_name(self.network).items()}
        for name, owners in self._owners.items():
            encoding = self._encodings.get(name, None)
            if encoding is None:
                continue
            if affine_of(encoding) is not None:
                owners[0].parameter.requires_grad = False
            elif name in grids or not isinstance(encoding, Dense | Half):
                self._parametrize(name, encoding)

    def value(self, name: str) -> Tensor:
        """Return the weight `name` as the network computes with it now, detached."""
        return cast("Tensor", getattr(*self._place(name))).detach()

    def support(self, name: str) -> Tensor | None:
        """Return a copy of the support of weight `name`, or None where nothing is pruned."""
        slot = self._slots.get(name)
        return None if slot is None or slot.structure.support is None else slot.structure.support.clone()

    def indices(self, name: str) -> Tensor | None:
        """Return a copy of the indices of weight `name`, or None where weights are not shared."""
        slot = self._slots.get(name)
        return None if slot is None or slot.structure.indices is None else contiguous(slot.structure.indices)

    def reassign(self) -> None:
        """Move every weight that has a latent value to the centroid nearest to it; a no-op for all others."""
        for slot in self._slots.values():
            if isinstance(slot.structure, Reassigned):
                slot.structure.reassign(slot.floats)

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
            if name in changed or name not in tensors or not isinstance(encoding, Dense | Half):
                continue
            values = contiguous(tensors[name])
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
        grid = self._grids.get(name)
        structure: Structure | Reassigned = Structure(encoding, centroid_gradient=self._centroid_gradient, grid=grid)
        if name in self._latents:
            structure = Reassigned(structure, self._latents[name], is_trained=was.requires_grad)
        floats = was if isinstance(encoding, Dense | Half) else nn.Parameter(floats_of(encoding), was.requires_grad)
        shared: nn.Module | None = None
        for owner in owners:  # tied weights must share one list, or the twin keeps its own unmasked copy
            parametrize.register_parametrization(owner.module, owner.attribute, structure, unsafe=True)
            lists = cast("nn.ModuleDict", owner.module.parametrizations)
            shared = lists[owner.attribute] if shared is None else shared
            lists[owner.attribute] = shared
            shared.original = floats
        self._slots[name] = _Slot(owners=owners, structure=structure, weight=shared)


@contextmanager
def trainable(
    model: CompressedModel,
    *,
    centroid_gradient: CentroidGradient = "mean",
    grids: Mapping[str, WeightGrid] = NO_GRIDS,
    latents: Mapping[str, Tensor] = NO_LATENTS,
    network: nn.Module | None = None,
) -> Generator[TrainingCopy]:
    """Yield a copy of the model's network in which what is float can be trained and what is structure cannot change.

    Weights outside a support stay exactly zero; weights of one cluster stay equal (the centroids are trained); factors
    are fixed; integer codes are frozen; tied weights stay tied. Batch norm statistics are updated as usual.

    Args:
        model: what to train; it stays as it is.
        centroid_gradient: how a centroid follows its weights.
        grids: by name, what rounds the innermost floats of a weight in every step; its codes come out at the end.
        latents: by name of a shared weight, a value for each weight before factors: it is trained beside the centroids,
            and `TrainingCopy.reassign` moves the weight to the centroid nearest to it.
        network: trained in place of a copy of the model's network: one with parameters and buffers of the same names,
            such as its captured graph. A tensor that it lacks stays as it was.

    Raises:
        NetworkError: the network was changed behind the model's back and no longer holds its encoded tensors.
    """
    unknown = sorted(set(model.encodings) - set(model.network.state_dict()))
    if unknown:
        raise NetworkError(
            f"the network lacks the encoded tensors {unknown}; pass the model as its last step returned it"
        )
    copy = TrainingCopy(model, centroid_gradient=centroid_gradient, grids=grids, latents=latents, network=network)
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
    structure: Structure | Reassigned
    weight: nn.Module | None

    @property
    def floats(self) -> nn.Parameter:
        return cast("nn.Parameter", cast("nn.Module", self.weight).original)

    def encode(self) -> Encoding:
        return self.structure.encode(self.floats)


def _owners_by_name(network: nn.Module) -> dict[str, tuple[_Owner, ...]]:
    """Return the first name of each parameter with every place that holds it."""
    places: dict[int, list[_Owner]] = {}
    for module in network.modules():
        for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            places.setdefault(id(parameter), []).append(_Owner(module, attribute, parameter))
    return {name: tuple(places[id(parameter)]) for name, parameter in network.named_parameters()}


def _named(name: str, encode: Callable[[], Encoding]) -> Encoding:
    try:
        return encode()
    except EncodingError as error:
        raise EncodingError(f"{name!r}: {error}") from error
