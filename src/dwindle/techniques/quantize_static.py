"""This file quantizes weights and activations to integers, with ranges measured on calibration data."""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Final

from dwindle.core.encoding import MAX_BITS, MIN_BITS, affine_of
from dwindle.core.granularity import Granularity, PerChannel
from dwindle.core.ranges import Calibration, Grid
from dwindle.errors import RecipeError, SettingError
from dwindle.network.batchnorm import fold_batchnorms
from dwindle.network.capture import capture
from dwindle.network.compressed import CompressedModel, FoldedBatchNorm
from dwindle.network.integer_plan import plan_integers
from dwindle.network.integer_weights import KERNEL_BITS, KERNEL_GRANULARITIES, ScaleKind, has_kernel, quantize_weight
from dwindle.network.placement import matmul_weights
from dwindle.network.select import Select
from dwindle.settings import require_kinds
from dwindle.technique import QUANTIZED_ONCE, Context, Effect, Needs, Trait, recorded

WIDTHS: Final = (8, 16)
"""Codes of activations: unsigned with a zero point at 8 bits, signed around zero at 16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeStatic:
    """Integer weights and activations with fixed ranges, placed where engines have integer kernels.

    Weights of convolutions and linear layers become signed codes symmetric about zero, activations codes of 8 bits
    (unsigned, with a zero point) or of 16 (signed, zero point 0: with 8-bit weights the 16x8 scheme of LiteRT).
    Other layers (embedding, recurrent, attention scores) stay float, as do biases: an exporter makes those int32.

    onnxruntime has integer kernels for 8-bit activations only. With 16 bits it computes in floats between the codes:
    the file is as small, the answers are nearly those of float activations, and nothing gets faster there.

    Attributes:
        weights: width of a weight's code, 2 to 8, or to 16 with 16-bit activations; None where the weights are
            integers already.
        activations: width of an activation's code, 8 or 16.
        calibration: how many examples ranges are taken from, and how.
        scale: "float", or "power_of_two": the scales of weights and activations are rounded up to powers of two, as
            hardware that shifts instead of multiplying needs them. With 16-bit activations this is fixed point.
        granularity: which weights share a scale. The centroids of a clustered tensor always share one; batch norms that
            are folded into it give it a factor for each channel.
        fold_batchnorm: whether batch norms are merged first, as `FoldBatchNorm` does.
        quantize_output: whether the network's output is quantized too.
        select: which weights.
    """

    weights: int | None = 8
    activations: int = 8
    calibration: Calibration = field(default_factory=Calibration)
    scale: ScaleKind = "float"
    granularity: Granularity = field(default_factory=lambda: PerChannel(0))
    fold_batchnorm: bool = True
    quantize_output: bool = False
    select: Select = field(default_factory=Select)

    def __post_init__(self) -> None:
        require_kinds(self)
        if self.activations not in WIDTHS:
            raise SettingError(
                f"QuantizeStatic: activations must be 8 or 16, the widths that engines have, got {self.activations}"
            )
        widest = KERNEL_BITS if self.activations == KERNEL_BITS else MAX_BITS
        if self.weights is not None and not MIN_BITS <= self.weights <= widest:
            raise SettingError(
                f"QuantizeStatic: weights must be in [{MIN_BITS}, {widest}] with {self.activations}-bit activations, "
                f"or None, got {self.weights}"
            )
        if self.granularity not in KERNEL_GRANULARITIES:
            raise SettingError(
                f"QuantizeStatic: engines have no integer kernels for {self.granularity}; "
                "use PerChannel(0) or PerTensor(), or QuantizeWeights"
            )

    @property
    def needs(self) -> Needs:
        """An input batch for the graph, and data to measure ranges on."""
        return Needs.EXAMPLE | Needs.CALIBRATION

    @property
    def effect(self) -> Effect:
        """Leaves integers in weights and activations; cannot quantize what is quantized."""
        folded = Trait.FOLDED if self.fold_batchnorm else Trait.NOTHING
        narrow = Trait.KERNEL if self.weights is not None and self.weights <= KERNEL_BITS else Trait.NOTHING
        wanted = Trait.KERNEL if self.activations == KERNEL_BITS else Trait.INTEGER
        refuses = {Trait.QUANTIZED_ACTIVATIONS: QUANTIZED_ONCE}
        if self.weights is not None:
            refuses[Trait.INTEGER] = "integer codes have no float values left to quantize (weights=None keeps them)"
        return Effect(
            adds=Trait.INTEGER | Trait.QUANTIZED_ACTIVATIONS | narrow | folded,
            refuses=refuses,
            requires=wanted if self.weights is None else Trait.NOTHING,
        )

    def apply(self, model: CompressedModel, context: Context) -> CompressedModel:
        """Return `model` with integer weights and activation quantizers.

        Raises:
            RecipeError: the context lacks an example or calibration data, or activations are quantized already.
            SelectionError: a pattern matches nothing.
            SettingError: no selected weight can run on integers, or the granularity does not fit.
            EncodingError: a selected weight is quantized already.
            NetworkError: the network cannot be captured, or an activation becomes NaN.
            DataError: the calibration data is empty or no batch of inputs.
        """
        if context.example is None or context.calibration is None:
            raise RecipeError(
                "QuantizeStatic needs Context(example=..., calibration=...): one batch, and data to measure ranges on"
            )
        if model.activations:
            raise RecipeError(f"QuantizeStatic: {len(model.activations)} activations are quantized already; do it once")
        edits: tuple[FoldedBatchNorm, ...] = ()
        if self.fold_batchnorm:
            model, edits = fold_batchnorms(model, context.example)
        captured = capture(model.network, context.example)
        candidates = matmul_weights(captured)
        model = self._with_integer_weights(model, candidates)
        captured.load_weights(model.network)
        integer = self._integer_weights(model, candidates)
        plan = plan_integers(
            captured,
            integer,
            context.calibration,
            calibration=self.calibration,
            grid=Grid(
                n_bits=self.activations, symmetric=self.activations == 16, power_of_two=self.scale == "power_of_two"
            ),
            quantize_output=self.quantize_output,
            report_progress=context.report_progress,
        )
        own = plan.observed.quantizers
        quantized = replace(model, activations=plan.everywhere(own))
        notes = [*captured.notes, *plan.observed.notes(self.calibration.n)]
        decisions = plan.decisions(own) | {"folded": {edit.batchnorm: edit.layer for edit in edits}, "notes": notes}
        return recorded(self, quantized, context, decisions=decisions)

    def _with_integer_weights(self, model: CompressedModel, candidates: Collection[str]) -> CompressedModel:
        if self.weights is None:
            return model
        names = [name for name in self.select.resolve(model.network) if name in candidates]
        quantize = functools.partial(
            quantize_weight, n_bits=self.weights, granularity=self.granularity, scale=self.scale
        )
        return model.with_encodings({name: quantize(name, model.encodings[name]) for name in names})

    def _integer_weights(self, model: CompressedModel, candidates: Collection[str]) -> list[str]:
        """Return the weights of layers that shall run on integers, at 16 bits whatever their own width."""
        is_wide = self.activations > KERNEL_BITS
        fits = {n: affine_of(e) is not None if is_wide else has_kernel(e) for n, e in model.encodings.items()}
        if integer := [name for name in candidates if fits[name]]:
            return integer
        raise SettingError(
            "QuantizeStatic: no convolution or linear layer has an integer weight of 8 bits or less with one scale "
            "for the tensor or for each output; use weights=8, or put QuantizeWeights(n_bits=8) before"
        )
