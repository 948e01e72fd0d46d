"""This file prunes whole channels: the network becomes physically smaller, and faster on every engine."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dwindle.core.channels import Scope, choose_kept, keep_equally_many
from dwindle.errors import RecipeError, SelectionError, SettingError
from dwindle.network.channel_scores import Importance, batchnorm_scores, taylor_scores, weight_scores
from dwindle.network.compressed import CompressedModel
from dwindle.network.coupled import Group
from dwindle.network.distillation import Distillation, distilled_loss
from dwindle.network.groups import find_groups
from dwindle.network.parametrize import trainable
from dwindle.network.select import Select
from dwindle.network.surgery import remove
from dwindle.network.train import Trainer
from dwindle.settings import require_kinds
from dwindle.technique import Context, Effect, Needs, Trait, needs_of, recorded

_RANGES = "the ranges of its activations were calibrated with the channels that would go"
Curve = tuple[Mapping[str, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneChannels:
    """Remove the least important channels of convolutions, neurons of linear and units of recurrent layers.

    All that hangs on them goes, too. Channels that a residual addition, a concatenation or a depthwise convolution
    couples go together; a recurrent module loses equally many units in all its layers and directions, each its own.
    Weights that are pruned, shared or quantized keep that structure. Channels that cannot go (outputs of the network,
    channels that are normalized together) stay; the history says which, and why.

    Attributes:
        pruning_ratio: fraction of the channels of each group that goes, [0, 1); with scope "global" of all together.
        importance: what ranks channels: "l1" or "l2" norm of their weights, the "batchnorm" factors, or "taylor", the
            change of the loss to first order over `n_batches` training batches.
        scope: rank within each group ("layer"), or all channels together ("global").
        max_pruning_ratio: with scope "global", no group loses a larger fraction.
        round_to: how many stay is rounded up to a multiple of this; kernels like multiples of 8.
        rounds: reach the ratio in so many equal steps, choosing anew in each.
        epochs: training after the rounds, in all; each round gets its share. None does not train.
        learning_rate: of that training; None takes the trainer's own.
        distillation: learn from the context's teacher during that training, too.
        n_batches: training batches that "taylor" looks at in each round.
        select: weights whose outputs may go; a group goes only if all weights that compute it are selected.
    """

    pruning_ratio: float
    importance: Importance = "l2"
    scope: Scope = "layer"
    max_pruning_ratio: float = 0.9
    round_to: int = 8
    rounds: int = 1
    epochs: float | None = None
    learning_rate: float | None = None
    distillation: Distillation | None = None
    n_batches: int = 16
    select: Select = field(default_factory=Select)

    def __post_init__(self) -> None:
        require_kinds(self)
        if problem := self._amount_problem() or self._training_problem():
            raise SettingError(f"PruneChannels: {problem}")

    def _amount_problem(self) -> str:
        if not 0 <= self.pruning_ratio < 1:
            return f"pruning_ratio is the fraction of channels that goes, in [0, 1), got {self.pruning_ratio}"
        if self.importance not in {"l1", "l2", "batchnorm", "taylor"} or self.scope not in {"layer", "global"}:
            return (
                "importance is 'l1', 'l2', 'batchnorm' or 'taylor' and scope 'layer' or 'global', got "
                f"{self.importance!r}, {self.scope!r}"
            )
        if not 0 < self.max_pruning_ratio < 1:
            return f"max_pruning_ratio must be in (0, 1), got {self.max_pruning_ratio}"
        for name in ("round_to", "rounds", "n_batches"):
            if getattr(self, name) < 1:
                return f"{name} must be at least 1, got {getattr(self, name)}"
        return ""

    def _training_problem(self) -> str:
        if self.epochs is None:
            if self.learning_rate is not None or self.distillation is not None:
                return "learning_rate and distillation belong to training; give epochs, or add FineTune(epochs=...)"
            return ""
        if not 0 < self.epochs < math.inf:
            return f"epochs must be positive, or None to not train, got {self.epochs}"
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            return f"learning_rate must be positive, got {self.learning_rate}"
        return ""

    @property
    def needs(self) -> Needs:
        """An example to trace the network; for "taylor" and for epochs a trainer; to distill, a teacher."""
        needs = Needs.EXAMPLE
        if self.epochs is not None or self.importance == "taylor":
            needs |= Needs.TRAINING
        return needs | needs_of(self.distillation)

    @property
    def effect(self) -> Effect:
        """Leaves fewer channels and every other structure. Integer codes can be cut, but not trained."""
        if self.epochs is None:
            return Effect(adds=Trait.RESHAPED, refuses={Trait.QUANTIZED_ACTIVATIONS: _RANGES})
        codes = "it trains the weights that stay, and integer codes cannot be trained"
        return Effect(adds=Trait.RESHAPED, refuses={Trait.INTEGER: codes, Trait.QUANTIZED_ACTIVATIONS: _RANGES})

    def apply(self, model: CompressedModel, context: Context) -> CompressedModel:
        """Return `model` without its least important channels.

        Raises:
            SelectionError: a pattern matches nothing, or no channel of the selected layers can go.
            RecipeError: there is no example or trainer, activations are quantized, or rounding leaves every channel.
            NetworkError: the network cannot be traced.
        """
        if model.activations:
            raise RecipeError(f"PruneChannels: {_RANGES}; prune before the step that quantizes activations")
        after, curve, sizes, kept = model, Curve(), dict[str, int](), dict[str, int]()
        left: Mapping[str, str] = {}
        for number in range(1, self.rounds + 1):
            groups, left = self._groups(after, context)
            if not groups and number == 1:
                raise SelectionError(self._nothing_to_cut(model, left))
            if groups:  # else earlier rounds left one channel of each
                sizes = {group.name: group.n_channels for group in groups} | sizes
                after, counts = self._prune(after, context, groups, sizes=sizes, number=number)
                kept |= counts
            if self.epochs is not None:
                after, trained = self._train(after, context, number=number)
                n_before = len(curve)
                curve += tuple({**one, "epoch": float(n_before + i)} for i, one in enumerate(trained, start=1))
        if self.pruning_ratio and kept == sizes:
            raise RecipeError(
                f"PruneChannels: pruning_ratio={self.pruning_ratio} with round_to={self.round_to} leaves all channels "
                f"of groups of {sorted(set(sizes.values()))}; lower round_to or prune more"
            )
        channels = {name: [sizes[name], kept[name]] for name in sizes}
        decisions: dict[str, Any] = {"channels": channels, "left": dict(left)}
        return recorded(self, after, context, decisions=decisions, curve=curve)

    def _groups(self, model: CompressedModel, context: Context) -> tuple[list[Group], Mapping[str, str]]:
        """Return the groups that may be cut, and why layers that were selected cannot be."""
        if context.example is None:
            raise RecipeError("PruneChannels needs an example batch to trace the network; give Context(example=...)")
        selected = set(self.select.resolve(model.network))
        layers = {name.rpartition(".")[0] for name in selected}
        found = find_groups(model.network, context.example, layers=layers)
        others = {group.together or group.name for group in found.groups if not set(group.weights()) <= selected}
        groups = [group for group in found.groups if (group.together or group.name) not in others]
        left = dict.fromkeys(sorted(others), "not all weights that compute its channels are selected") | dict(
            found.left
        )
        return groups, left

    def _nothing_to_cut(self, model: CompressedModel, left: Mapping[str, str]) -> str:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(left.items())[:3])
        advice = (
            "select every layer whose outputs are added together, and with a depthwise convolution the layer before "
            "it, whose channels it has"
        )
        return f"PruneChannels: no channel of the {len(self.select.resolve(model.network))} selected weights can go" + (
            f" ({reasons})" if reasons else f"; {advice}"
        )

    def _prune(
        self, model: CompressedModel, context: Context, groups: list[Group], *, sizes: Mapping[str, int], number: int
    ) -> tuple[CompressedModel, dict[str, int]]:
        """Return `model` after the cut of round `number`, and how many channels each group has then.

        `sizes` counts those before the first cut.
        """
        scores = self._scores(model, context, groups, number=number)
        kept = choose_kept(
            scores,
            self.pruning_ratio * number / self.rounds,
            sizes=sizes,
            scope=self.scope,
            round_to=self.round_to,
            max_pruning_ratio=self.max_pruning_ratio if self.scope == "global" else 1.0,
        )
        together = {group.name: group.together for group in groups}
        kept = keep_equally_many(kept, scores, together, round_to=self.round_to)
        gone = {name: (~stays).nonzero().flatten().tolist() for name, stays in kept.items()}
        after = remove(model, [cut for group in groups for cut in group.cuts(gone[group.name])])
        return after, {name: int(stays.sum()) for name, stays in kept.items()}

    def _scores(
        self, model: CompressedModel, context: Context, groups: list[Group], *, number: int
    ) -> Mapping[str, Tensor]:
        match self.importance:
            case "l1":
                return weight_scores(model.network, groups, power=1)
            case "l2":
                return weight_scores(model.network, groups, power=2)
            case "batchnorm":
                return batchnorm_scores(model.network, groups)
            case "taylor":
                return taylor_scores(
                    model.network,
                    groups,
                    trainer=_trainer(context),
                    n_batches=self.n_batches,
                    seed=context.seed,
                    stage=self._stage(model, "score", number),
                )

    def _train(self, model: CompressedModel, context: Context, *, number: int) -> tuple[CompressedModel, Curve]:
        trainer = _trainer(context)
        epochs = (self.epochs or 0.0) / self.rounds
        with trainable(model) as copy, distilled_loss(self.distillation, context, copy.network) as loss:
            curve = trainer(
                copy.network,
                steps=max(1, round(epochs * trainer.steps_per_epoch)),
                seed=context.seed,
                stage=self._stage(model, "train", number),
                learning_rate=self.learning_rate,
                loss=loss,
            )
            return model.with_encodings(copy.finish()), curve

    def _stage(self, model: CompressedModel, what: str, number: int) -> str:
        """Name the checkpoint by what goes in, so that equal steps of one recipe do not take each other's."""
        inputs = hashlib.sha256(f"{model.digest()} {len(model.history)} {self}".encode()).hexdigest()
        return f"{len(model.history) + 1:02d}-channels-{number}-{what}-{inputs[:12]}"


def _trainer(context: Context) -> Trainer:
    if context.trainer is None:
        raise RecipeError(
            "PruneChannels: importance 'taylor' and epochs need training data; give the context a trainer"
        )
    return context.trainer
