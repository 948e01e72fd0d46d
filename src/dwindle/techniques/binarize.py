"""This file trains a network whose layers hold weights of 1 to 4 bits and read inputs of the same width."""

from __future__ import annotations

from dataclasses import dataclass, field

from dwindle.core.few_bits import FactorGradient, FactorRule, LevelRange, Levels, Spread
from dwindle.core.granularity import Granularity, PerTensor
from dwindle.errors import SelectionError, SettingError
from dwindle.network.capture import capture
from dwindle.network.compressed import CompressedModel
from dwindle.network.distillation import Distillation
from dwindle.network.few_bit_training import problem_of, require_trainable, train_few_bits
from dwindle.network.placement import matmul_calls
from dwindle.network.select import Select
from dwindle.network.structure import CentroidGradient
from dwindle.settings import require_kinds
from dwindle.technique import QUANTIZED_ONCE, RANGES_WOULD_NOT_FIT, Context, Effect, Needs, Trait, needs_of, recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class Binarize:
    """Binary weights, or weights of up to 4 bits, in convolutions and linear layers (Abishek 2022, section 3.3).

    A weight is centred, clipped to [-1, 1], rounded to the levels of its width and multiplied by one factor; a layer's
    input is clipped and rounded to the same width, without a factor. Both train with straight-through gradients, from
    the weights as they are. The first and the last layer stay as they are, unless `keeps_ends` is False. Pruned weights
    stay zero; a codebook keeps its clusters, whose centroids move to the levels.

    Files hold 1 or 2 bits for each weight; engines unfold them when they load, and compute in floats.

    Attributes:
        n_bits: width of a weight and, with `activations`, of what its layer reads; 1 to 4.
        levels: "full" uses all codes; "restricted" (2 bits or more) leaves the lowest out, so that zero is a level.
        factor: how the factor follows from the weights; "l1" is the thesis's.
        gradient: "exact" knows that the factor depends on every weight; "own_weight" is XNOR-Net's.
        granularity: which weights share a mean and a factor. PerTensor() is the thesis's.
        is_centred: whether the mean is taken off the weights first.
        spread: what centred weights are divided by before they are clipped; "none" is the thesis's.
        activations: whether inputs are rounded, too.
        keeps_ends: whether the first and the last selected layer, in the order of the graph, stay as they are.
        epochs: passes over the training data; a fraction is allowed, and at least one step is taken.
        learning_rate: peak of the schedule; None leaves it to the trainer.
        freeze_after: the share of the training after which batch norms use their running statistics, as deployed.
        centroid_gradient: whether a centroid follows the `mean` or the `sum` of its weights' gradients.
        distillation: learn from the context's teacher, too.
        select: which weights.
    """

    n_bits: int = 1
    levels: LevelRange = "full"
    factor: FactorRule = "l1"
    gradient: FactorGradient = "exact"
    granularity: Granularity = field(default_factory=PerTensor)
    is_centred: bool = True
    spread: Spread = "deviation"
    activations: bool = True
    keeps_ends: bool = True
    epochs: float = 1.0
    learning_rate: float | None = None
    freeze_after: float = 0.75
    centroid_gradient: CentroidGradient = "mean"
    distillation: Distillation | None = None
    select: Select = field(default_factory=Select)

    def __post_init__(self) -> None:
        require_kinds(self)
        if problem := problem_of(self):
            raise SettingError(f"Binarize: {problem}")
        try:
            Levels(self.n_bits, self.levels)
        except SettingError as error:
            raise SettingError(f"Binarize: {error}") from error

    @property
    def needs(self) -> Needs:
        """A trainer and a batch for the graph; to distill, a teacher."""
        return Needs.TRAINING | Needs.EXAMPLE | needs_of(self.distillation)

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
        """Return the trained copy of `model` with weights of few bits; the record holds the learning curve.

        Raises:
            RecipeError: the context lacks a trainer or an example, or activations are quantized.
            SelectionError: a pattern matches nothing, or no selected weight is left.
            EncodingError: a selected weight is quantized already.
            NetworkError: the network cannot be captured.
        """
        _, example = require_trainable("Binarize", model, context)
        captured = capture(model.network, example)
        names = self._selected(model, tuple(matmul_calls(captured)))
        widths = dict.fromkeys(names, self.n_bits)
        trained = train_few_bits(self, model, captured, offered=context, widths=widths)
        return recorded(self, trained.model, context, decisions=trained.decisions, curve=trained.curve)

    def _selected(self, model: CompressedModel, in_order: tuple[str, ...]) -> tuple[str, ...]:
        selected = self.select.resolve(model.network)
        names = [name for name in in_order if name in selected]
        kept = names[1:-1] if self.keeps_ends else names
        if not kept:
            raise SelectionError(
                f"Binarize: of {len(names)} selected weights of convolutions and linear layers none is left once the "
                "first and the last are kept as they are; select others, or use keeps_ends=False"
            )
        return tuple(kept)
