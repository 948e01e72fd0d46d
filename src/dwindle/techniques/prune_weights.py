"""This file prunes single weights by magnitude: at once, little by little while the network trains, or in rounds."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from dwindle.core.encoding import decode, restrict
from dwindle.core.schedule import Constant, Schedule, is_due, sparsity_at
from dwindle.core.sparsity import NOfM
from dwindle.errors import RecipeError, SettingError
from dwindle.network.compressed import CompressedModel
from dwindle.network.distillation import Distillation, distilled_loss
from dwindle.network.parametrize import TrainingCopy, trainable
from dwindle.network.rewind import Rewind, rewound
from dwindle.network.select import Select
from dwindle.network.significance.guide import Guide, SharedOut
from dwindle.network.supports import (
    Candidates,
    Supports,
    describe_supports,
    everything_or,
    support_or_all,
    transposed_weights,
)
from dwindle.network.train import Trainer
from dwindle.settings import require_kinds
from dwindle.technique import Context, Effect, Needs, Trait, evidence_of, needs_of, needs_of_criterion, recorded

_RANGES: Final = "the ranges of its activations were calibrated with the weights that would go"
_LATER: Final = frozenset({"pattern", "rewind", "guide"})
"""Fields that came later: checkpoints of before are named without them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneWeights:
    """Set the smallest weights to zero for good; zeros of earlier steps stay and count towards the sparsity.

    Say how many with exactly one of `sparsity`, `std_multiplier` and `pattern`.

    Attributes:
        sparsity: fraction of the selected weights that is zero afterwards, [0, 1).
        std_multiplier: s in T = s * std(W_l): weights of layer l below T go (Tian et al. 2022, eq. 1).
        pattern: n of every m weights stay that follow each other along the inputs of an output, channels innermost.
        criterion: with `sparsity`: "magnitude" ranks weights; "std" finds the one s whose thresholds reach `sparsity`
            over all selected weights together.
        scope: with "magnitude": rank within each "layer", or all selected weights together ("global"), or all together
            by their squares as shares of what is left of their layers ("lamp", Lee et al. 2021): large layers give
            most, and none is emptied.
        schedule: None prunes at once, without data. A schedule prunes during `epochs` of training.
        rewind: prune, go back to an early state of the training and train `epochs` again, perhaps several times.
        epochs: length of that training (with `rewind`: of each one).
        learning_rate: of that training; None takes the trainer's own.
        distillation: learn from the context's teacher during that training, too.
        select: which weights.
        guide: with `sparsity` over all selected weights: how much of it falls on which layer, by how much layers matter
            on the model as it comes in; None gives each layer the same.
    """

    sparsity: float | None = None
    std_multiplier: float | None = None
    criterion: Literal["magnitude", "std"] = "magnitude"
    scope: Literal["layer", "global", "lamp"] = "layer"
    schedule: Schedule | None = None
    epochs: float | None = None
    learning_rate: float | None = None
    distillation: Distillation | None = None
    select: Select = field(default_factory=Select)
    pattern: NOfM | None = None
    rewind: Rewind | None = None
    guide: Guide | None = None

    def __post_init__(self) -> None:
        require_kinds(self)
        if problem := self._amount_problem() or self._schedule_problem():
            raise SettingError(f"PruneWeights: {problem}")

    def _amount_problem(self) -> str | None:
        given = {name: getattr(self, name) for name in ("sparsity", "std_multiplier", "pattern")}
        if sum(value is not None for value in given.values()) != 1:
            words = ", ".join(f"{name}={value}" for name, value in given.items())
            return f"give exactly one of sparsity, std_multiplier and pattern, got {words}"
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            return f"sparsity is the fraction of weights that become zero, in [0, 1), got {self.sparsity}"
        if self.std_multiplier is not None and not 0 <= self.std_multiplier < math.inf:
            return f"std_multiplier must be at least 0 and finite, got {self.std_multiplier}"
        return self._ranking_problem()

    def _ranking_problem(self) -> str | None:
        if self.criterion not in {"magnitude", "std"} or self.scope not in {"layer", "global", "lamp"}:
            return (
                "criterion is 'magnitude' or 'std' and scope 'layer', 'global' or 'lamp', got "
                f"{self.criterion}, {self.scope}"
            )
        if self.uses_std and self.scope != "layer":
            return (
                f"scope={self.scope!r} ranks magnitudes; the std rule has a threshold for each layer, leave scope out"
            )
        if self.pattern is not None and (self.scope, self.criterion) != ("layer", "magnitude"):
            return "pattern ranks the magnitudes of each few neighbours; leave scope and criterion out"
        ranking = (self.criterion, self.scope, self.rewind)
        if self.guide is not None and (self.sparsity is None or ranking != ("magnitude", "layer", None)):
            return "guide shares a sparsity out among layers; leave scope, criterion, std_multiplier and rewind out"
        return None

    def _schedule_problem(self) -> str | None:
        if self.schedule is None and self.rewind is None:
            if not self.epochs == self.learning_rate == self.distillation is None:
                return (
                    "epochs, learning_rate and distillation belong to a schedule or to rewind; to train afterwards add "
                    "FineTune(epochs=...)"
                )
            return None
        if self.schedule is not None and self.rewind is not None:
            return "schedule prunes during a training and rewind before one; keep one of them"
        if self.schedule is not None and self.uses_std:
            return "a schedule ends at a sparsity by magnitude; leave std_multiplier and criterion='std' out"
        if self.rewind is not None and self.rewind.rounds > 1 and self.std_multiplier is not None:
            return "rounds lead to a sparsity step by step; give sparsity (with criterion='std') for std_multiplier"
        return self._training_problem()

    def _training_problem(self) -> str | None:
        if self.epochs is None or not 0 < self.epochs < math.inf:
            how = "a schedule prunes during training" if self.rewind is None else "rewind trains again after pruning"
            return f"{how}: give positive epochs, got {self.epochs}"
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            return f"learning_rate must be positive, got {self.learning_rate}"
        return None

    @property
    def uses_std(self) -> bool:
        """Whether thresholds are multiples of each layer's standard deviation."""
        return self.std_multiplier is not None or self.criterion == "std"

    @property
    def trained_epochs(self) -> float:
        """Length of all its training together."""
        return (self.epochs or 0.0) * (1 if self.rewind is None else self.rewind.rounds)

    @property
    def needs(self) -> Needs:
        """Training for a schedule or to rewind, a teacher to distill from, early weights to go back to."""
        judging = Needs.NOTHING if self.guide is None else needs_of_criterion(self.guide.by)
        if self.schedule is None and self.rewind is None:
            return judging
        needs = Needs.TRAINING | needs_of(self.distillation) | judging
        return needs | Needs.EARLY if self.rewind is not None and self.rewind.needs_early else needs

    @property
    def effect(self) -> Effect:
        """Leaves zeros. Integer codes can be pruned, but not trained; shared and folded weights cannot go back."""
        if self.schedule is None and self.rewind is None:
            return Effect(adds=Trait.SPARSE, refuses={Trait.QUANTIZED_ACTIVATIONS: _RANGES})
        refuses = {
            Trait.INTEGER: "it trains the weights that stay, and integer codes cannot be trained",
            Trait.QUANTIZED_ACTIVATIONS: _RANGES,
        }
        if self.rewind is not None and self.rewind.needs_early:
            refuses[Trait.CLUSTERED] = "shared weights cannot each go back to what they were early in training"
            refuses[Trait.FOLDED] = "folded weights are no longer those of early in training"
            refuses[Trait.RESHAPED] = "the early network has the weights of the network given"
        return Effect(adds=Trait.SPARSE, refuses=refuses)

    def apply(self, model: CompressedModel, context: Context) -> CompressedModel:
        """Return `model` with the selected weights pruned.

        Raises:
            SelectionError: a pattern matches nothing.
            SettingError: `pattern` was asked for a weight without an axis of inputs.
            RecipeError: a schedule or rewind without a trainer in the context, or activations are quantized.
            NetworkError: the early network is not the one that is pruned.
        """
        if model.activations:
            raise RecipeError(f"PruneWeights: {_RANGES}; prune before the step that quantizes activations")
        names = self.select.resolve(model.network)
        if self.guide is not None:
            return self._apply_guided(model, context, names, guide=self.guide)
        if self.schedule is not None:
            return self._apply_during_training(model, context, names)
        if self.rewind is not None:
            return self._apply_in_rounds(model, context, names, rewind=self.rewind)
        after, multiplier = self._prune(model, names)
        decisions = describe_supports({name: after.encodings[name] for name in names})
        return recorded(self, after, context, decisions=decisions | _multiplier(multiplier))

    def _apply_guided(
        self, model: CompressedModel, context: Context, names: tuple[str, ...], *, guide: Guide
    ) -> CompressedModel:
        """Share the sparsity out, then prune every layer to its own."""
        sizes = {name: decode(model.encodings[name]).numel() for name in names}
        shared = guide.share_out(model.network, evidence_of(context), sizes, sparsity=self._sparsity)
        if self.schedule is not None:
            return self._apply_during_training(model, context, names, shared=shared)
        encodings = {name: model.encodings[name] for name in names}
        supports = Candidates.of(model.network, encodings).by_layer(shared.sparsity)
        after = model.with_encodings({name: restrict(encodings[name], supports[name]) for name in names})
        decisions = describe_supports({name: after.encodings[name] for name in names})
        return recorded(self, after, context, decisions=decisions | {"guide": shared.to_plain()})

    def _prune(
        self, model: CompressedModel, names: tuple[str, ...], *, n_rounds: int = 1
    ) -> tuple[CompressedModel, float | None]:
        """Prune at once, as the first of `n_rounds`; return the model and the multiplier of the std rule."""
        encodings = {name: model.encodings[name] for name in names}
        candidates = Candidates.of(model.network, encodings)
        multiplier = self.std_multiplier
        if self.criterion == "std" and self.sparsity is not None:
            multiplier = candidates.std_multiplier(self.sparsity, n_rounds=n_rounds)
        if multiplier is not None:
            supports = candidates.by_std(multiplier)
        else:
            supports = self._supports(candidates, self._sparsity, n_rounds=n_rounds)
        return model.with_encodings({name: restrict(encodings[name], supports[name]) for name in names}), multiplier

    @property
    def _sparsity(self) -> float:
        return self.pattern.sparsity if self.pattern is not None else self.sparsity or 0.0

    def _supports(self, candidates: Candidates, sparsity: float, *, n_rounds: int = 1) -> Supports:
        if self.pattern is not None:
            return candidates.by_pattern(self.pattern, sparsity, n_rounds=n_rounds)
        choose = {"layer": candidates.by_layer, "global": candidates.globally, "lamp": candidates.by_lamp}[self.scope]
        return choose(sparsity, n_rounds=n_rounds)

    def _apply_in_rounds(
        self, model: CompressedModel, context: Context, names: tuple[str, ...], *, rewind: Rewind
    ) -> CompressedModel:
        """Prune, go back, train; as often as there are rounds. What each round starts from decides all of it."""
        trainer = _trainer(context)
        stage, curve, reached = self._stage(model), list[Mapping[str, float]](), list[float]()
        multiplier: float | None = None
        for number in range(1, rewind.rounds + 1):
            model, multiplier = self._prune(model, names, n_rounds=rewind.rounds - number + 1)
            reached.append(describe_supports({n: model.encodings[n] for n in names})["sparsity"])
            if rewind.needs_early:
                model = rewound(model, context.early)
            with trainable(model) as copy, distilled_loss(self.distillation, context, copy.network) as loss:
                figures = trainer(
                    copy.network,
                    steps=self._n_steps(trainer),
                    seed=context.seed,
                    stage=f"{stage}-round-{number}",
                    learning_rate=self.learning_rate,
                    loss=loss,
                )
                encodings = copy.finish()
            n_before = len(curve)
            curve += [{**epoch, "epoch": float(n_before + i)} for i, epoch in enumerate(figures, start=1)]
            model = model.with_encodings(encodings)
        decisions = describe_supports({name: model.encodings[name] for name in names}) | {"rounds": reached}
        return recorded(self, model, context, decisions=decisions | _multiplier(multiplier), curve=tuple(curve))

    def _apply_during_training(
        self, model: CompressedModel, context: Context, names: tuple[str, ...], *, shared: SharedOut | None = None
    ) -> CompressedModel:
        trainer = _trainer(context)
        with trainable(model) as copy, distilled_loss(self.distillation, context, copy.network) as loss:
            for name in names:  # masks exist from the first step on, so that every checkpoint holds them
                copy.restrict(name, support_or_all(model.encodings[name]))
            prune = self._pruning(model, copy, names, n_steps=self._n_steps(trainer), shared=shared)
            prune(0)
            curve = trainer(
                copy.network,
                steps=self._n_steps(trainer),
                seed=context.seed,
                stage=self._stage(model, shared),
                learning_rate=self.learning_rate,
                loss=loss,
                after_step=prune,
            )
            encodings = copy.finish()
        after = model.with_encodings(encodings)
        decisions = describe_supports({name: encodings[name] for name in names})
        found = {} if shared is None else {"guide": shared.to_plain()}
        return recorded(self, after, context, decisions=decisions | found, curve=curve)

    def _pruning(
        self,
        model: CompressedModel,
        copy: TrainingCopy,
        names: tuple[str, ...],
        *,
        n_steps: int,
        shared: SharedOut | None,
    ) -> Callable[[int], None]:
        """Return what prunes `copy` after a step; it keeps nothing, so a resumed training goes on as if never cut."""
        schedule, transposed = self.schedule or Constant(), transposed_weights(model.network)

        def prune(step: int) -> None:
            if not is_due(schedule, step, n_steps=n_steps):
                return
            values = {name: copy.value(name).cpu() for name in names}
            within = {name: everything_or(copy.support(name), values[name]) for name in names}
            candidates = Candidates(values=values, within=within, transposed=transposed)
            if shared is None:
                supports = self._supports(candidates, sparsity_at(schedule, step / n_steps, target=self._sparsity))
            else:
                supports = candidates.by_layer(
                    {name: sparsity_at(schedule, step / n_steps, target=s) for name, s in shared.sparsity.items()}
                )
            for name, support in supports.items():
                copy.restrict(name, support.to(copy.value(name).device))

        return prune

    def _n_steps(self, trainer: Trainer) -> int:
        return max(1, round((self.epochs or 0.0) * trainer.steps_per_epoch))

    def _stage(self, model: CompressedModel, shared: SharedOut | None = None) -> str:
        """Name the checkpoint by what goes in, so that equal steps of one recipe do not take each other's."""
        settings = ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self))
        words = ", ".join(f"{name}={v!r}" for name, v in settings if not (name in _LATER and v is None))
        inputs = f"{model.digest()} {len(model.history)} {type(self).__name__}({words})"
        if shared is not None:
            inputs += f" {sorted(shared.sparsity.items())}"
        kind = "prune" if self.rewind is None else "rewind"
        return f"{len(model.history) + 1:02d}-{kind}-{hashlib.sha256(inputs.encode()).hexdigest()[:12]}"


def _trainer(context: Context) -> Trainer:
    if context.trainer is None:
        raise RecipeError("PruneWeights on a schedule or with rewind trains; give the context a trainer")
    return context.trainer


def _multiplier(multiplier: float | None) -> dict[str, Any]:
    return {} if multiplier is None else {"std_multiplier": multiplier}
