"""This file lets the weights of a tensor share a few values: k-means, a codebook of centroids, and indices into it.

With `epochs` the network is then trained with its weights shared: centroids follow their weights' gradients, and
weights may move to other centroids on the way.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, get_args

import torch
from torch import Tensor

from dwindle.core.assignment import Reassign, is_reassigned
from dwindle.core.codebook import Init, kmeans_1d
from dwindle.core.encoding import Codebook, Dense, Encoding, Scaled, codebook_of, decode, rewrite, support_of
from dwindle.errors import EncodingError, RecipeError, SettingError
from dwindle.network.compressed import CompressedModel
from dwindle.network.distillation import Distillation, distilled_loss
from dwindle.network.parametrize import TrainingCopy, trainable
from dwindle.network.select import Select
from dwindle.network.structure import CentroidGradient
from dwindle.settings import require_kinds
from dwindle.technique import RANGES_WOULD_NOT_FIT, Context, Effect, Needs, Trait, needs_of, recorded

MAX_CODEBOOK_SIZE: Final = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Weight sharing (Han et al. 2016, section 3): a tensor keeps `codebook_size` values and an index per weight.

    A codebook that a tensor has already is clustered again and never grows. Without `epochs` this step needs no data,
    and a `FineTune` step that follows trains the centroids. With `epochs` it trains the whole network itself, as
    `FineTune` does, and `reassign` lets weights change their centroid meanwhile: each kept weight has a latent value,
    which starts where the weight was before this step and is trained with the gradient of the weight. Centroids that
    have lost all their weights are left out at the end.

    Attributes:
        codebook_size: centroids for each tensor. Zero outside a support is a value of its own: a pruned tensor with 16
            centroids has 17 levels, so a target that stores weights in 4 bits needs 15 (3 bits: 7).
        init: where k-means starts; `near_optimal` also ends at the least distortion there is.
        include_zeros: True also lets pruned zeros pull at the centroids, as the published code of Tian et al. (2022)
            does. Pruned weights stay exactly zero either way.
        epochs: length of a training with shared weights; a fraction is allowed. None: no training.
        learning_rate: of that training; None takes the trainer's own.
        centroid_gradient: whether a centroid follows the `mean` or the `sum` of its weights' gradients.
        reassign: when weights move to the centroid nearest to their latent value; None: they stay where k-means put
            them, as in Han et al. (2016).
        distillation: learn from the context's teacher during that training, too.
        select: which weights.
    """

    codebook_size: int = 16
    init: Init = "linear"
    include_zeros: bool = False
    epochs: float | None = None
    learning_rate: float | None = None
    centroid_gradient: CentroidGradient = "mean"
    reassign: Reassign | None = None
    distillation: Distillation | None = None
    select: Select = field(default_factory=Select)

    def __post_init__(self) -> None:
        require_kinds(self)
        if not 1 <= self.codebook_size <= MAX_CODEBOOK_SIZE:
            raise SettingError(
                f"Cluster: codebook_size must be in [1, {MAX_CODEBOOK_SIZE}], got {self.codebook_size}; 16 is usual"
            )
        if self.init not in get_args(Init):
            raise SettingError(f"Cluster: init must be one of {', '.join(get_args(Init))}, got {self.init!r}")
        if problem := self._training_problem():
            raise SettingError(f"Cluster: {problem}")

    def _training_problem(self) -> str | None:
        if self.centroid_gradient not in {"mean", "sum"}:
            return f"centroid_gradient must be 'mean' or 'sum', got {self.centroid_gradient!r}"
        if self.epochs is None:
            idle = self.learning_rate is None and self.reassign is None and self.distillation is None
            if idle and self.centroid_gradient == "mean":
                return None
            return "learning_rate, centroid_gradient, reassign and distillation belong to a training; give epochs, too"
        if not 0 < self.epochs < math.inf:
            return f"epochs must be positive, or None for no training, got {self.epochs}"
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            return f"learning_rate must be positive, got {self.learning_rate}"
        return None

    @property
    def needs(self) -> Needs:
        """Nothing but the weights; with `epochs` training, and a teacher to distill from."""
        if self.epochs is None:
            return Needs.NOTHING
        return Needs.TRAINING | needs_of(self.distillation)

    @property
    def effect(self) -> Effect:
        """Leaves codebooks; cannot share what are integer codes already."""
        return Effect(
            adds=Trait.CLUSTERED,
            refuses={
                Trait.INTEGER: "integer codes have no float values left to cluster",
                Trait.QUANTIZED_ACTIVATIONS: RANGES_WOULD_NOT_FIT,
            },
        )

    def apply(self, model: CompressedModel, context: Context) -> CompressedModel:
        """Return `model` with a codebook in each selected weight.

        Raises:
            SelectionError: a pattern matches nothing.
            EncodingError: a selected weight holds integer codes already.
            SettingError: a selected weight holds NaN or infinity.
            RecipeError: `epochs` without a trainer in the context.
        """
        names = self.select.resolve(model.network)
        before = {name: model.encodings[name] for name in names}
        changed = {name: self._clustered(name, encoding, context.seed) for name, encoding in before.items()}
        clustered = model.with_encodings(changed)
        if self.epochs is not None:
            return self._train(clustered, context, before=before, stage=self._stage(model))
        decisions = {"tensors": {name: _decision(before[name], after) for name, after in changed.items()}}
        return recorded(self, clustered, context, decisions=decisions)

    def _train(
        self, clustered: CompressedModel, context: Context, *, before: Mapping[str, Encoding], stage: str
    ) -> CompressedModel:
        if context.trainer is None or self.epochs is None:
            raise RecipeError(f"Cluster(epochs={self.epochs}) trains; give the context a trainer")
        n_steps = max(1, round(self.epochs * context.trainer.steps_per_epoch))
        latents = {} if self.reassign is None else {name: _values(encoding) for name, encoding in before.items()}
        with (
            trainable(clustered, centroid_gradient=self.centroid_gradient, latents=latents) as copy,
            distilled_loss(self.distillation, context, copy.network) as loss,
        ):
            curve = context.trainer(
                copy.network,
                steps=n_steps,
                seed=context.seed,
                stage=stage,
                learning_rate=self.learning_rate,
                loss=loss,
                after_step=self._reassigning(copy, n_steps=n_steps),
            )
            moved = {name: {"moved": _share_moved(copy, name, clustered.encodings[name])} for name in before}
            after = clustered.with_encodings(copy.finish())
        tensors = {name: _decision(before[name], after.encodings[name]) | moved[name] for name in before}
        return recorded(self, after, context, decisions={"tensors": tensors, "steps": n_steps}, curve=curve)

    def _reassigning(self, copy: TrainingCopy, *, n_steps: int) -> Callable[[int], None] | None:
        """Return what moves weights after a step; it keeps nothing, so a resumed training goes on as if never cut."""
        reassign = self.reassign
        if reassign is None:
            return None

        def move(step: int) -> None:
            if is_reassigned(reassign, step, n_steps=n_steps):
                copy.reassign()

        return move

    def _stage(self, model: CompressedModel) -> str:
        """Name the checkpoint by what goes in, so that equal steps of one recipe do not take each other's."""
        inputs = hashlib.sha256(f"{model.digest()} {len(model.history)} {self}".encode()).hexdigest()
        return f"{len(model.history) + 1:02d}-cluster-{inputs[:12]}"

    def _clustered(self, name: str, encoding: Encoding, seed: int) -> Encoding:
        try:
            return rewrite(encoding, partial(self._fit, generator=_generator(seed, name)))
        except (EncodingError, SettingError) as error:
            raise type(error)(f"{name!r}: {error}") from error

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


def _values(encoding: Encoding) -> Tensor:
    """Return the weights before factors: centroids live there."""
    return decode(encoding.values if isinstance(encoding, Scaled) else encoding)


def _share_moved(copy: TrainingCopy, name: str, clustered: Encoding) -> float:
    """Return the fraction of the kept weights that have another centroid than at the start."""
    codebook, support, indices = codebook_of(clustered), support_of(clustered), copy.indices(name)
    if codebook is None or indices is None:
        return 0.0
    has_moved = indices.cpu() != codebook.indices
    kept = has_moved if support is None else has_moved[support]
    return float(kept.double().mean()) if kept.numel() else 0.0


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
