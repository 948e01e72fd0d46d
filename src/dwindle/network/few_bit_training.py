"""This file trains layers whose weights, and what they read, have 1 to 4 bits; each layer has a width of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, get_args

import torch

from dwindle.core.encoding import Encoding, affine_of, decode
from dwindle.core.few_bits import FactorGradient, FactorRule, LevelRange, Levels, Spread
from dwindle.core.granularity import Granularity
from dwindle.errors import EncodingError, NetworkError, RecipeError
from dwindle.network.activations import CallSite, LevelQuantizer
from dwindle.network.aware import training_graph
from dwindle.network.batchnorm import fold_batchnorms, plan_folds
from dwindle.network.capture import Captured
from dwindle.network.compressed import CompressedModel
from dwindle.network.distillation import Offers
from dwindle.network.few_bit_grid import FewBitGrid, FewBits, RoundedInput
from dwindle.network.inputs import Inputs
from dwindle.network.integer_weights import KERNEL_GRANULARITIES
from dwindle.network.placement import matmul_calls
from dwindle.network.rounded_training import Curve, Settings, rounded_training
from dwindle.network.structure import CentroidGradient
from dwindle.network.train import Trainer


class FewBitSettings(Settings, Protocol):
    """What techniques that train few bits say about them; `core/few_bits.py` says what the fields mean."""

    @property
    def levels(self) -> LevelRange:
        """Which codes are used; a layer of 1 bit uses all."""
        ...

    @property
    def factor(self) -> FactorRule:
        """How the factor follows from the weights."""
        ...

    @property
    def gradient(self) -> FactorGradient:
        """What a weight's gradient knows of the factor."""
        ...

    @property
    def granularity(self) -> Granularity:
        """Which weights share a mean and a factor."""
        ...

    @property
    def is_centred(self) -> bool:
        """Whether the mean is taken off the weights first."""
        ...

    @property
    def spread(self) -> Spread:
        """What centred weights are divided by before they are clipped."""
        ...

    @property
    def activations(self) -> bool:
        """Whether inputs are rounded, too."""
        ...


class Offered(Offers, Protocol):
    """What the context offers to such a training."""

    @property
    def trainer(self) -> Trainer | None:
        """Whoever trains."""
        ...

    @property
    def example(self) -> Inputs | None:
        """One input batch."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FewBitModel:
    """What such a training gave."""

    model: CompressedModel
    decisions: Mapping[str, Any]
    curve: Curve


def problem_of(settings: FewBitSettings) -> str | None:
    """Return what is wrong with `settings`; None where nothing is."""
    rate, hints = settings.learning_rate, settings.distillation is not None and settings.distillation.hints
    problems = {
        f"weights share a factor by PerTensor() or PerChannel(0), got {settings.granularity}": (
            settings.granularity not in KERNEL_GRANULARITIES
        ),
        f"epochs must be positive, got {settings.epochs}": not 0 < settings.epochs < math.inf,
        f"learning_rate must be positive or None, got {rate}": rate is not None and not 0 < rate < math.inf,
        f"freeze_after is a share of the training, in [0, 1], got {settings.freeze_after}": (
            not 0 <= settings.freeze_after <= 1
        ),
        "hints watch modules, which the graph trained here has not; leave hints out": bool(hints),
    }
    return next(filter(None, (_unknown_choice(settings), *(text for text, holds in problems.items() if holds))), None)


def _unknown_choice(settings: FewBitSettings) -> str | None:
    known = {
        "levels": LevelRange, "factor": FactorRule, "gradient": FactorGradient, "spread": Spread,
        "centroid_gradient": CentroidGradient,
    }  # fmt: skip
    for name, values in known.items():
        if getattr(settings, name) not in get_args(values):
            return f"{name} must be one of {', '.join(get_args(values))}, got {getattr(settings, name)!r}"
    return None


def require_trainable(what: str, model: CompressedModel, offered: Offered) -> tuple[Trainer, Inputs]:
    """Return the trainer and the example.

    Raises:
        RecipeError: one of them is missing, or activations are quantized already.
    """
    if offered.trainer is None or offered.example is None:
        raise RecipeError(f"{what} trains a graph; give the context a trainer and an example, one input batch")
    if model.activations:
        raise RecipeError(f"{what}: {len(model.activations)} activations are quantized already; do it once")
    return offered.trainer, offered.example


def train_few_bits(
    settings: FewBitSettings, model: CompressedModel, captured: Captured, *, offered: Offered, widths: Mapping[str, int]
) -> FewBitModel:
    """Return the trained copy of `model` in which each weight in `widths` has so many bits.

    Args:
        settings: how it is rounded and trained.
        model: stays as it is.
        captured: its graph.
        offered: trainer, example, teacher.
        widths: weights of convolutions and linear layers -> number of bits, 1 to 4.

    Raises:
        RecipeError: there is no trainer or no example, or activations are quantized.
        EncodingError: a weight is quantized already.
        NetworkError: a weight is not float32, or training left NaN.
    """
    trainer, example = require_trainable(type(settings).__name__, model, offered)
    calls = matmul_calls(captured)
    quantizers = {name: LevelQuantizer(n_bits=n, kind=_kind(settings, n)) for name, n in widths.items()}
    sites = _input_sites(calls, quantizers) if settings.activations else dict[CallSite, LevelQuantizer]()
    edits = plan_folds(model, captured).edits if settings.activations else ()
    folded = {edit.batchnorm: edit.layer for edit in edits}
    network = training_graph(captured, {}, folded=folded, inputs={s: RoundedInput(q) for s, q in sites.items()})
    grids = {name: _grid(settings, name, model.encodings[name], n_bits=n) for name, n in widths.items()}
    encodings, curve = rounded_training(settings, model, trainer=trainer, offers=offered).run(
        model, grids, network=network
    )
    after = model.with_encodings(encodings)
    if settings.activations:
        after, _ = fold_batchnorms(after, example)
        after = replace(after, activations={site: sites[site] for site in sorted(sites)})
    decisions = {"weights": list(widths), "folded": folded, "notes": list(captured.notes)}
    return FewBitModel(model=after, decisions=decisions, curve=curve)


def _kind(settings: FewBitSettings, n_bits: int) -> LevelRange:
    return "full" if n_bits == 1 else settings.levels


def _input_sites(
    calls: Mapping[str, list[CallSite]], quantizers: Mapping[str, LevelQuantizer]
) -> dict[CallSite, LevelQuantizer]:
    return {site: quantizer for name, quantizer in quantizers.items() for site in calls[name]}


def _grid(settings: FewBitSettings, name: str, encoding: Encoding, *, n_bits: int) -> FewBitGrid:
    if affine_of(encoding) is not None:
        raise EncodingError(f"{name!r} has no float values left to train; put this step before the quantizer")
    if (dtype := decode(encoding).dtype) != torch.float32:
        raise NetworkError(f"{name!r} is {dtype}, but levels are decoded in float32; call network.float() first")
    return FewBitGrid(
        encoding,
        FewBits(
            levels=Levels(n_bits, _kind(settings, n_bits)),
            factor=settings.factor,
            gradient=settings.gradient,
            granularity=settings.granularity,
            is_centred=settings.is_centred,
            spread=settings.spread,
        ),
    )
