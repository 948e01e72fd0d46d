"""This file trains a network with integer weights and activations in its forward pass, and leaves it on integers."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Final, get_args

import torch

from dwindle.core.encoding import MIN_BITS, Encoding, affine_of, decode
from dwindle.core.granularity import Granularity, PerChannel
from dwindle.core.ranges import Calibration, Grid
from dwindle.errors import EncodingError, NetworkError, RecipeError, SettingError
from dwindle.network.aware import training_graph
from dwindle.network.batchnorm import fold_batchnorms
from dwindle.network.capture import capture
from dwindle.network.compressed import CompressedModel, FoldedBatchNorm
from dwindle.network.distillation import Distillation
from dwindle.network.integer_plan import IntegerPlan, plan_integers
from dwindle.network.integer_weights import KERNEL_BITS, KERNEL_GRANULARITIES, has_kernel
from dwindle.network.placement import matmul_weights
from dwindle.network.rounded_training import rounded_training
from dwindle.network.select import Select
from dwindle.network.structure import CentroidGradient
from dwindle.network.train import Trainer
from dwindle.network.trained_ranges import RangeKind, trained_range
from dwindle.network.weight_grids import UniformGrid, WeightScale
from dwindle.settings import require_kinds
from dwindle.technique import QUANTIZED_ONCE, RANGES_WOULD_NOT_FIT, Context, Effect, Needs, Trait, needs_of, recorded

WIDTHS: Final = (8, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeAware:
    """Quantization-aware training: forward with the integers of the file, backward in floats.

    Structure stays: zeros stay zero and clusters stay clusters, whose centroids are trained on the grid (those that end
    on the same code become one). So after `PruneWeights` this is sparsity-preserving, after `Cluster`
    cluster-preserving training (PQAT, CQAT, PCQAT).
    Integers are placed as by `QuantizeStatic`, and batch norms are folded at the end: the factor that folding gives
    each channel changes no code that was trained. What is trained is the graph of the network in eval mode, in which
    batch norms and dropout train; what else a module does only in training mode is left out.

    With `activations=None` only weights are rounded, also those of embedding and recurrent layers; no graph is
    captured. `QuantizeDynamic(weights=None)` or `QuantizeStatic(weights=None)` may follow.

    Attributes:
        weights: width of a weight's code, 2 to 8; None where the weights are integers already.
        activations: width of an activation's code: 8 (unsigned, with a zero point) or 16 (signed); None: floats.
        epochs: passes over the training data; a fraction is allowed, and at least one step is taken.
        learning_rate: peak of the schedule; None leaves it to the trainer.
        weight_scale: where the step of a weight's grid comes from.
        ranges: how the ranges of activations follow the training.
        freeze_after: with activations: the share of the training after which batch norms use their running statistics,
            as deployed, and moving ranges stay; 1 never.
        granularity: which weights share a scale. Centroids share one; folding gives each channel a factor.
        calibration: what the ranges of activations start from.
        quantize_output: whether the network's output is quantized too.
        centroid_gradient: whether a centroid follows the `mean` or the `sum` of its weights' gradients.
        distillation: learn from the context's teacher, too.
        select: which weights.
    """

    weights: int | None = 8
    activations: int | None = 8
    epochs: float = 1.0
    learning_rate: float | None = None
    weight_scale: WeightScale = "learned"
    ranges: RangeKind = "moving_average"
    freeze_after: float = 0.75
    granularity: Granularity = field(default_factory=lambda: PerChannel(0))
    calibration: Calibration = field(default_factory=Calibration)
    quantize_output: bool = False
    centroid_gradient: CentroidGradient = "mean"
    distillation: Distillation | None = None
    select: Select = field(default_factory=Select)

    def __post_init__(self) -> None:
        require_kinds(self)
        if problem := self._width_problem() or self._training_problem():
            raise SettingError(f"QuantizeAware: {problem}")

    def _width_problem(self) -> str | None:
        if self.weights is not None and not MIN_BITS <= self.weights <= KERNEL_BITS:
            return f"weights must be in [{MIN_BITS}, {KERNEL_BITS}], or None, got {self.weights}; Binarize has 1 bit"
        if self.activations is not None and self.activations not in WIDTHS:
            return f"activations must be 8 or 16, the widths that engines have, or None, got {self.activations}"
        if self.weights is None and self.activations is None:
            return "weights=None and activations=None leave nothing to quantize; use FineTune"
        if self.granularity not in KERNEL_GRANULARITIES:
            return f"engines have no integer kernels for {self.granularity}; use PerChannel(0) or PerTensor()"
        if self.activations is not None and self.distillation is not None and self.distillation.hints:
            return "hints watch modules, which the graph trained for activations has not; leave hints out"
        return None

    def _training_problem(self) -> str | None:
        if not (math.isfinite(self.epochs) and self.epochs > 0):
            return f"epochs must be positive, got {self.epochs}"
        if self.learning_rate is not None and not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            return f"learning_rate must be positive or None, got {self.learning_rate}"
        if not 0 <= self.freeze_after <= 1:
            return f"freeze_after is a share of the training, in [0, 1], got {self.freeze_after}"
        names = {"weight_scale": WeightScale, "ranges": RangeKind, "centroid_gradient": CentroidGradient}
        for name, known in names.items():
            if getattr(self, name) not in get_args(known):
                return f"{name} must be one of {', '.join(get_args(known))}, got {getattr(self, name)!r}"
        return None

    @property
    def needs(self) -> Needs:
        """A trainer; with activations also a batch and data to measure on; to distill, a teacher."""
        graph = Needs.NOTHING if self.activations is None else Needs.EXAMPLE | Needs.CALIBRATION
        return Needs.TRAINING | graph | needs_of(self.distillation)

    @property
    def effect(self) -> Effect:
        """Leaves integers in weights and activations; cannot train what is quantized."""
        codes = Trait.NOTHING if self.weights is None else Trait.INTEGER | Trait.KERNEL
        whole = Trait.NOTHING if self.activations is None else Trait.QUANTIZED_ACTIVATIONS | Trait.FOLDED
        is_whole = self.activations is not None
        refuses = {Trait.QUANTIZED_ACTIVATIONS: QUANTIZED_ONCE if is_whole else RANGES_WOULD_NOT_FIT}
        if self.weights is not None:
            hint = " (weights=None keeps them)" if is_whole else ""
            refuses[Trait.INTEGER] = f"integer codes have no float values left to train{hint}"
        return Effect(
            adds=codes | whole,
            refuses=refuses,
            requires=Trait.KERNEL if self.weights is None else Trait.NOTHING,
        )

    def apply(self, model: CompressedModel, context: Context) -> CompressedModel:
        """Return the trained copy of `model` on integers; the record holds the learning curve.

        Raises:
            RecipeError: the context lacks a trainer, an example or calibration data, or activations are quantized.
            SelectionError: a pattern matches nothing.
            SettingError: no selected weight can run on integers, or the granularity does not fit.
            EncodingError: a selected weight is quantized already.
            NetworkError: the network cannot be captured, or an activation becomes NaN.
            DataError: the calibration data is empty or no batch of inputs.
        """
        if context.trainer is None:
            raise RecipeError("QuantizeAware needs training data; give the context a trainer")
        if model.activations:
            raise RecipeError(f"QuantizeAware: {len(model.activations)} activations are quantized already; do it once")
        if self.activations is None:
            return self._train_weights(model, context, context.trainer)
        return self._train_graph(model, context, context.trainer)

    def _train_weights(self, model: CompressedModel, context: Context, trainer: Trainer) -> CompressedModel:
        names = self.select.resolve(model.network)
        grids = {name: self._grid(name, model.encodings[name]) for name in names}
        training = rounded_training(self, model, trainer=trainer, offers=context)
        encodings, curve = training.run(model, grids)
        after = model.with_encodings(encodings)
        return recorded(self, after, context, decisions={"integer_weights": list(names)}, curve=curve)

    def _train_graph(self, model: CompressedModel, context: Context, trainer: Trainer) -> CompressedModel:
        if context.example is None:
            raise RecipeError("QuantizeAware needs Context(example=...): one batch, to capture the network")
        captured = capture(model.network, context.example)
        names = self._selected(model, matmul_weights(captured))
        plan, edits = self._plan(model, context, names)
        ranges = {site: trained_range(quantizer, self.ranges) for site, quantizer in plan.observed.quantizers.items()}
        folded = {edit.batchnorm: edit.layer for edit in edits}
        network = training_graph(captured, ranges, folded=folded)
        grids = {name: self._grid(name, model.encodings[name]) for name in names}
        encodings, curve = rounded_training(self, model, trainer=trainer, offers=context).run(
            model, grids, network=network
        )
        after, _ = fold_batchnorms(model.with_encodings(encodings), context.example)
        own = {site: trained.quantizer() for site, trained in ranges.items()}
        after = replace(after, activations=plan.everywhere(own))
        notes = [*captured.notes, *plan.observed.notes(self.calibration.n)]
        decisions = plan.decisions(own) | {"folded": folded, "notes": notes}
        return recorded(self, after, context, decisions=decisions, curve=curve)

    def _selected(self, model: CompressedModel, candidates: Collection[str]) -> tuple[str, ...]:
        """Return the weights that get a grid."""
        if self.weights is None:
            return ()
        return tuple(name for name in self.select.resolve(model.network) if name in candidates)

    def _plan(
        self, model: CompressedModel, context: Context, names: Collection[str]
    ) -> tuple[IntegerPlan, tuple[FoldedBatchNorm, ...]]:
        """Find where integers go in the folded network, the ranges its activations have as it is, and what is folded.

        The ranges are those of the weights before they are rounded: what training starts from, and comes back to.
        """
        if context.example is None or context.calibration is None:
            raise RecipeError(
                "QuantizeAware needs Context(example=..., calibration=...): one batch, and data to measure ranges on"
            )
        folded, edits = fold_batchnorms(model, context.example)
        captured = capture(folded.network, context.example)
        candidates = matmul_weights(captured)
        integer = [name for name in candidates if name in names or has_kernel(model.encodings[name])]
        if not integer:
            raise SettingError(
                "QuantizeAware: no selected weight belongs to a convolution or linear layer, which engines run on "
                "integers; select others, or use activations=None"
            )
        plan = plan_integers(
            captured,
            integer,
            context.calibration,
            calibration=self.calibration,
            grid=Grid(n_bits=self.activations or KERNEL_BITS, symmetric=self.activations == 16),
            quantize_output=self.quantize_output,
            report_progress=context.report_progress,
        )
        return plan, edits

    def _grid(self, name: str, encoding: Encoding) -> UniformGrid:
        if affine_of(encoding) is not None:
            raise EncodingError(
                f"{name!r} has no float values left to train; put this step before the quantizer, or use weights=None"
            )
        if (dtype := decode(encoding).dtype) != torch.float32:
            raise NetworkError(f"{name!r} is {dtype}, but codes are decoded in float32; call network.float() first")
        try:
            return UniformGrid(
                encoding, n_bits=self.weights or KERNEL_BITS, granularity=self.granularity, scale=self.weight_scale
            )
        except SettingError as error:
            raise SettingError(f"{name!r}: {error}") from error
