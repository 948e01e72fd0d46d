"""This file trains a network to answer like a teacher: the loss that a trainer descends instead of its own."""

from __future__ import annotations

import copy
import hashlib
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dwindle.core.losses import divergence
from dwindle.errors import NetworkError, RecipeError, SettingError
from dwindle.network.batches import hash_bytes
from dwindle.network.inputs import call
from dwindle.network.train import Batch, Loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Distillation:
    """Learn from a teacher's answers beside the labels: alpha * base loss + (1 - alpha) * KL(teacher || student).

    Attributes:
        alpha: share of the base loss, [0, 1]; 0 does without labels.
        temperature: softens both answers, positive.
        is_balanced: whether the divergence is multiplied by the square of the temperature, so that its gradient does
            not shrink with it (Hinton et al. 2015); Predic et al. (2022) print their formula without.
    """

    alpha: float = 0.5
    temperature: float = 4.0
    is_balanced: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise SettingError(f"Distillation: alpha is the share of the base loss, in [0, 1], got {self.alpha}")
        if not 0 < self.temperature < math.inf:
            raise SettingError(f"Distillation: temperature must be positive and finite, got {self.temperature}")

    def loss_from(self, teacher: nn.Module) -> Loss:
        """Return the loss that `teacher`, with its weights as they are now, gives together with the base loss."""
        return TeacherLoss(self, teacher)


def loss_of(distillation: Distillation | None, teacher: nn.Module | None) -> Loss | None:
    """Return what a trainer descends instead of its own loss; None where nothing is distilled.

    Raises:
        RecipeError: there is no teacher.
    """
    if distillation is None:
        return None
    if teacher is None:
        raise RecipeError("distillation needs a teacher; give the context one: Context(teacher=network)")
    return distillation.loss_from(teacher)


class TeacherLoss:
    """A loss over a batch: the base loss, mixed with how far the answers are from those of a copy of the teacher."""

    def __init__(self, settings: Distillation, teacher: nn.Module) -> None:
        self.alpha = settings.alpha
        self.temperature = settings.temperature
        self.factor = settings.temperature**2 if settings.is_balanced else 1.0
        self.teacher_digest = _digest(teacher)  # plain, so that a checkpoint knows which teacher it learned from
        self._teacher = copy.deepcopy(teacher).eval().requires_grad_(requires_grad=False)

    def __call__(self, output: Any, batch: Batch, base_loss: Tensor) -> Tensor:
        """Return the loss to descend.

        Raises:
            NetworkError: student or teacher answer with something else than one tensor of scores.
            DataError: their shapes differ.
        """
        with torch.no_grad():
            answer: object = call(self._teacher.to(base_loss.device), batch[0])
        if not (isinstance(output, Tensor) and isinstance(answer, Tensor)):
            raise NetworkError(
                f"distillation compares scores (batch, classes), got {type(output).__name__} from the student and "
                f"{type(answer).__name__} from the teacher; return one tensor"
            )
        term = divergence(output, answer, temperature=self.temperature)
        return self.alpha * base_loss + (1.0 - self.alpha) * self.factor * term


def _digest(network: nn.Module) -> str:
    sha = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        sha.update(name.encode())
        sha.update(hash_bytes(tensor))
    return sha.hexdigest()[:16]
