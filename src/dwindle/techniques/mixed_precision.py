"""This file trains a network whose layers have different numbers of bits: more where it matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from dwindle.core.few_bits import MOST_BITS, FactorGradient, FactorRule, LevelRange, Levels, Spread
from dwindle.core.granularity import Granularity, PerTensor
from dwindle.errors import SelectionError, SettingError
from dwindle.network.capture import capture
from dwindle.network.compressed import CompressedModel
from dwindle.network.distillation import Distillation
from dwindle.network.few_bit_training import problem_of, require_trainable, train_few_bits
from dwindle.network.placement import matmul_calls
from dwindle.network.select import Select
from dwindle.network.significance.significance import Judged, Significance
from dwindle.network.structure import CentroidGradient
from dwindle.settings import require_kinds
from dwindle.technique import (
    QUANTIZED_ONCE,
    RANGES_WOULD_NOT_FIT,
    Context,
    Effect,
    Needs,
    Trait,
    evidence_of,
    needs_of,
    needs_of_criterion,
    recorded,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedPrecision:
    """Weights and inputs of 1 to 4 bits, by layer: significant layers get more (Hybrid-Net; Abishek 2022, 3.3, 3.4).

    Weights and inputs are rounded and trained as `Binarize` does it, all layers in one training. Which layer has how
    many bits is said by `bits`, or by what `significance` finds on the model as it comes in; a layer that neither
    names, the first and the last one among them, stays as it is. Layers that should be stored in another way altogether
    (clustered, or on 8 bits) are left out here and selected by other steps.

    Attributes:
        significance: what decides which layers are significant; None: `bits` alone says it.
        significant: bits of significant layers; None leaves them as they are.
        insignificant: bits of the others; None leaves them as they are.
        bits: globs of weight names -> bits; where several match, the first; stronger than `significance`.
        levels: "full" uses all codes; "restricted" leaves the lowest out (2 bits or more), so that zero is a level.
        factor: how the factor follows from the weights; "l1" is the thesis's.
        gradient: "exact" knows that the factor depends on every weight; "own_weight" is XNOR-Net's.
        granularity: which weights share a mean and a factor. PerTensor() is the thesis's.
        is_centred: whether the mean is taken off the weights first.
        spread: what centred weights are divided by before they are clipped; "none" is the thesis's.
        activations: whether what a layer reads is rounded to the layer's width, too.
        epochs: passes over the training data; a fraction is allowed, and at least one step is taken.
        learning_rate: peak of the schedule; None leaves it to the trainer.
        freeze_after: the share of the training after which batch norms use their running statistics, as deployed.
        centroid_gradient: whether a centroid follows the `mean` or the `sum` of its weights' gradients.
        distillation: learn from the context's teacher, too.
        select: which weights are looked at.
    """

    significance: Significance | None = None
    significant: int | None = 2
    insignificant: int | None = 1
    bits: Mapping[str, int] = field(default_factory=dict[str, int])
    levels: LevelRange = "full"
    factor: FactorRule = "l1"
    gradient: FactorGradient = "exact"
    granularity: Granularity = field(default_factory=PerTensor)
    is_centred: bool = True
    spread: Spread = "deviation"
    activations: bool = True
    epochs: float = 1.0
    learning_rate: float | None = None
    freeze_after: float = 0.75
    centroid_gradient: CentroidGradient = "mean"
    distillation: Distillation | None = None
    select: Select = field(default_factory=Select)

    def __post_init__(self) -> None:
        require_kinds(self)
        if problem := problem_of(self):
            raise SettingError(f"MixedPrecision: {problem}")
        if self.significance is None and not self.bits:
            raise SettingError(
                "MixedPrecision: say which layers have how many bits: significance=Significance(...), or bits={...}"
            )
        widths = {"significant": self.significant, "insignificant": self.insignificant, **self.bits}
        for what, n_bits in widths.items():
            _require_width(what, n_bits, self.levels, is_optional=what not in self.bits)

    @property
    def needs(self) -> Needs:
        """A trainer and a batch for the graph; what the criterion looks at; to distill, a teacher."""
        judging = Needs.NOTHING if self.significance is None else needs_of_criterion(self.significance.by)
        return Needs.TRAINING | Needs.EXAMPLE | judging | needs_of(self.distillation)

    @property
    def effect(self) -> Effect:
        """Leaves codebooks of integer levels and, with `activations`, rounded inputs and folded batch norms."""
        whole = Trait.QUANTIZED_ACTIVATIONS | Trait.FOLDED if self.activations else Trait.NOTHING
        return Effect(
            adds=Trait.CLUSTERED | Trait.INTEGER | Trait.KERNEL | whole,
            refuses={
                Trait.INTEGER: "integer codes have no float values left to train",
                Trait.QUANTIZED_ACTIVATIONS: QUANTIZED_ONCE if self.activations else RANGES_WOULD_NOT_FIT,
            },
        )

    def apply(self, model: CompressedModel, context: Context) -> CompressedModel:
        """Return the trained copy of `model`; the record names the bits of each layer and the scores behind them.

        Raises:
            RecipeError: the context lacks a trainer, an example or the data to judge by; or activations are quantized.
            SelectionError: a pattern matches nothing, or no layer is left to round.
            EncodingError: a weight is quantized already.
            NetworkError: the network cannot be captured.
        """
        _, example = require_trainable("MixedPrecision", model, context)
        captured = capture(model.network, example)
        selected = self.select.resolve(model.network)
        names = [name for name in matmul_calls(captured) if name in selected]
        judged = self._judge(model, context, names)
        widths = self._widths(names, judged)
        settled = replace(self, significance=None, bits=widths)
        trained = train_few_bits(settled, model, captured, offered=context, widths=widths)
        found: dict[str, Any] = {} if judged is None else {"significance": judged.to_plain()}
        return recorded(settled, trained.model, context, decisions={**trained.decisions, **found}, curve=trained.curve)

    def _judge(self, model: CompressedModel, context: Context, names: Sequence[str]) -> Judged | None:
        if self.significance is None:
            return None
        return self.significance.judge(model.network, evidence_of(context), names)

    def _widths(self, names: Sequence[str], judged: Judged | None) -> dict[str, int]:
        """Return the number of bits of each layer that is rounded, in the order of the graph."""
        for pattern in self.bits:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise SelectionError(f"MixedPrecision: {pattern!r} matches no layer; there are {', '.join(names)}")
        widths: dict[str, int] = {}
        for name in names:
            said = [n_bits for pattern, n_bits in self.bits.items() if fnmatchcase(name, pattern)]
            n_bits = said[0] if said else self._judged_width(name, judged)
            if n_bits is not None:
                widths[name] = n_bits
        if not widths:
            raise SelectionError(f"MixedPrecision: of {len(names)} selected layers none is left to round")
        return widths

    def _judged_width(self, name: str, judged: Judged | None) -> int | None:
        if judged is None or name not in judged.scores:
            return None
        return self.significant if name in judged.significant else self.insignificant


def _require_width(what: str, n_bits: Any, levels: LevelRange, *, is_optional: bool) -> None:
    if n_bits is None and is_optional:
        return
    if not isinstance(n_bits, int) or isinstance(n_bits, bool) or not 1 <= n_bits <= MOST_BITS:
        raise SettingError(f"MixedPrecision: {what} must be 1 to {MOST_BITS} bits, got {n_bits!r}")
    Levels(n_bits, "full" if n_bits == 1 else levels)
