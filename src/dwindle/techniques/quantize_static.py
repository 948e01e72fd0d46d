"""This file quantizes weights and activations to integers, with ranges measured on calibration data."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from dwindle.core.encoding import MIN_BITS, Encoding, Scaled, affine_of
from dwindle.core.granularity import Granularity, PerChannel, PerTensor
from dwindle.errors import RecipeError, SettingError
from dwindle.network.activations import ActivationQuantizer, CallSite
from dwindle.network.batchnorm import fold_batchnorms
from dwindle.network.capture import capture
from dwindle.network.compressed import CompressedModel, Edit
from dwindle.network.integer_weights import quantize_weight
from dwindle.network.observe import N_BITS, Calibration, Mse, observe
from dwindle.network.placement import Placement, matmul_weights, place
from dwindle.network.select import Select
from dwindle.technique import Context, Effect, Needs, Trait, recorded

KERNEL_GRANULARITIES: Final = (PerTensor(), PerChannel(0))
"""Which weights may share a scale where a layer is to run on integers: all of them, or those of one output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeStatic:
    """Integer weights and activations with fixed ranges, placed where engines have integer kernels.

    Weights of convolutions and linear layers become signed codes symmetric about zero, activations unsigned codes.
    Other layers (embedding, recurrent, attention scores) stay float, as do biases: an exporter makes those int32.

    Attributes:
        weights: width of a weight's code, 2 to 8; None where the weights are integers already.
        activations: width of an activation's code: 8.
        calibration: how a range follows from the values seen.
        granularity: which weights share a scale. The centroids of a clustered tensor always share one; batch norms that
            are folded into it give it a factor for each channel.
        fold_batchnorm: whether batch norms are merged first, as `FoldBatchNorm` does.
        quantize_output: whether the network's output is quantized too.
        select: which weights.
    """

    weights: int | None = 8
    activations: int = 8
    calibration: Calibration = field(default_factory=Mse)
    granularity: Granularity = field(default_factory=lambda: PerChannel(0))
    fold_batchnorm: bool = True
    quantize_output: bool = False
    select: Select = field(default_factory=Select)

    def __post_init__(self) -> None:
        if self.weights is not None and not MIN_BITS <= self.weights <= 8:
            raise SettingError(f"QuantizeStatic: weights must be in [{MIN_BITS}, 8] or None, got {self.weights}")
        if self.activations != N_BITS:
            raise SettingError(
                f"QuantizeStatic: activations must be {N_BITS}, the width that engines have, got {self.activations}"
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
        twice = Trait.QUANTIZED_ACTIVATIONS
        return Effect(
            adds=Trait.INTEGER | Trait.QUANTIZED_ACTIVATIONS | folded,
            refuses=twice if self.weights is None else twice | Trait.INTEGER,
            requires=Trait.INTEGER if self.weights is None else Trait.NOTHING,
            because="integer codes have no float values left to quantize (weights=None keeps integer weights)",
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
        edits: tuple[Edit, ...] = ()
        if self.fold_batchnorm:
            model, edits = fold_batchnorms(model, context.example)
        captured = capture(model.network, context.example)
        candidates = matmul_weights(captured)
        model = self._with_integer_weights(model, candidates)
        captured.load_weights(model.network)
        integer = [name for name in candidates if _has_kernel(model.encodings[name])]
        if not integer:
            raise SettingError(
                "QuantizeStatic: no convolution or linear layer has an integer weight of 8 bits or less with one scale "
                "for the tensor or for each output; use weights=8, or put QuantizeWeights(n_bits=8) before"
            )
        placement = place(captured, integer, quantize_output=self.quantize_output)
        own = observe(
            captured,
            context.calibration,
            sites=placement.own,
            calibration=self.calibration,
            report_progress=context.report_progress,
        )
        activations = own | {site: own[origin] for site, origin in placement.shared.items()}
        quantized = replace(model, activations=dict(sorted(activations.items())))
        decisions = _decisions(integer, placement, own)
        decisions |= {"folded": {edit.batchnorm: edit.layer for edit in edits}, "notes": list(captured.notes)}
        return recorded(self, quantized, context, decisions=decisions)

    def _with_integer_weights(self, model: CompressedModel, candidates: Collection[str]) -> CompressedModel:
        if self.weights is None:
            return model
        names = [name for name in self.select.resolve(model.network) if name in candidates]
        quantize = functools.partial(quantize_weight, n_bits=self.weights, granularity=self.granularity)
        return model.with_encodings({name: quantize(name, model.encodings[name]) for name in names})


def _has_kernel(encoding: Encoding) -> bool:
    """Tell whether engines run a layer with this weight on integers: 8 bits or less, scaled whole or by output."""
    codes = affine_of(encoding)
    by_output = not isinstance(encoding, Scaled) or encoding.axis == 0
    return codes is not None and codes.n_bits <= 8 and by_output and codes.granularity in KERNEL_GRANULARITIES


def _decisions(
    integer: list[str], placement: Placement, quantizers: Mapping[CallSite, ActivationQuantizer]
) -> dict[str, Any]:
    ranges = {
        str(site): {
            "low": -quantizer.zero_point * quantizer.scale,
            "high": ((1 << N_BITS) - 1 - quantizer.zero_point) * quantizer.scale,
            "clipped_fraction": quantizer.clipped_fraction,
        }
        for site, quantizer in quantizers.items()
    }
    shared = {str(site): str(origin) for site, origin in placement.shared.items()}
    return {"integer_weights": integer, "ranges": ranges, "shared": shared}
