"""This file computes what an LSTM answers whose layers run on integers, as DynamicQuantizeLSTM of onnxruntime does.

For each layer and direction, with [.] the rounding to unsigned 8-bit codes on the grid that covers the values of the
whole batch, drawn as ONNX DynamicQuantizeLinear does:

    i, f, g, o = [x_t] W^T + [h_(t-1)] R^T + b,    the grid of x drawn once over all steps, that of h at every step
    c_t = sigmoid(f) c_(t-1) + sigmoid(i) tanh(g),    h_t = sigmoid(o) tanh(c_t)

W and R are integers times scales; gates and states are floats. With one thread the engine draws the grid of h over the
whole batch, as here; with more it divides the batch and draws one for each part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from dwindle.core.affine import dynamic_qparams, fake_quantize
from dwindle.network.insert import add_module


class DynamicLstm(nn.Module):
    """Stands for aten.lstm, whose arguments it takes, where the layers named by `is_integer` run on integers.

    Weights are floats on the grid of their codes. Gradients pass straight through the rounding of inputs and states.
    """

    def __init__(self, is_integer: Sequence[bool]) -> None:
        super().__init__()
        self.is_integer = tuple(is_integer)

    def forward(  # ruff: ignore[too-many-arguments, too-many-positional-arguments] (those of aten.lstm)
        self,
        x: Tensor,
        states: Sequence[Tensor],
        weights: Sequence[Tensor],
        has_biases: bool,  # ruff: ignore[boolean-type-hint-positional-argument]
        n_layers: int,
        dropout: float,
        is_training: bool,  # ruff: ignore[boolean-type-hint-positional-argument]
        is_bidirectional: bool,  # ruff: ignore[boolean-type-hint-positional-argument]
        is_batch_first: bool,  # ruff: ignore[boolean-type-hint-positional-argument]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the outputs, and the last states and cells (layers * directions, batch, hidden)."""
        n_directions, n_parts = 1 + is_bidirectional, 4 if has_biases else 2
        x = x.transpose(0, 1) if is_batch_first else x
        ends: list[tuple[Tensor, Tensor]] = []
        for layer in range(n_layers):
            first, last = layer * n_directions, (layer + 1) * n_directions
            parts, start = weights[first * n_parts : last * n_parts], (states[0][first:last], states[1][first:last])
            if self.is_integer[layer]:
                x, *end = integer_layer(x, start, [parts[i : i + n_parts] for i in range(0, len(parts), n_parts)])
            else:
                x, *end = torch.lstm(
                    x,
                    start,
                    tuple(parts),
                    has_biases=has_biases,
                    num_layers=1,
                    dropout=0.0,
                    train=is_training,
                    bidirectional=is_bidirectional,
                    batch_first=False,
                )
            if layer + 1 < n_layers:
                x = functional.dropout(x, dropout, training=is_training)
            ends.append((end[0], end[1]))
        h, c = (torch.cat(parts) for parts in zip(*ends, strict=True))
        return x.transpose(0, 1) if is_batch_first else x, h, c


def replace_lstms(graph: fx.GraphModule, lstms: Mapping[str, tuple[bool, ...]]) -> None:
    """Replace, in place, calls of LSTMs by what they answer on integers: `lstms` tells which layers of which node."""
    for node in [node for node in graph.graph.nodes if any(lstms.get(node.name, ()))]:
        name = add_module(graph, f"integers_of_{node.name}", DynamicLstm(lstms[node.name]))
        with graph.graph.inserting_before(node):
            replacement = graph.graph.call_module(name, node.args, node.kwargs)
        node.replace_all_uses_with(replacement)
        graph.graph.erase_node(node)


def integer_layer(
    x: Tensor, start: tuple[Tensor, Tensor], directions: Sequence[Sequence[Tensor]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the outputs (time, batch, directions * hidden), last states and last cells of one layer.

    Args:
        x: (time, batch, inputs).
        start: first states and cells, each (directions, batch, hidden).
        directions: for each direction its input weights (4 * hidden, inputs), recurrent weights (4 * hidden, hidden)
            and, if it has them, both biases; gates in torch's order: input, forget, cell, output.
    """
    rounded = quantized_dynamically(x)
    starts = zip(*start, strict=True)
    found = [
        _direction(rounded, (h, c), weights, is_backward=i == 1)
        for i, ((h, c), weights) in enumerate(zip(starts, directions, strict=True))
    ]
    outputs, states, cells = zip(*found, strict=True)
    return torch.cat(outputs, dim=2), torch.stack(states), torch.stack(cells)


def quantized_dynamically(x: Tensor) -> Tensor:
    """Return what 8-bit codes on the grid that covers all of `x` leave of it; gradients pass straight through."""
    held = x.detach()
    scale, zero_point = dynamic_qparams(held)
    rounded = fake_quantize(held, scale, zero_point, n_bits=8, signed=False)
    return x + (rounded - held) if torch.is_grad_enabled() and x.requires_grad else rounded


def _direction(
    x: Tensor, start: tuple[Tensor, Tensor], weights: Sequence[Tensor], *, is_backward: bool
) -> tuple[Tensor, Tensor, Tensor]:
    h, c = start
    inputs = x @ weights[0].T
    bias = weights[2] + weights[3] if len(weights) == 4 else None
    outputs: list[Tensor] = []
    for step in inputs.flip(0) if is_backward else inputs:
        gates = step + quantized_dynamically(h) @ weights[1].T
        i, f, g, o = (gates if bias is None else gates + bias).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        outputs.append(h)
    return torch.stack(outputs[::-1] if is_backward else outputs), h, c
