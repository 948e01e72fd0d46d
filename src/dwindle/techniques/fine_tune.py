"""This file trains a compressed network further: it wins back what compression took, and loses no structure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dwindle.core.encoding import affine_of, describe
from dwindle.errors import RecipeError, SettingError
from dwindle.network.compressed import CompressedModel
from dwindle.network.distillation import Distillation, distilled_loss
from dwindle.network.parametrize import trainable
from dwindle.network.structure import CentroidGradient
from dwindle.settings import require_kinds
from dwindle.technique import RANGES_WOULD_NOT_FIT, Context, Effect, Needs, Trait, needs_of, recorded

_CODES = "integer codes cannot be trained"


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTune:
    """Train what is float: zeros stay zero, clusters stay clusters (with trained centroids), tied weights stay tied.

    Attributes:
        epochs: passes over the training data; a fraction is allowed, and at least one step is taken.
        learning_rate: peak of the schedule; None leaves it to the trainer.
        centroid_gradient: whether a centroid follows the `mean` or the `sum` of its weights' gradients.
        distillation: learn from the context's teacher, too.
    """

    epochs: float = 1.0
    learning_rate: float | None = None
    centroid_gradient: CentroidGradient = "mean"
    distillation: Distillation | None = None

    def __post_init__(self) -> None:
        require_kinds(self)
        if not (math.isfinite(self.epochs) and self.epochs > 0):
            raise SettingError(f"FineTune: epochs must be positive, got {self.epochs}")
        if self.learning_rate is not None and not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise SettingError(f"FineTune: learning_rate must be positive or None, got {self.learning_rate}")
        if self.centroid_gradient not in {"mean", "sum"}:
            raise SettingError(f"FineTune: centroid_gradient must be 'mean' or 'sum', got {self.centroid_gradient!r}")

    @property
    def needs(self) -> Needs:
        """A trainer; with distillation a teacher."""
        return Needs.TRAINING | needs_of(self.distillation)

    @property
    def effect(self) -> Effect:
        """Leaves structure as it is; comes before whatever its weights are measured for."""
        return Effect(refuses={Trait.INTEGER: _CODES, Trait.QUANTIZED_ACTIVATIONS: RANGES_WOULD_NOT_FIT})

    def apply(self, model: CompressedModel, context: Context) -> CompressedModel:
        """Return the trained copy of `model`; the record holds the learning curve.

        Raises:
            RecipeError: there is no trainer, a weight is stored as integer codes, or activations are quantized.
        """
        trainer = context.trainer
        if trainer is None:
            raise RecipeError("FineTune needs training data; give the context a trainer")
        for name, encoding in model.encodings.items():
            if affine_of(encoding) is not None:
                raise RecipeError(
                    f"FineTune: {name!r} is {describe(encoding)}, and {_CODES}; fine-tune before quantizing"
                )
        if model.activations:
            raise RecipeError(
                f"FineTune: {len(model.activations)} activations are quantized, and {RANGES_WOULD_NOT_FIT}; "
                "fine-tune before QuantizeStatic"
            )
        steps = max(1, round(self.epochs * trainer.steps_per_epoch))
        with (
            trainable(model, centroid_gradient=self.centroid_gradient) as copy,
            distilled_loss(self.distillation, context, copy.network) as loss,
        ):
            curve = trainer(
                copy.network,
                steps=steps,
                seed=context.seed,
                stage=self._stage(model),
                learning_rate=self.learning_rate,
                loss=loss,
            )
            trained = model.with_encodings(copy.finish())
        return recorded(self, trained, context, decisions={"steps": steps}, curve=curve)

    def _stage(self, model: CompressedModel) -> str:
        """Name the checkpoint; a trainer sees all that decides the outcome but the rule of the gradient."""
        rule = "" if self.centroid_gradient == "mean" else f"_{self.centroid_gradient}"
        return f"fine_tune_{len(model.history) + 1}{rule}"
