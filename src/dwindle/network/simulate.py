"""This file computes what a model with quantized activations answers: the reference that parity is measured against."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn

from dwindle.core.affine import fake_quantize
from dwindle.core.encoding import code_range
from dwindle.errors import NetworkError
from dwindle.network.activations import ActivationQuantizer, DynamicQuantizer, LevelQuantizer
from dwindle.network.capture import Captured, capture
from dwindle.network.compressed import CompressedModel
from dwindle.network.dynamic_lstm import quantized_dynamically, replace_lstms
from dwindle.network.few_bit_grid import RoundedInput
from dwindle.network.inputs import Inputs, as_tuple
from dwindle.network.insert import insert_before, insert_behind
from dwindle.network.recurrent import beside_lstms, dynamic_lstms


def simulate(model: CompressedModel, example: Inputs, *, captured: Captured | None = None) -> nn.Module:
    """Return a network in eval mode that answers like `model` on an engine: activations pass through their codes.

    Without activation quantizers it is a copy of the model's network. With them it is the captured graph, for inputs
    like `example` and any batch size that the graph accepts; it cannot be trained. `captured` is that graph, where it
    is known already.

    Raises:
        NetworkError: the network cannot be captured, or a quantizer belongs to a value that its graph does not have.
    """
    if not model.activations:
        return copy.deepcopy(model.network).eval()
    captured = capture(model.network, example) if captured is None else captured
    device = as_tuple(example)[0].device
    return Simulated(quantized_graph(model, captured).to(device), captured, example)


def quantized_graph(model: CompressedModel, captured: Captured) -> fx.GraphModule:
    """Return the captured graph of `model.network`, in which activations pass through their codes.

    Raises:
        NetworkError: a quantizer belongs to a value that the graph does not have.
    """
    unknown = set(model.activations) - set(captured.sites.values())
    if unknown:
        raise NetworkError(
            f"the graph has no value {min(unknown)}, for which the model has a quantizer; "
            "capture it with the example that the quantizing step had"
        )
    graph, sites = captured.module()
    replace_lstms(graph, dynamic_lstms(captured, model.encodings, model.activations))
    quantizers = beside_lstms(captured, model.activations)
    for node in list(graph.graph.nodes):
        site = sites.get(node.name)
        quantizer = None if site is None else quantizers.get(site)
        match quantizer:
            case ActivationQuantizer():
                insert_behind(graph, node, FakeQuantize(quantizer), name=f"quantize_{node.name}")
            case DynamicQuantizer():
                insert_before(graph, node, FakeQuantizeDynamically(), name=f"quantize_input_of_{node.name}")
            case LevelQuantizer():
                insert_before(graph, node, RoundedInput(quantizer), name=f"quantize_input_of_{node.name}")
            case None:
                pass
    graph.graph.lint()
    graph.recompile()
    return graph


class FakeQuantize(nn.Module):
    """Rounds a value to the codes of its quantizer and back; the gradient passes straight through inside its range."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, quantizer: ActivationQuantizer) -> None:
        super().__init__()
        self.n_bits, self.signed = quantizer.n_bits, quantizer.signed
        # Tensors, not numbers: torch may multiply by the reciprocal of a number, and ONNX divides.
        self.register_buffer("scale", torch.tensor(quantizer.scale, dtype=torch.float32), persistent=False)
        self.register_buffer("zero_point", torch.tensor(quantizer.zero_point, dtype=torch.int32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` as its codes say it; any shape."""
        return _straight_through(x, self.scale, self.zero_point, n_bits=self.n_bits, signed=self.signed)


class FakeQuantizeDynamically(nn.Module):
    """Rounds a value to 8-bit codes and back, on the grid that covers the whole batch."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` as its codes say it; any shape."""
        return quantized_dynamically(x)


class Simulated(nn.Module):
    """A captured graph in eval mode for good."""

    def __init__(self, graph: fx.GraphModule, captured: Captured, example: Inputs) -> None:
        super().__init__()
        self.graph = graph
        self.training = False
        self._shapes = [tuple(tensor.shape[1:]) for tensor in as_tuple(example)]
        self._batch_size = None if captured.dynamic_batch else as_tuple(example)[0].shape[0]

    def forward(self, *inputs: Tensor) -> Any:
        """Return the answer for `inputs`, each (batch, ...) shaped like the example.

        Raises:
            NetworkError: the inputs have other shapes than the example, or there are more or fewer of them.
        """
        n = inputs[0].shape[0] if inputs and self._batch_size is None else self._batch_size
        wanted, given = [(n, *shape) for shape in self._shapes], [tuple(tensor.shape) for tensor in inputs]
        if given != wanted:
            accepted, got = (" and ".join(map(str, shapes)) for shapes in (wanted, given))
            raise NetworkError(f"the captured graph accepts inputs of shape {accepted}, got {got or 'none'}")
        return self.graph(*inputs)

    def train(self, mode: bool = True) -> Simulated:  # ruff: ignore[boolean-default-value-positional-argument, boolean-type-hint-positional-argument]
        """Refuse to train; eval mode is what it has.

        Raises:
            NetworkError: `mode` is True.
        """
        if mode:
            raise NetworkError("a simulated network cannot be trained; train model.network before QuantizeStatic")
        return self


def _straight_through(x: Tensor, scale: Tensor, zero_point: Tensor, *, n_bits: int, signed: bool) -> Tensor:
    if not (torch.is_grad_enabled() and x.requires_grad):
        return fake_quantize(x, scale, zero_point, n_bits=n_bits, signed=signed)
    low, high = code_range(n_bits, signed=signed)
    inside = torch.clamp(x, (low - zero_point) * scale, (high - zero_point) * scale)
    rounded = fake_quantize(x.detach(), scale, zero_point, n_bits=n_bits, signed=signed)
    return inside + (rounded - inside).detach()
