"""This file holds the protocol of a technique: what it needs, what the caller offers, and how a step is recorded."""

from __future__ import annotations

import enum
import functools
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

from torch import nn

from dwindle.errors import RecipeError
from dwindle.network.compressed import CompressedModel, Record
from dwindle.network.distillation import Distillation
from dwindle.network.inputs import Inputs
from dwindle.network.labelled import Labelled
from dwindle.network.significance.criterion import Criterion, Evidence
from dwindle.network.train import Progress, Trainer
from dwindle.settings import TAG, to_plain
from dwindle.version import VERSION


class Needs(enum.Flag):
    """What data a technique wants from the context."""

    NOTHING = 0
    EXAMPLE = enum.auto()
    """One input batch, to capture the graph of the network."""
    CALIBRATION = enum.auto()
    """Input batches without labels."""
    LABELS = enum.auto()
    """Labelled validation data and a loss."""
    TRAINING = enum.auto()
    TEACHER = enum.auto()
    REFERENCE = enum.auto()
    """The float network that a quantized one should answer like; `Recipe.run` keeps it."""
    EARLY = enum.auto()
    """The network as it was early in its training."""


RANGES_WOULD_NOT_FIT: Final = "the measured ranges of activations would no longer fit"
QUANTIZED_ONCE: Final = "activations are quantized once"
"""Reasons of several techniques not to follow quantized activations."""


class Trait(enum.Flag):
    """What a model has become on its way; lets `Recipe.check` judge an order of steps without running it."""

    NOTHING = 0
    SPARSE = enum.auto()
    CLUSTERED = enum.auto()
    INTEGER = enum.auto()
    """Weights (or centroids) are integer codes: no floats are left to re-encode or train."""
    FOLDED = enum.auto()
    """Batch norms are merged into the layers before them."""
    QUANTIZED_ACTIVATIONS = enum.auto()
    KERNEL = enum.auto()
    """Integer weights as engines compute with them: 8 bits or less, one scale for the tensor or for each output."""
    RESHAPED = enum.auto()
    """Weights have other shapes than in the network given: channels are gone, or another network took its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a step does to the traits of a model.

    It needs all of `requires` and cannot follow any of `refuses`, whose values end the sentence "cannot follow a step
    that ..., because ..."; then it forgets `removes` and leaves `adds` behind.
    """

    adds: Trait = Trait.NOTHING
    removes: Trait = Trait.NOTHING
    refuses: Mapping[Trait, str] = field(default_factory=dict[Trait, str])
    requires: Trait = Trait.NOTHING

    @property
    def refused(self) -> Trait:
        """All traits that it cannot follow."""
        return functools.reduce(operator.or_, self.refuses, Trait.NOTHING)


@dataclass(frozen=True, kw_only=True)
class Context:
    """What the caller offers to techniques: the only door for data.

    Attributes:
        seed: every random choice of a step derives from it.
        example: one input batch, for capturing the network's graph. Channel pruning tries the network out on random
            inputs of its mean and deviation, so real data serve best. A network with several inputs gets a tuple, the
            positional arguments of its `forward`.
        calibration: input batches like the example, iterable more than once.
        trainer: whoever trains.
        teacher: the float network as it was given, for techniques that correct or imitate; it stays as it is.
        networks: further networks by a name that steps may say: students, assistants, teachers of an ensemble.
        reference: the float network that a quantized one should answer like. Where it is None, `Recipe.run` offers the
            network as it was right before a step made its weights integers, or as it was given while none has.
        early: the network as it was early in its training, or before it, for pruning that goes back there.
        validation: labelled batches and a loss, for deciding which layers matter.
        workdir: folder for stage caches and training checkpoints; None keeps nothing, so a killed run starts over.
        report_progress: called with (what, done, total) during work of more than a second.
    """

    seed: int = 0
    example: Inputs | None = None
    calibration: Iterable[Inputs] | None = None
    trainer: Trainer | None = None
    teacher: nn.Module | None = None
    networks: Mapping[str, nn.Module] = field(default_factory=dict[str, nn.Module])
    reference: nn.Module | None = None
    early: nn.Module | None = None
    validation: Labelled | None = None
    workdir: Path | None = None
    report_progress: Progress | None = field(default=None, compare=False)

    @property
    def offers(self) -> Needs:
        """What a step may need from this context."""
        have = Needs.NOTHING
        if self.example is not None:
            have |= Needs.EXAMPLE
        if self.calibration is not None:
            have |= Needs.CALIBRATION
        if self.trainer is not None:
            have |= Needs.TRAINING
        if self.teacher is not None:
            have |= Needs.TEACHER
        if self.reference is not None:
            have |= Needs.REFERENCE
        if self.early is not None:
            have |= Needs.EARLY
        if self.validation is not None:
            have |= Needs.LABELS
        return have


class Technique(Protocol):
    """One way to compress: a frozen keyword-only dataclass; settings are its fields, data is the context."""

    @property
    def needs(self) -> Needs:
        """What the context must offer."""
        ...

    @property
    def effect(self) -> Effect:
        """What it refuses to follow and what it leaves behind."""
        ...

    def apply(self, model: CompressedModel, context: Context) -> CompressedModel:
        """Return the compressed copy of `model`, its history one record longer; `model` stays untouched."""
        ...


def epochs_of(step: Technique) -> float:
    """Return for how many epochs a step trains; `trained_epochs` counts where a step trains several times."""
    epochs = getattr(step, "trained_epochs", getattr(step, "epochs", None))
    return float(epochs) if Needs.TRAINING in step.needs and epochs is not None else 0.0


def needs_of(distillation: Distillation | None) -> Needs:
    """Return what learning from teachers needs: the context's where none is named, and a batch to follow hints."""
    if distillation is None:
        return Needs.NOTHING
    teacher = Needs.NOTHING if distillation.teachers else Needs.TEACHER
    return teacher | Needs.EXAMPLE if distillation.hints else teacher


def needs_of_criterion(criterion: Criterion) -> Needs:
    """Return what saying how much layers matter needs."""
    inputs = Needs.CALIBRATION if criterion.needs_inputs else Needs.NOTHING
    labels = Needs.LABELS if criterion.needs_labels else Needs.NOTHING
    return Needs.EXAMPLE | inputs | labels


def evidence_of(context: Context) -> Evidence:
    """Return what a criterion may look at.

    Raises:
        RecipeError: the context has no example.
    """
    if context.example is None:
        raise RecipeError("to judge layers, give the context an example, one input batch: Context(example=...)")
    return Evidence(
        example=context.example,
        inputs=context.calibration,
        validation=context.validation,
        seed=context.seed,
        report_progress=context.report_progress,
    )


def recorded(
    technique: Technique,
    model: CompressedModel,
    context: Context,
    *,
    decisions: Mapping[str, Any] | None = None,
    curve: tuple[Mapping[str, float], ...] = (),
) -> CompressedModel:
    """Return `model`, the outcome of `technique`, with the step in its history; the last line of every `apply`."""
    settings = {key: value for key, value in to_plain(technique).items() if key != TAG}
    record = Record(
        technique=type(technique).__name__,
        settings=settings,
        seed=context.seed,
        version=VERSION,
        decisions=to_plain(decisions or {}),
        curve=curve,
        digest=model.digest(),
    )
    return replace(model, history=(*model.history, record))
