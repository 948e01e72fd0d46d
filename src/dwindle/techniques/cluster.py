"""This file lets the weights of a tensor share a few values: k-means, a codebook of centroids, and indices into it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, get_args

import torch
from torch import Tensor

from dwindle.core.codebook import Init, kmeans_1d
from dwindle.core.encoding import Codebook, Dense, Encoding, codebook_of, decode, rewrite, support_of
from dwindle.errors import EncodingError, SettingError
from dwindle.network.compressed import CompressedModel
from dwindle.network.select import Select
from dwindle.technique import Context, Effect, Needs, Trait, recorded

MAX_CODEBOOK_SIZE: Final = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Weight sharing (Han et al. 2016, section 3): a tensor keeps `codebook_size` values and an index per weight.

    A codebook that a tensor has already is clustered again and never grows. Centroids are trained by a `FineTune` step
    that follows; this step alone needs no data.

    Attributes:
        codebook_size: centroids for each tensor. Zero outside a support is a value of its own: a pruned tensor with 16
            centroids has 17 levels, so a target that stores weights in 4 bits needs 15 (3 bits: 7).
        init: where k-means starts; `near_optimal` also ends at the least distortion there is.
        include_zeros: True also lets pruned zeros pull at the centroids, as the published code of Tian et al. (2022)
            does. Pruned weights stay exactly zero either way.
        select: which weights.
    """

    codebook_size: int = 16
    init: Init = "linear"
    include_zeros: bool = False
    select: Select = field(default_factory=Select)

    def __post_init__(self) -> None:
        if not 1 <= self.codebook_size <= MAX_CODEBOOK_SIZE:
            raise SettingError(
                f"Cluster: codebook_size must be in [1, {MAX_CODEBOOK_SIZE}], got {self.codebook_size}; 16 is usual"
            )
        if self.init not in get_args(Init):
            raise SettingError(f"Cluster: init must be one of {', '.join(get_args(Init))}, got {self.init!r}")

    @property
    def needs(self) -> Needs:
        """Nothing but the weights."""
        return Needs.NOTHING

    @property
    def effect(self) -> Effect:
        """Leaves codebooks; cannot share what are integer codes already."""
        return Effect(
            adds=Trait.CLUSTERED,
            refuses=Trait.INTEGER | Trait.QUANTIZED_ACTIVATIONS,
            because="integer codes have no float values left to cluster",
        )

    def apply(self, model: CompressedModel, context: Context) -> CompressedModel:
        """Return `model` with a codebook in each selected weight.

        Raises:
            SelectionError: a pattern matches nothing.
            EncodingError: a selected weight holds integer codes already.
        """
        names = self.select.resolve(model.network)
        changed = {name: self._clustered(name, model.encodings[name], context.seed) for name in names}
        decisions = {"tensors": {name: _decision(model.encodings[name], after) for name, after in changed.items()}}
        return recorded(self, model.with_encodings(changed), context, decisions=decisions)

    def _clustered(self, name: str, encoding: Encoding, seed: int) -> Encoding:
        try:
            return rewrite(encoding, partial(self._fit, generator=_generator(seed, name)))
        except EncodingError as error:
            raise EncodingError(f"{name!r}: {error}") from error

    def _fit(self, values: Tensor, support: Tensor, *, is_codebook: bool, generator: torch.Generator) -> Codebook:
        inside = values[support]
        if inside.numel() == 0:
            nothing = torch.zeros(values.shape, dtype=torch.uint8)
            return Codebook(nothing, Dense(torch.zeros(1, dtype=values.dtype)))
        codebook_size = min(self.codebook_size, values.numel()) if is_codebook else self.codebook_size
        fitted = torch.where(support, values, torch.zeros((), dtype=values.dtype)) if self.include_zeros else inside
        clustering = kmeans_1d(fitted, codebook_size, init=self.init, generator=generator)
        centroids = Dense(clustering.centroids.to(values.dtype))
        if self.include_zeros:
            return Codebook(clustering.indices, centroids)
        indices = torch.zeros(values.shape, dtype=clustering.indices.dtype)
        indices[support] = clustering.indices
        return Codebook(indices, centroids)


def _generator(seed: int, name: str) -> torch.Generator:
    """Return the generator of one tensor: a function of the seed and its name, never of the order of tensors."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def _decision(before: Encoding, after: Encoding) -> dict[str, Any]:
    """Return the codebook size found and the mean squared error over the weights that are not pruned."""
    support = support_of(after)
    squares = (decode(after).double() - decode(before).double()).square()
    kept = squares if support is None else squares[support]
    codebook = codebook_of(after)
    return {
        "codebook_size": codebook.codebook_size if codebook else 0,
        "distortion": float(kept.mean()) if kept.numel() else 0.0,
    }
