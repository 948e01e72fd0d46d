"""This file trains a network whose weights are rounded to grids in every forward pass."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import nn

from dwindle.core.encoding import Encoding
from dwindle.errors import NetworkError
from dwindle.network.aware import freeze
from dwindle.network.compressed import CompressedModel
from dwindle.network.distillation import Distillation, Offers, distilled_loss
from dwindle.network.parametrize import trainable
from dwindle.network.structure import CentroidGradient, WeightGrid
from dwindle.network.train import Loss, Trainer

Curve = tuple[Mapping[str, float], ...]


def _trainers_own(network: nn.Module) -> AbstractContextManager[Loss | None]:
    del network
    return nullcontext()


class Settings(Protocol):
    """What techniques that train on grids say about their training."""

    @property
    def epochs(self) -> float:
        """Passes over the training data."""
        ...

    @property
    def learning_rate(self) -> float | None:
        """Peak of the schedule; None leaves it to the trainer."""
        ...

    @property
    def freeze_after(self) -> float:
        """Share of the steps after which a training graph is frozen."""
        ...

    @property
    def centroid_gradient(self) -> CentroidGradient:
        """How a centroid follows its weights."""
        ...

    @property
    def distillation(self) -> Distillation | None:
        """How to learn from a teacher, too; None: not."""
        ...


def rounded_training(
    settings: Settings, model: CompressedModel, *, trainer: Trainer, offers: Offers
) -> RoundedTraining:
    """Return the training that the technique `settings` asks for; its checkpoint is named by all that goes in.

    What it distills from is what `offers` offers.
    """
    inputs = hashlib.sha256(f"{model.digest()} {len(model.history)} {settings}".encode()).hexdigest()
    return RoundedTraining(
        trainer=trainer,
        epochs=settings.epochs,
        seed=offers.seed,
        stage=f"{len(model.history) + 1:02d}-{type(settings).__name__}-{inputs[:12]}",
        learning_rate=settings.learning_rate,
        loss_for=partial(distilled_loss, settings.distillation, offers),
        freeze_after=settings.freeze_after,
        centroid_gradient=settings.centroid_gradient,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class RoundedTraining:
    """How long to train, by whom, and what to descend.

    Attributes:
        trainer: whoever trains.
        epochs: passes over the training data; at least one step is taken.
        seed: what every random choice derives from.
        stage: name of the checkpoint; it must tell the grids apart, which a trainer does not see.
        learning_rate: peak of the schedule; None leaves it to the trainer.
        loss_for: given the network that is trained, a block in which it is, and what is descended; None leaves that to
            the trainer.
        freeze_after: share of the steps after which a training graph is frozen.
        centroid_gradient: how a centroid follows its weights.
    """

    trainer: Trainer
    epochs: float
    seed: int
    stage: str
    learning_rate: float | None = None
    loss_for: Callable[[nn.Module], AbstractContextManager[Loss | None]] = _trainers_own
    freeze_after: float = 1.0
    centroid_gradient: CentroidGradient = "mean"

    def run(
        self, model: CompressedModel, grids: Mapping[str, WeightGrid], *, network: nn.Module | None = None
    ) -> tuple[Mapping[str, Encoding], Curve]:
        """Return what the tensors of `model` have become, and the figures of each epoch.

        Args:
            model: what to train; it stays as it is.
            grids: by name of a weight, what it is rounded to.
            network: the training graph, trained in place; None trains a copy of the model's network as it is.

        Raises:
            NetworkError: training left NaN or infinite values, which codes would hide, or hints do not fit the network.
            RecipeError: it distills, and there is no teacher.
        """
        n_steps = max(1, round(self.epochs * self.trainer.steps_per_epoch))
        freeze_at = math.ceil(self.freeze_after * n_steps)
        with (
            trainable(model, centroid_gradient=self.centroid_gradient, grids=grids, network=network) as copy,
            self.loss_for(copy.network) as loss,
        ):

            def freeze_when_due(step: int) -> None:  # it keeps nothing, so a killed training can resume
                if step == freeze_at:
                    freeze(copy.network)

            freeze_when_due(0)
            curve = self.trainer(
                copy.network,
                steps=n_steps,
                seed=self.seed,
                stage=self.stage,
                learning_rate=self.learning_rate,
                loss=loss,
                after_step=None if network is None else freeze_when_due,
            )
            _require_finite(copy.network)
            return copy.finish(), curve


def _require_finite(network: nn.Module) -> None:
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NetworkError(
                f"training left NaN or infinite values in {name!r}; lower the learning rate, or look for NaN in the "
                "inputs"
            )
