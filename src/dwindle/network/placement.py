"""This file decides which values of a network get an activation quantizer, so that engines find integer kernels.

An engine runs a layer on integers where its weight is integer and the values on both its sides are quantized. So:

- what enters a convolution or linear layer with an integer weight is quantized;
- what leaves it is quantized once, after a ReLU or clamp that directly follows (the range ends at the clamp);
- a sum, product, concatenation, activation or average of quantized values is quantized with a range of its own;
- max-pooling, reshaping and the like move codes about and share the quantizer of what they move;
- what no such layer comes after stays float: the logits, unless they are asked for.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from torch import Tensor, fx

from dwindle.network.activations import CallSite
from dwindle.network.capture import Captured

MATMULS: Final = frozenset({"conv1d", "conv2d", "conv3d", "linear"})
CLAMPS: Final = frozenset({"relu", "relu6", "hardtanh", "clamp", "clamp_min"})
COMBINING: Final = frozenset({"add", "mul", "cat"})
"""Integer kernels with two or more inputs; with one input and a number they have none."""
ALONE: Final = CLAMPS | {
    "leaky_relu", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "mean",
}  # fmt: skip
MOVING: Final = frozenset({
    "max_pool1d", "max_pool2d", "max_pool3d", "flatten", "reshape", "view", "_unsafe_view", "unflatten",
    "squeeze", "unsqueeze", "permute", "transpose", "slice", "select", "channel_shuffle", "pixel_shuffle",
})  # fmt: skip
TRANSPARENT: Final = frozenset(
    {"dropout", "feature_dropout", "alpha_dropout", "clone", "alias", "detach", "contiguous"}
)
"""Nothing in eval mode: exporters drop them, so a quantizer belongs to the value before."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer with a bias: the names of its weight and bias, and every place where it is called, in graph order."""

    weight: str
    bias: str
    sites: tuple[CallSite, ...]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where activation quantizers go.

    Attributes:
        own: sites whose range is calibrated, in graph order.
        shared: site of a value that only moves codes -> the site in `own` whose quantizer it shares.
    """

    own: tuple[CallSite, ...]
    shared: dict[CallSite, CallSite]


def matmul_weights(captured: Captured) -> dict[str, CallSite]:
    """Return the weights of convolutions and linear layers in graph order, each with the site of its first use."""
    return {name: sites[0] for name, sites in matmul_calls(captured).items()}


def matmul_calls(captured: Captured) -> dict[str, list[CallSite]]:
    """Return every call of a convolution or linear layer by the name of its weight, in graph order of the first."""
    found: dict[str, list[CallSite]] = {}
    for node in captured.program.graph.nodes:
        name = _weight(captured, node)
        if name is not None:
            found.setdefault(name, []).append(captured.sites[node.name])
    return found


def multiplies_by(node: fx.Node, weight: fx.Node) -> bool:
    """Return whether `node` is a convolution or linear layer with this weight."""
    return _name(node) in MATMULS and node.args[1] is weight


def linear_layers(captured: Captured) -> dict[CallSite, str]:
    """Return every call of a linear layer with a weight of the network, in graph order, and that weight."""
    nodes = [node for node in captured.program.graph.nodes if _name(node) == "linear"]
    weights = {node: _weight(captured, node) for node in nodes}
    return {captured.sites[node.name]: name for node, name in weights.items() if name is not None}


def biased_layers(captured: Captured) -> list[Layer]:
    """Return the convolutions and linear layers that add a bias of the network, in graph order of their last calls."""
    found: dict[str, Layer] = {}
    for node in captured.program.graph.nodes:
        weight, bias = _weight(captured, node), _bias(captured, node)
        if weight is not None and bias is not None:
            earlier = found.pop(bias, None)
            calls = () if earlier is None else earlier.sites
            found[bias] = Layer(weight, bias, (*calls, captured.sites[node.name]))
    return list(found.values())


def between_quantized(captured: Captured, quantized: Collection[CallSite]) -> set[str]:
    """Return the weights of layers that, at every call, read a value at `quantized` and give one, clamped or not."""
    found: dict[str, bool] = {}
    for node in captured.program.graph.nodes:
        name = _weight(captured, node)
        if name is not None:
            source = _origin_before_moves(_input(node))
            end = next(iter(node.users)) if _only_clamped(node) else node
            is_between = {captured.sites.get(source.name), captured.sites.get(end.name)} <= set(quantized)
            found[name] = found.get(name, True) and is_between
    return {name for name, is_between in found.items() if is_between}


def place(captured: Captured, integer_weights: Collection[str], *, quantize_output: bool) -> Placement:
    """Return where quantizers go in a network whose layers with `integer_weights` are to run on integers."""
    nodes: list[fx.Node] = list(captured.program.graph.nodes)
    layers = {node for node in nodes if _weight(captured, node) in integer_weights}
    demanded = {_origin(_input(node)) for node in layers}
    if quantize_output:
        demanded |= {_origin(source) for node in nodes if node.op == "output" for source in node.all_input_nodes}
    useful = demanded if quantize_output else set[fx.Node]()
    before = _before(layers | useful)
    quantizer_of: dict[fx.Node, fx.Node] = {}
    fused: set[fx.Node] = set()  # its quantizer comes after the clamp that follows it
    for node in nodes:
        if node.name not in captured.sites or not _is_float(node):
            continue
        sources = [_origin_before_moves(source) for source in _tensor_inputs(node)]
        ready = bool(sources) and all(source in quantizer_of or source in fused for source in sources)
        if _name(node) in TRANSPARENT:
            continue
        if _name(node) in MOVING and len(sources) == 1 and sources[0] in quantizer_of:
            quantizer_of[node] = quantizer_of[sources[0]]
        elif node in demanded or (node in before and (node in layers or (ready and _has_kernel(node)))):
            if node not in demanded and _only_clamped(node):
                fused.add(node)
            else:
                quantizer_of[node] = node
    own = tuple(captured.sites[node.name] for node, owner in quantizer_of.items() if node is owner)
    shared = {captured.sites[n.name]: captured.sites[o.name] for n, o in quantizer_of.items() if n is not o}
    return Placement(own, shared)


def _name(node: fx.Node) -> str:
    """Return `conv2d` for `aten.conv2d.default`; empty for a node that is no operation of torch."""
    parts = str(node.target).split(".")
    return parts[1] if node.op == "call_function" and len(parts) > 1 and parts[0] == "aten" else ""


def _weight(captured: Captured, node: fx.Node) -> str | None:
    if _name(node) not in MATMULS or not isinstance(node.args[1], fx.Node):
        return None
    return captured.weights.get(node.args[1].name)


def _bias(captured: Captured, node: fx.Node) -> str | None:
    source = node.args[2] if _name(node) in MATMULS and len(node.args) > 2 else None
    return captured.weights.get(source.name) if isinstance(source, fx.Node) else None


def _input(node: fx.Node) -> fx.Node:
    return node.all_input_nodes[0]


def _tensor_inputs(node: fx.Node) -> list[fx.Node]:
    """Return the tensors that `node` reads, without the sizes that a view may be given."""
    return [source for source in node.all_input_nodes if isinstance(source.meta.get("val"), Tensor)]


def _origin_before_moves(node: fx.Node) -> fx.Node:
    """Return the value that `node` passes on unchanged."""
    while _name(node) in TRANSPARENT:
        node = _input(node)
    return node


def _origin(node: fx.Node) -> fx.Node:
    """Return the value whose codes `node` holds, perhaps at other places."""
    while _name(node) in TRANSPARENT or (_name(node) in MOVING and node.all_input_nodes):
        node = _input(node)
    return node


def _before(nodes: set[fx.Node]) -> set[fx.Node]:
    """Return what one of `nodes` is computed from, `nodes` in quantized outputs included."""
    found: set[fx.Node] = set()
    pending = list(nodes)
    while pending:
        for source in pending.pop().all_input_nodes:
            if source not in found:
                found.add(source)
                pending.append(source)
    return found


def _has_kernel(node: fx.Node) -> bool:
    return _name(node) in ALONE or (_name(node) in COMBINING and len(_tensor_inputs(node)) > 1)


def _only_clamped(node: fx.Node) -> bool:
    users = list(node.users)
    return len(users) == 1 and _name(users[0]) in CLAMPS


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()
