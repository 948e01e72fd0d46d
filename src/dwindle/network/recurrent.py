"""This file finds the LSTM layers that an engine can run on integers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import fx

from dwindle.core.encoding import Encoding, Scaled, affine_of
from dwindle.core.granularity import PerTensor
from dwindle.network.activations import CallSite, DynamicQuantizer, Quantizer
from dwindle.network.capture import Captured
from dwindle.network.integer_weights import has_kernel

LSTM: Final = "aten.lstm.input"
"""The LSTM over sequences of one length; that of packed sequences has another name, and no kernel."""


@dataclass(frozen=True, slots=True)
class LstmCall:
    """One call of an LSTM.

    Attributes:
        node: its name in the captured graph.
        site: of its first output.
        layers: for each layer the names of its weights: input and recurrent, of the forward direction, then of the
            backward one; empty where one of them is not a weight of the network.
    """

    node: str
    site: CallSite
    layers: tuple[tuple[str, ...], ...]


def lstm_calls(captured: Captured) -> list[LstmCall]:
    """Return the calls of LSTM layers, in graph order; one with a projection has no layers."""
    found: list[LstmCall] = []
    for node in captured.program.graph.nodes:
        if str(node.target) != LSTM:
            continue
        sites = [captured.sites[user.name] for user in node.users if user.name in captured.sites]
        if sites:
            found.append(LstmCall(node.name, min(sites), _layers(node, captured.weights)))
    return found


def integer_layers(calls: Sequence[LstmCall], encodings: Mapping[str, Encoding]) -> dict[CallSite, tuple[bool, ...]]:
    """Tell for each layer of `calls`, all those of a network, whether the engine can run it on integers.

    It can where all weights of the layer are integer, scaled whole or by output, and no other layer reads them:
    onnxruntime (1.31) refuses integers that two layers read. Zero points must be zero where scales are by output.
    """
    readers = Counter(name for call in calls for layer in call.layers for name in set(layer))

    def can_run(layer: tuple[str, ...]) -> bool:
        return bool(layer) and max(readers[n] for n in layer) == 1 and _have_kernel([encodings[n] for n in layer])

    return {call.site: tuple(map(can_run, call.layers)) for call in calls}


def dynamic_lstms(
    captured: Captured, encodings: Mapping[str, Encoding], activations: Mapping[CallSite, Quantizer]
) -> dict[str, tuple[bool, ...]]:
    """Return the calls of LSTMs whose inputs and states are quantized at run time: node -> which layers are."""
    calls = lstm_calls(captured)
    layers = integer_layers(calls, encodings)
    return {call.node: layers[call.site] for call in calls if isinstance(activations.get(call.site), DynamicQuantizer)}


def dynamic_lstm_weights(
    captured: Captured, encodings: Mapping[str, Encoding], activations: Mapping[CallSite, Quantizer]
) -> frozenset[str]:
    """Return the names of the weights that the layers of `dynamic_lstms` multiply as integers."""
    found = dynamic_lstms(captured, encodings, activations)
    return frozenset(
        name
        for call in lstm_calls(captured)
        for layer, is_integer in zip(call.layers, found.get(call.node, ()), strict=False)
        for name in layer
        if is_integer
    )


def beside_lstms(captured: Captured, activations: Mapping[CallSite, Quantizer]) -> dict[CallSite, Quantizer]:
    """Return `activations` without those that are quantized inside an LSTM."""
    lstms = {call.site for call in lstm_calls(captured)}
    return {s: q for s, q in activations.items() if s not in lstms or not isinstance(q, DynamicQuantizer)}


def _layers(node: fx.Node, weights: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
    """Return the weights of each layer from the arguments of aten.lstm."""
    arguments: Any = node.args
    parts, has_biases, n_layers, is_bidirectional = arguments[2], arguments[3], arguments[4], arguments[7]
    n_parts, n_directions = (4 if has_biases else 2), (2 if is_bidirectional else 1)
    if len(parts) != n_parts * n_directions * n_layers:  # a projection has a weight more
        return ()
    matrices = [parts[i + j] for i in range(0, len(parts), n_parts) for j in range(2)]
    names = [weights.get(matrix.name, "") for matrix in matrices]
    rows = [tuple(names[i : i + 2 * n_directions]) for i in range(0, len(names), 2 * n_directions)]
    return tuple(row if all(row) else () for row in rows)


def _have_kernel(encodings: Sequence[Encoding]) -> bool:
    """Tell whether integers of these encodings can be the weights of one layer."""
    if not all(has_kernel(encoding) for encoding in encodings):
        return False
    return all(map(_is_whole, encodings)) or all(map(_is_centred, encodings))


def _is_whole(encoding: Encoding) -> bool:
    codes = affine_of(encoding)
    return codes is not None and codes.granularity == PerTensor() and not isinstance(encoding, Scaled)


def _is_centred(encoding: Encoding) -> bool:
    """Tell whether zero points, of signed codes, are zero, and no code would leave int8 with its sign turned."""
    codes = affine_of(encoding)
    if codes is None:
        return False
    middle = 0 if codes.signed else 1 << (codes.n_bits - 1)
    is_turned = isinstance(encoding, Scaled) and bool((encoding.factor < 0).any())
    lowest = int(codes.codes.min()) - middle if is_turned and codes.codes.numel() else 0
    return bool((codes.zero_point == middle).all()) and lowest > -(1 << 7)
