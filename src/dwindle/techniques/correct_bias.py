"""This file corrects biases, so that a compressed network answers like the float one on data without labels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx, nn

from dwindle.core.encoding import Dense, Half
from dwindle.errors import RecipeError, SettingError
from dwindle.network.batchnorm import fold_batchnorms
from dwindle.network.capture import Captured, capture
from dwindle.network.compressed import CompressedModel, FoldedBatchNorm
from dwindle.network.drift import Comparison, Watched, first_examples
from dwindle.network.edits import own_edits
from dwindle.network.inputs import Inputs, n_examples
from dwindle.network.observe import check_batches
from dwindle.network.placement import Layer, biased_layers, linear_layers, matmul_weights
from dwindle.network.simulate import quantized_graph
from dwindle.network.train import Progress
from dwindle.settings import require_kinds
from dwindle.technique import Context, Effect, Needs, recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectBias:
    """Change the biases of convolutions and linear layers, and nothing else; put it after the quantizer.

    "mean" takes out of every channel the mean error that rounding left there, layer by layer, each measured behind the
    corrected ones (Nagel et al. 2019, section 4.2, on calibration data). "learned" descends on all biases at once
    towards the answers of the float network. Either keeps the old biases where the new ones answer worse on the
    calibration data. Biases that `CastHalf` stored as float16 are rounded to it again, before their answers are judged.

    The float network is `Context.reference`: `Recipe.run` keeps the network as it was right before a step made its
    weights integers. Its batch norms are folded where those of the model are. Layers without a bias have nothing to
    correct; the decisions name them (folding a batch norm gives its layer one). Behind `QuantizeAware` and `Binarize`
    the float network is the one before their training, and the trained one should not be bent back to it: leave this
    step out there.

    Attributes:
        method: "mean" or "learned".
        n: how many calibration examples are used, at most: the first ones.
        steps: optimizer steps of "learned".
        learning_rate: of "learned", relative to the standard deviation of each layer's answers.
    """

    method: Literal["mean", "learned"] = "mean"
    n: int = 256
    steps: int = 300
    learning_rate: float = 0.01

    def __post_init__(self) -> None:
        require_kinds(self)
        if self.n < 1 or self.steps < 1:
            raise SettingError(f"CorrectBias: n and steps must be at least 1, got {self.n} and {self.steps}")
        if not 0.0 < self.learning_rate <= 1.0:
            raise SettingError(f"CorrectBias: learning_rate must be in (0, 1], got {self.learning_rate}")

    @property
    def needs(self) -> Needs:
        """The float network, and inputs to compare on."""
        return Needs.EXAMPLE | Needs.CALIBRATION | Needs.REFERENCE

    @property
    def effect(self) -> Effect:
        """Leaves other biases, and no trait."""
        return Effect()

    def apply(self, model: CompressedModel, context: Context) -> CompressedModel:
        """Return `model` with other biases.

        Raises:
            RecipeError: the context lacks something, or the reference is another network.
            SettingError: no layer has a bias that is stored in floats.
            NetworkError: a network cannot be captured.
            DataError: the calibration data is empty or no batch of inputs.
        """
        if context.example is None or context.calibration is None or context.reference is None:
            raise RecipeError(
                "CorrectBias needs Context(example=..., calibration=..., reference=...): one batch, inputs to compare "
                "on, and the float network"
            )
        captured = capture(model.network, context.example)
        layers = _layers(model, captured)
        comparison = Comparison(
            compressed=_watched(quantized_graph(model, captured), captured),
            reference=_reference(model, context.reference, context.example, layers=layers),
            batches=_batches(context.calibration, context.example, captured, n=self.n),
        )
        before = comparison.error()
        details = self._correct(comparison, layers, context.report_progress)
        graph = comparison.compressed.graph
        biases = {layer.bias: _stored_like(model, layer.bias, graph.get_parameter(layer.bias)) for layer in layers}
        after = comparison.error()
        is_better = after < before and all(bool(bias.values.isfinite().all()) for bias in biases.values())
        decisions = {
            "answer_error_before": _stated(before),
            "answer_error_after": _stated(after),
            "kept": "new biases" if is_better else "old biases, because the new ones answer no better",
            "left": sorted(set(matmul_weights(captured)) - {layer.weight for layer in layers}),
            **details,
        }
        return recorded(self, model.with_encodings(biases if is_better else {}), context, decisions=decisions)

    def _correct(self, comparison: Comparison, layers: list[Layer], report_progress: Progress | None) -> dict[str, Any]:
        def report(done: int, total: int) -> None:
            if report_progress is not None:
                report_progress("correct biases", done, total)

        if self.method == "mean":
            shifts = comparison.correct_means(layers, report)
            return {"shifts": {bias: _stated(shift) for bias, shift in shifts.items()}}
        losses = comparison.learn_biases(layers, report, steps=self.steps, learning_rate=self.learning_rate)
        return {"first_loss": _stated(losses[0]), "last_loss": _stated(losses[-1])}


def _stated(figure: float) -> float | str:
    """Return `figure` as the history can hold it, which is JSON."""
    return figure if math.isfinite(figure) else "not finite"


def _batches(calibration: Iterable[Inputs], example: Inputs, captured: Captured, *, n: int) -> list[Inputs]:
    size = None if captured.dynamic_batch else n_examples(example)
    return list(first_examples(check_batches(calibration, example, batch_size=size), n, may_cut=captured.dynamic_batch))


def _watched(graph: fx.GraphModule, captured: Captured) -> Watched:
    return Watched(graph=graph, sites=captured.sites, linear=linear_layers(captured))


def _stored_like(model: CompressedModel, name: str, bias: nn.Parameter) -> Dense | Half:
    """Return the corrected `bias` as the model stores it; where that is float16, `bias` is rounded in place, too."""
    if not isinstance(model.encodings[name], Half):
        return Dense(bias.detach().clone())
    rounded = Half(bias.detach().to(torch.float16))
    with torch.no_grad():
        bias.copy_(rounded.values)
    return rounded


def _layers(model: CompressedModel, captured: Captured) -> list[Layer]:
    layers = [layer for layer in biased_layers(captured) if isinstance(model.encodings[layer.bias], Dense | Half)]
    if not layers:
        raise SettingError(
            "CorrectBias: no convolution or linear layer has a bias stored in floats; put FoldBatchNorm before, which "
            "gives layers one, or leave this step out"
        )
    return layers


def _reference(model: CompressedModel, network: nn.Module, example: Inputs, *, layers: list[Layer]) -> Watched:
    """Return the float network as a graph with the layers that `model` has."""
    float_model = CompressedModel.dense(network)
    if any(isinstance(edit, FoldedBatchNorm) for edit in own_edits(model.edits)):
        float_model, _ = fold_batchnorms(float_model, example)
    captured = capture(float_model.network, example)
    missing = {site for layer in layers for site in layer.sites} - set(captured.sites.values())
    shapes = {name: tensor.shape for name, tensor in float_model.network.state_dict().items()}
    wanted = {layer.bias: model.network.state_dict()[layer.bias].shape for layer in layers}
    other = [name for name, shape in wanted.items() if shapes.get(name) != shape]
    if missing or other:
        raise RecipeError(
            f"CorrectBias: the reference has no layer with bias {(other or [layers[0].bias])[0]!r} like that of the "
            "model; give Context(reference=...) the float network that was compressed"
        )
    return _watched(captured.module()[0], captured)
