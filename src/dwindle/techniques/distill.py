"""This file exchanges the network for another one, a student, that is trained to answer like it."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from torch import nn

from dwindle.errors import RecipeError, SettingError
from dwindle.network.compressed import CompressedModel, Replaced
from dwindle.network.distillation import Distillation, distilled_loss
from dwindle.network.identity import code_of
from dwindle.network.parametrize import trainable
from dwindle.settings import nearest, require_kinds
from dwindle.technique import Context, Effect, Needs, Trait, needs_of, recorded

_EVERYTHING: Final = ~Trait.RESHAPED
_FLOATS: Final = (
    "the network alone would teach, without the rounding of its activations, and answer otherwise than the model does"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Distill:
    """Train the network that the context offers as `student`, and go on with it in place of the model's own.

    The teacher is the model as it is before this step; two steps in a row, the first with a student of middle size, are
    distillation with a teacher assistant (Mirzadeh et al. 2020). Sizes are still compared with the first network.

    Attributes:
        student: name in the context's networks; it is copied and starts from the weights that it has there.
        epochs: passes over the training data; a fraction is allowed, and at least one step is taken.
        learning_rate: peak of the schedule; None leaves it to the trainer.
        distillation: how much labels, answers and hints count; `teachers` named there teach in place of the model.
        teacher: who teaches where none is named: the `model`, or the network as it was `given` to the recipe, the
            context's teacher.
    """

    student: str
    epochs: float = 1.0
    learning_rate: float | None = None
    distillation: Distillation = field(default_factory=Distillation)
    teacher: Literal["model", "given"] = "model"

    def __post_init__(self) -> None:
        require_kinds(self)
        if not self.student:
            raise SettingError("Distill: student is the name of a network that the context offers, got an empty one")
        if not 0 < self.epochs < math.inf:
            raise SettingError(f"Distill: epochs must be positive, got {self.epochs}")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise SettingError(f"Distill: learning_rate must be positive or None, got {self.learning_rate}")
        if self.teacher not in {"model", "given"}:
            raise SettingError(f"Distill: teacher must be 'model' or 'given', got {self.teacher!r}")
        if self.teacher == "given" and self.distillation.teachers:
            named = ", ".join(self.distillation.teachers)
            raise SettingError(f"Distill: teacher='given' and teachers by name ({named}) exclude each other; keep one")

    @property
    def asks_model(self) -> bool:
        """Whether the model itself teaches."""
        return self.teacher == "model" and not self.distillation.teachers

    @property
    def needs(self) -> Needs:
        """A trainer; the network as given where that teaches; a batch to follow hints."""
        needs = Needs.TRAINING | needs_of(self.distillation)
        return needs & ~Needs.TEACHER if self.asks_model else needs

    @property
    def effect(self) -> Effect:
        """Forgets all that the model has become: the student is dense, and has shapes of its own."""
        return Effect(
            adds=Trait.RESHAPED,
            removes=_EVERYTHING,
            refuses={Trait.QUANTIZED_ACTIVATIONS: _FLOATS} if self.asks_model else {},
        )

    def apply(self, model: CompressedModel, context: Context) -> CompressedModel:
        """Return the trained student; the record holds the learning curve.

        Raises:
            RecipeError: there is no trainer, no network called as the student, no teacher, or the teacher's activations
                are quantized.
            NetworkError: the student's answers have no scores, its weights are NaN, or hints do not fit.
            DataError: student and teacher answer with other shapes.
        """
        if context.trainer is None:
            raise RecipeError("Distill needs training data; give the context a trainer")
        if self.student not in context.networks:
            known = nearest(self.student, context.networks)
            raise RecipeError(
                f"Distill: the context offers no network {self.student!r}; {known}; give it in Context(networks=...)"
            )
        if model.activations and self.asks_model:
            raise RecipeError(f"Distill: {len(model.activations)} activations are quantized, and {_FLOATS}")
        start = CompressedModel.dense(context.networks[self.student])
        steps = max(1, round(self.epochs * context.trainer.steps_per_epoch))
        offers = replace(context, teacher=model.network) if self.asks_model else context
        with trainable(start) as copy, distilled_loss(self.distillation, offers, copy.network) as loss:
            curve = context.trainer(
                copy.network,
                steps=steps,
                seed=context.seed,
                stage=self._stage(model, start.network),
                learning_rate=self.learning_rate,
                loss=loss,
            )
            trained = start.with_encodings(copy.finish())
        after = replace(
            trained,
            n_dense_weights=model.n_dense_weights,
            edits=(*model.edits, Replaced(self.student)),
            history=model.history,
        )
        decisions = {
            "steps": steps,
            "network": type(start.network).__name__,
            "n_weights": start.n_dense_weights,
            "teachers": list(self.distillation.teachers) or ["model" if self.asks_model else "network as given"],
        }
        return recorded(self, after, context, decisions=decisions, curve=curve)

    def _stage(self, model: CompressedModel, student: nn.Module) -> str:
        """Name the checkpoint by what goes in; a trainer sees the weights and the loss, but no code."""
        inputs = hashlib.sha256(f"{model.digest()} {len(model.history)} {self} {code_of(student)}".encode()).hexdigest()
        return f"{len(model.history) + 1:02d}-distill-{inputs[:12]}"
