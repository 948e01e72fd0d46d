"""This file prunes single weights by magnitude: at once, or little by little while the network trains."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import torch
from torch import Tensor

from dwindle.core.encoding import Encoding, decode, restrict, support_of
from dwindle.core.schedule import Constant, Schedule, is_due, sparsity_at
from dwindle.core.sparsity import find_std_multiplier, global_magnitude_supports, magnitude_support, std_support
from dwindle.errors import RecipeError, SettingError
from dwindle.network.compressed import CompressedModel
from dwindle.network.distillation import Distillation, loss_of
from dwindle.network.parametrize import TrainingCopy, trainable
from dwindle.network.select import Select
from dwindle.technique import Context, Effect, Needs, Trait, recorded

Supports = dict[str, Tensor]
_RANGES: Final = "the ranges of its activations were calibrated with the weights that would go"


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneWeights:
    """Set the smallest weights to zero for good; zeros of earlier steps stay and count towards the sparsity.

    Say how many with exactly one of `sparsity` and `std_multiplier`.

    Attributes:
        sparsity: fraction of the selected weights that is zero afterwards, [0, 1).
        std_multiplier: s in T = s * std(W_l): weights of layer l below T go (Tian et al. 2022, eq. 1).
        criterion: with `sparsity`: "magnitude" ranks weights; "std" finds the one s whose thresholds reach `sparsity`
            over all selected weights together.
        scope: with "magnitude": rank within each "layer", or all selected weights together ("global").
        schedule: None prunes at once, without data. A schedule prunes during `epochs` of training.
        epochs: length of that training.
        learning_rate: of that training; None takes the trainer's own.
        distillation: learn from the context's teacher during that training, too.
        select: which weights.
    """

    sparsity: float | None = None
    std_multiplier: float | None = None
    criterion: Literal["magnitude", "std"] = "magnitude"
    scope: Literal["layer", "global"] = "layer"
    schedule: Schedule | None = None
    epochs: float | None = None
    learning_rate: float | None = None
    distillation: Distillation | None = None
    select: Select = field(default_factory=Select)

    def __post_init__(self) -> None:
        if problem := self._amount_problem() or self._schedule_problem():
            raise SettingError(f"PruneWeights: {problem}")

    def _amount_problem(self) -> str | None:
        if (self.sparsity is None) == (self.std_multiplier is None):
            both = f"sparsity={self.sparsity}, std_multiplier={self.std_multiplier}"
            return f"give exactly one of sparsity and std_multiplier, got {both}"
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            return f"sparsity is the fraction of weights that become zero, in [0, 1), got {self.sparsity}"
        if self.std_multiplier is not None and not 0 <= self.std_multiplier < math.inf:
            return f"std_multiplier must be at least 0 and finite, got {self.std_multiplier}"
        if self.criterion not in {"magnitude", "std"} or self.scope not in {"layer", "global"}:
            return (
                f"criterion is 'magnitude' or 'std' and scope 'layer' or 'global', got {self.criterion}, {self.scope}"
            )
        if self.uses_std and self.scope == "global":
            return "scope='global' ranks magnitudes; the std rule has a threshold for each layer, leave scope out"
        return None

    def _schedule_problem(self) -> str | None:
        if self.schedule is None:
            if not self.epochs == self.learning_rate == self.distillation is None:
                return (
                    "epochs, learning_rate and distillation belong to a schedule; to train afterwards add "
                    "FineTune(epochs=...)"
                )
            return None
        if self.uses_std:
            return "a schedule ends at a sparsity by magnitude; leave std_multiplier and criterion='std' out"
        if self.epochs is None or not 0 < self.epochs < math.inf:
            return f"a schedule prunes during training: give positive epochs, got {self.epochs}"
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            return f"learning_rate must be positive, got {self.learning_rate}"
        return None

    @property
    def uses_std(self) -> bool:
        """Whether thresholds are multiples of each layer's standard deviation."""
        return self.std_multiplier is not None or self.criterion == "std"

    @property
    def needs(self) -> Needs:
        """Training for a schedule, and a teacher to distill from; else nothing."""
        if self.schedule is None:
            return Needs.NOTHING
        return Needs.TRAINING if self.distillation is None else Needs.TRAINING | Needs.TEACHER

    @property
    def effect(self) -> Effect:
        """Leaves zeros. Integer codes can be pruned, but not trained."""
        if self.schedule is None:
            return Effect(adds=Trait.SPARSE, refuses=Trait.QUANTIZED_ACTIVATIONS, because=_RANGES)
        because = "pruning on a schedule trains the weights, and integer codes cannot be trained"
        return Effect(adds=Trait.SPARSE, refuses=Trait.INTEGER | Trait.QUANTIZED_ACTIVATIONS, because=because)

    def apply(self, model: CompressedModel, context: Context) -> CompressedModel:
        """Return `model` with the selected weights pruned.

        Raises:
            SelectionError: a pattern matches nothing.
            RecipeError: a schedule without a trainer in the context, or activations are quantized.
        """
        if model.activations:
            raise RecipeError(f"PruneWeights: {_RANGES}; prune before the step that quantizes activations")
        names = self.select.resolve(model.network)
        if self.schedule is not None:
            return self._apply_during_training(model, context, names)
        encodings = {name: model.encodings[name] for name in names}
        values = {name: decode(encoding) for name, encoding in encodings.items()}
        within = {name: _support(encoding) for name, encoding in encodings.items()}
        multiplier = self._find_multiplier(values)
        supports = self._supports(values, within, sparsity=self.sparsity or 0.0, multiplier=multiplier)
        changed = {name: restrict(encodings[name], supports[name]) for name in names}
        decisions = _decisions(changed) | ({} if multiplier is None else {"std_multiplier": multiplier})
        return recorded(self, model.with_encodings(changed), context, decisions=decisions)

    def _find_multiplier(self, values: Mapping[str, Tensor]) -> float | None:
        if not self.uses_std:
            return None
        return find_std_multiplier(values, self.sparsity) if self.sparsity is not None else self.std_multiplier

    def _supports(
        self, values: Mapping[str, Tensor], within: Supports, *, sparsity: float, multiplier: float | None = None
    ) -> Supports:
        if multiplier is not None:
            return {name: std_support(values[name], multiplier, within=within[name]) for name in values}
        if self.scope == "global":
            return global_magnitude_supports(values, sparsity, within=within)
        return {name: magnitude_support(values[name], sparsity, within=within[name]) for name in values}

    def _apply_during_training(
        self, model: CompressedModel, context: Context, names: tuple[str, ...]
    ) -> CompressedModel:
        if context.trainer is None or self.epochs is None:
            raise RecipeError("PruneWeights on a schedule trains; give the context a trainer")
        n_steps = max(1, round(self.epochs * context.trainer.steps_per_epoch))
        with trainable(model) as copy:
            for name in names:  # masks exist from the first step on, so that every checkpoint holds them
                copy.restrict(name, _support(model.encodings[name]))
            prune = self._pruning(copy, names, n_steps=n_steps)
            prune(0)
            curve = context.trainer(
                copy.network,
                steps=n_steps,
                seed=context.seed,
                stage=self._stage(model),
                learning_rate=self.learning_rate,
                loss=loss_of(self.distillation, context.teacher),
                after_step=prune,
            )
            encodings = copy.finish()
        after = model.with_encodings(encodings)
        return recorded(self, after, context, decisions=_decisions({n: encodings[n] for n in names}), curve=curve)

    def _pruning(self, copy: TrainingCopy, names: tuple[str, ...], *, n_steps: int) -> Callable[[int], None]:
        """Return what prunes `copy` after a step; it keeps nothing, so a resumed training goes on as if never cut."""
        schedule = self.schedule or Constant()

        def prune(step: int) -> None:
            if not is_due(schedule, step, n_steps=n_steps):
                return
            sparsity = sparsity_at(schedule, step / n_steps, target=self.sparsity or 0.0)
            values = {name: copy.value(name).cpu() for name in names}
            within = {name: _everything_or(copy.support(name), values[name]) for name in names}
            for name, support in self._supports(values, within, sparsity=sparsity).items():
                copy.restrict(name, support.to(copy.value(name).device))

        return prune

    def _stage(self, model: CompressedModel) -> str:
        """Name the checkpoint by what goes in, so that equal steps of one recipe do not take each other's."""
        inputs = hashlib.sha256(f"{model.digest()} {len(model.history)} {self}".encode()).hexdigest()
        return f"{len(model.history) + 1:02d}-prune-{inputs[:12]}"


def _support(encoding: Encoding) -> Tensor:
    return _everything_or(support_of(encoding), decode(encoding))


def _everything_or(support: Tensor | None, values: Tensor) -> Tensor:
    return torch.ones_like(values, dtype=torch.bool) if support is None else support.cpu()


def _decisions(encodings: Mapping[str, Encoding]) -> dict[str, Any]:
    """Return sparsity and threshold (the smallest magnitude that stayed) of each tensor, and the sparsity of all."""
    tensors: dict[str, Any] = {}
    n_weights = n_kept = 0
    for name, encoding in encodings.items():
        support = _support(encoding)
        kept = decode(encoding)[support]
        n_weights, n_kept = n_weights + support.numel(), n_kept + kept.numel()
        threshold = float(kept.abs().min()) if kept.numel() else None
        tensors[name] = {"sparsity": _fraction_lost(support.numel(), kept.numel()), "threshold": threshold}
    return {"tensors": tensors, "sparsity": _fraction_lost(n_weights, n_kept)}


def _fraction_lost(n_weights: int, n_kept: int) -> float:
    return 1 - n_kept / n_weights if n_weights else 0.0
