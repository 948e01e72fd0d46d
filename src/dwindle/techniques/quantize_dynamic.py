"""This file quantizes weights to integers, and inputs of linear and LSTM layers at run time: no calibration data."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from dwindle.core.encoding import MIN_BITS, affine_of
from dwindle.core.granularity import Granularity, PerChannel
from dwindle.errors import RecipeError, SettingError
from dwindle.network.activations import CallSite, DynamicQuantizer
from dwindle.network.batchnorm import fold_batchnorms
from dwindle.network.capture import Captured, capture
from dwindle.network.compressed import CompressedModel, FoldedBatchNorm
from dwindle.network.integer_weights import KERNEL_BITS, KERNEL_GRANULARITIES, ScaleKind, has_kernel, quantize_weight
from dwindle.network.placement import linear_layers
from dwindle.network.recurrent import dynamic_lstm_weights, integer_layers, lstm_calls
from dwindle.network.select import Select
from dwindle.settings import require_kinds
from dwindle.technique import QUANTIZED_ONCE, Context, Effect, Needs, Trait, recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeDynamic:
    """Integer weights in linear and recurrent layers; linear and LSTM layers quantize their inputs from batch to batch.

    A linear layer with an integer weight rounds its input to unsigned 8-bit codes on the grid that covers the values of
    this very call and zero, multiplies integers, and answers in floats: ONNX DynamicQuantizeLinear and MatMulInteger.
    The range is one for the whole batch, so the answer to an example depends, within the rounding error, on the
    examples it is asked with. Measure with the batch size that will be used.

    An LSTM layer with integer weights does the same with its input, over all steps at once, and with its state at every
    step; gates and cells stay floats: DynamicQuantizeLSTM of onnxruntime. It needs input and recurrent weights of 8
    bits or less, with zero points of zero if scales are by output, which no other layer reads. The file then holds an
    operation of onnxruntime's own (domain com.microsoft); for other engines, QuantizeWeights keeps to the standard.

    Other recurrent layers (GRU, RNN, single cells) have no integer kernel in onnxruntime: they keep integer weights in
    the file and compute in floats, as an LSTM layer without such weights does; the engine unfolds them when it loads,
    and the record's notes name them. Convolutions stay as they are; use QuantizeStatic for them.

    Attributes:
        weights: width of a weight's code, 2 to 8; None where the weights are integers already.
        granularity: which weights share a scale.
        scale: "float", or "power_of_two" for the scales of weights.
        fold_batchnorm: whether batch norms are merged first, as `FoldBatchNorm` does.
        select: which weights; among them, those of linear and recurrent layers are taken.
    """

    weights: int | None = 8
    granularity: Granularity = field(default_factory=lambda: PerChannel(0))
    scale: ScaleKind = "float"
    fold_batchnorm: bool = True
    select: Select = field(default_factory=Select)

    def __post_init__(self) -> None:
        require_kinds(self)
        if self.weights is not None and not MIN_BITS <= self.weights <= KERNEL_BITS:
            raise SettingError(
                f"QuantizeDynamic: weights must be in [{MIN_BITS}, {KERNEL_BITS}] or None, got {self.weights}"
            )
        if self.granularity not in KERNEL_GRANULARITIES:
            raise SettingError(
                f"QuantizeDynamic: engines have no integer kernels for {self.granularity}; "
                "use PerChannel(0) or PerTensor(), or QuantizeWeights"
            )

    @property
    def needs(self) -> Needs:
        """An input batch for the graph."""
        return Needs.EXAMPLE

    @property
    def effect(self) -> Effect:
        """Leaves integer weights and quantized inputs; cannot quantize what is quantized."""
        folded = Trait.FOLDED if self.fold_batchnorm else Trait.NOTHING
        codes = Trait.INTEGER | Trait.KERNEL
        refuses = {Trait.QUANTIZED_ACTIVATIONS: QUANTIZED_ONCE}
        if self.weights is not None:
            refuses[Trait.INTEGER] = "integer codes have no float values left to quantize (weights=None keeps them)"
        return Effect(
            adds=codes | Trait.QUANTIZED_ACTIVATIONS | folded,
            refuses=refuses,
            requires=Trait.KERNEL if self.weights is None else Trait.NOTHING,
        )

    def apply(self, model: CompressedModel, context: Context) -> CompressedModel:
        """Return `model` with integer weights, whose linear and LSTM layers quantize their inputs.

        Raises:
            RecipeError: the context lacks an example, or activations are quantized already.
            SelectionError: a pattern matches nothing.
            SettingError: no selected weight belongs to a linear or recurrent layer, or none is integer.
            EncodingError: a selected weight is quantized already.
            NetworkError: the network cannot be captured.
        """
        if context.example is None:
            raise RecipeError("QuantizeDynamic needs Context(example=...): one batch, to capture the network")
        if model.activations:
            raise RecipeError(
                f"QuantizeDynamic: {len(model.activations)} activations are quantized already; do it once"
            )
        edits: tuple[FoldedBatchNorm, ...] = ()
        if self.fold_batchnorm:
            model, edits = fold_batchnorms(model, context.example)
        captured = capture(model.network, context.example)
        linear = linear_layers(captured)
        model = self._with_integer_weights(model, {*linear.values(), *recurrent_weights(model.network)})
        calls = lstm_calls(captured)
        on_integers = integer_layers(calls, model.encodings)
        sites = [site for site, name in linear.items() if has_kernel(model.encodings[name])]
        sites += [site for site, layers in on_integers.items() if any(layers)]
        quantized = replace(model, activations={site: DynamicQuantizer() for site in sorted(sites)})
        decisions = _decisions(quantized, linear)
        decisions["lstm_layers_on_integers"] = {
            str(site): [i for i, is_integer in enumerate(layers) if is_integer]
            for site, layers in on_integers.items()
            if any(layers)
        }
        notes = [*captured.notes, *_floats_left(quantized, captured)]
        decisions |= {"folded": {edit.batchnorm: edit.layer for edit in edits}, "notes": notes}
        return recorded(self, quantized, context, decisions=decisions)

    def _with_integer_weights(self, model: CompressedModel, candidates: set[str]) -> CompressedModel:
        names = [name for name in self.select.resolve(model.network) if name in candidates]
        if self.weights is None:
            names = [name for name in names if has_kernel(model.encodings[name])]
        if not names:
            raise SettingError(
                "QuantizeDynamic: none of the selected weights belongs to a linear or recurrent layer"
                + ("" if self.weights is not None else " and is integer of 8 bits or less")
                + "; use QuantizeStatic for convolutions, or select other weights"
            )
        if self.weights is None:
            return model
        quantize = functools.partial(
            quantize_weight, n_bits=self.weights, granularity=self.granularity, scale=self.scale
        )
        return model.with_encodings({name: quantize(name, model.encodings[name]) for name in names})


def recurrent_weights(network: nn.Module) -> list[str]:
    """Return the names of the weight matrices of LSTM, GRU and RNN layers and cells."""
    wanted = {
        id(parameter)
        for module in network.modules()
        if isinstance(module, nn.RNNBase | nn.RNNCellBase)
        for parameter in module.parameters(recurse=False)
        if parameter.ndim >= 2
    }
    return [name for name, parameter in network.named_parameters() if id(parameter) in wanted]


def _floats_left(model: CompressedModel, captured: Captured) -> list[str]:
    """Return one sentence for each recurrent layer that has integer weights and computes in floats."""
    on_integers = dynamic_lstm_weights(captured, model.encodings, model.activations)
    left: dict[str, list[str]] = {}
    for name in recurrent_weights(model.network):
        if name not in on_integers and affine_of(model.encodings[name]) is not None:
            module, _, weight = name.rpartition(".")
            left.setdefault(module, []).append(weight)
    modules = dict(model.network.named_modules())
    return [
        f"{name or 'the network'} ({type(modules[name]).__name__}) computes in floats with {', '.join(weights)}: "
        + (
            "their integers are read by two layers, or their layer has others of another kind"
            if isinstance(modules[name], nn.LSTM)
            else "onnxruntime has no integer kernel for it"
        )
        for name, weights in left.items()
    ]


def _decisions(model: CompressedModel, linear: dict[CallSite, str]) -> dict[str, Any]:
    integer = [name for name, encoding in model.encodings.items() if affine_of(encoding) is not None]
    dynamic = {str(site): name for site, name in linear.items() if site in model.activations}
    return {"integer_weights": integer, "inputs_quantized_at_run_time": dynamic}
