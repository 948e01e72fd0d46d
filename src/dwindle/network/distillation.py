"""This file trains a network to answer like a teacher: the loss that a trainer descends instead of its own."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Protocol, cast, get_args

import torch
from torch import Tensor, nn

from dwindle.core.losses import divergence, mean_answer
from dwindle.errors import NetworkError, RecipeError, SettingError
from dwindle.network.batches import hash_bytes
from dwindle.network.hints import Hints, hinting
from dwindle.network.identity import code_of
from dwindle.network.inputs import Inputs, call
from dwindle.network.train import Batch, Loss
from dwindle.network.two_classes import OneOutput, as_logits
from dwindle.settings import nearest, require_kinds


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Distillation:
    """Learn from a teacher's answers beside the labels: alpha * base loss + (1 - alpha) * KL(teacher || student).

    Attributes:
        alpha: share of the base loss, [0, 1]; 0 does without labels, 1 without the teacher's answers.
        temperature: softens both answers, positive.
        is_balanced: whether the divergence is multiplied by the square of the temperature, so that its gradient does
            not shrink with it (Hinton et al. 2015); Predic et al. (2022) print their formula without.
        teachers: who teaches, by name out of the context's networks; of several the mean of the softened probabilities.
            Empty leaves it to the step, which takes the context's teacher unless it says otherwise.
        hints: pairs of names of modules, of the student and of its one teacher, that should say the same (Romero et al.
            2015); where channels differ in number, a linear map between them is learned, and thrown away in the end.
        one_output: what a network with one output answers about two classes: a "logit", or with a sigmoid at its end a
            "probability"; None: each class has an output of its own.
        hint_weight: factor of the mean squared distance between what these modules say, which is added to the loss.
    """

    alpha: float = 0.5
    temperature: float = 4.0
    is_balanced: bool = True
    teachers: tuple[str, ...] = ()
    hints: tuple[tuple[str, str], ...] = ()
    hint_weight: float = 1.0
    one_output: OneOutput | None = None

    def __repr__(self) -> str:
        """Return it as it is written; checkpoints of before there was `one_output` are named by this text."""
        pairs = ((f.name, getattr(self, f.name)) for f in fields(self))
        words = (f"{name}={value!r}" for name, value in pairs if (name, value) != ("one_output", None))
        return f"Distillation({', '.join(words)})"

    def __post_init__(self) -> None:
        require_kinds(self)
        if not 0 <= self.alpha <= 1:
            raise SettingError(f"Distillation: alpha is the share of the base loss, in [0, 1], got {self.alpha}")
        if not 0 < self.temperature < math.inf:
            raise SettingError(f"Distillation: temperature must be positive and finite, got {self.temperature}")
        if not 0 <= self.hint_weight < math.inf:
            raise SettingError(f"Distillation: hint_weight must be at least 0 and finite, got {self.hint_weight}")
        if self.one_output is not None and self.one_output not in get_args(OneOutput):
            raise SettingError(
                f"Distillation: one_output must be one of {', '.join(get_args(OneOutput))}, got {self.one_output!r}"
            )
        object.__setattr__(self, "teachers", _names(self.teachers))
        object.__setattr__(self, "hints", _pairs(self.hints))
        if self.hints and len(self.teachers) > 1:
            raise SettingError(
                f"Distillation: hints follow the modules of one teacher, got {len(self.teachers)} teachers; name one"
            )

    def loss_from(self, *teachers: nn.Module) -> TeacherLoss:
        """Return the loss that `teachers`, with their weights as they are now, give together with the base loss."""
        return TeacherLoss(self, *teachers)


class Offers(Protocol):
    """Whoever offers teachers: a technique's context."""

    @property
    def seed(self) -> int:
        """What random choices derive from."""
        ...

    @property
    def example(self) -> Inputs | None:
        """One input batch."""
        ...

    @property
    def teacher(self) -> nn.Module | None:
        """Who teaches where nobody is named."""
        ...

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """Who else could teach, by name."""
        ...


@contextmanager
def distilled_loss(distillation: Distillation | None, offers: Offers, network: nn.Module) -> Generator[Loss | None]:
    """Yield what a trainer of `network` descends instead of its own loss; None where nothing is distilled.

    With hints, `network` holds a few more parameters until the block is left; train it inside.

    Raises:
        RecipeError: there is no teacher, or none of a name, or hints have no example.
        NetworkError: hints name modules that are not there or do not go together.
    """
    if distillation is None:
        yield None
        return
    loss = distillation.loss_from(*teachers_of(distillation, offers))
    if not distillation.hints:
        yield loss
        return
    if offers.example is None:
        raise RecipeError("hints find the shapes of what modules say by one batch; give Context(example=...)")
    (teacher,) = loss.teachers
    with hinting(
        distillation.hints, student=network, teacher=teacher, example=offers.example, seed=offers.seed
    ) as hints:
        loss.follow(hints)
        yield loss


def teachers_of(distillation: Distillation, offers: Offers) -> tuple[nn.Module, ...]:
    """Return who teaches.

    Raises:
        RecipeError: there is no teacher, or none of a name.
    """
    for name in distillation.teachers:
        if name not in offers.networks:
            known = nearest(name, offers.networks)
            raise RecipeError(f"distillation names the teacher {name!r}; {known}; give it in Context(networks=...)")
    if distillation.teachers:
        return tuple(offers.networks[name] for name in distillation.teachers)
    if offers.teacher is None:
        raise RecipeError("distillation needs a teacher; give the context one: Context(teacher=network)")
    return (offers.teacher,)


class TeacherLoss:
    """A loss over a batch: the base loss, mixed with how far the answers are from those of copies of the teachers."""

    one_output: OneOutput | None = None

    def __init__(self, settings: Distillation, *teachers: nn.Module) -> None:
        if settings.one_output is not None:  # what a checkpoint knows of a loss without it stays what it was
            self.one_output = settings.one_output
        self.alpha = settings.alpha
        self.temperature = settings.temperature
        self.factor = settings.temperature**2 if settings.is_balanced else 1.0
        self.teacher_digest = _digest(teachers)  # plain, so that a checkpoint knows which teachers it learned from
        self.hints = settings.hints
        self.hint_weight = settings.hint_weight
        self.teachers = [copy.deepcopy(teacher).eval().requires_grad_(requires_grad=False) for teacher in teachers]
        self._hints: Hints | None = None

    def follow(self, hints: Hints) -> None:
        """Learn from these modules, too."""
        self._hints = hints

    def __call__(self, output: Any, batch: Batch, base_loss: Tensor) -> Tensor:
        """Return the loss to descend.

        Raises:
            NetworkError: student or teacher answer with something else than one tensor of scores, or a module that was
                not called has a hint.
            DataError: their shapes differ.
        """
        mixed = self.alpha * base_loss
        if self.alpha == 1 and self._hints is None:
            return mixed
        with torch.no_grad():
            answers = [call(teacher.to(base_loss.device), batch[0]) for teacher in self.teachers]
        if self.alpha < 1:
            term = self._divergence(output, answers)
            mixed = self.alpha * base_loss + (1.0 - self.alpha) * self.factor * term
        return mixed if self._hints is None else mixed + self.hint_weight * self._hints.distance()

    def _divergence(self, output: Any, answers: list[Any]) -> Tensor:
        for answer in answers:
            if not (isinstance(output, Tensor) and isinstance(answer, Tensor)):
                raise NetworkError(
                    f"distillation compares scores (batch, classes), got {type(output).__name__} from the student and "
                    f"{type(answer).__name__} from the teacher; return one tensor"
                )
        logits = [as_logits(answer, self.one_output) for answer in answers]
        together = mean_answer(logits, temperature=self.temperature)
        return divergence(as_logits(output, self.one_output), together, temperature=self.temperature)


def _digest(networks: tuple[nn.Module, ...]) -> str:
    sha = hashlib.sha256()
    for network in networks:
        sha.update(f"{code_of(network)} {network!r}".encode())
        for name, tensor in network.state_dict().items():
            sha.update(name.encode())
            sha.update(hash_bytes(tensor))
    return sha.hexdigest()[:16]


def _names(given: Any) -> tuple[str, ...]:
    names: tuple[Any, ...] = tuple(given) if isinstance(given, tuple | list) else (None,)
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise SettingError(f"Distillation: teachers are names, each once, such as ('first', 'second'), got {given!r}")
    return names


def _pairs(given: Any) -> tuple[tuple[str, str], ...]:
    pairs = [
        tuple(cast("list[Any]", pair)) if isinstance(pair, tuple | list) else ()
        for pair in (cast("list[Any]", given) if isinstance(given, tuple | list) else [None])
    ]
    if not all(len(pair) == 2 and all(isinstance(name, str) and name for name in pair) for pair in pairs):
        raise SettingError(
            "Distillation: hints are pairs of module names, of the student and of its teacher, such as "
            f"(('layer2', 'layer3'),), got {given!r}"
        )
    return cast("tuple[tuple[str, str], ...]", tuple(pairs))
