"""This file finds, for every weight, which value of a captured graph its layer reads and which it makes.

The value before a layer is what it reads, followed back through operations that only reshape or do nothing in eval
mode, so that it keeps its channels; the value after it is its output, followed on through the batch norm, bias and
activation function that come directly and alone after it. In a plain chain the one layer's value after is the next
layer's value before, so that their dimensions are the ID_(l-1) and ID_l of Abishek (2022, section 3.3.2); in branched
networks both are defined, too.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from torch import Tensor, fx

from dwindle.network.activations import CallSite
from dwindle.network.capture import Captured
from dwindle.network.placement import TRANSPARENT

CONVOLUTIONS: Final = frozenset(
    {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
)
RECURRENT: Final = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})
NORMS: Final = frozenset({"batch_norm", "_native_batch_norm_legit_no_training"})
ACTIVATIONS: Final = frozenset({
    "relu", "relu6", "hardtanh", "clamp", "clamp_min", "threshold", "leaky_relu", "prelu", "elu", "celu", "selu",
    "gelu", "silu", "mish", "hardswish", "hardsigmoid", "sigmoid", "log_sigmoid", "tanh", "softplus", "softmax",
    "log_softmax",
})  # fmt: skip
SWAPPING: Final = frozenset({"permute", "transpose", "t"})
RESHAPING: Final = SWAPPING | {
    "flatten", "reshape", "view", "_unsafe_view", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as",
}  # fmt: skip
CHANNELS_LAST: Final = frozenset({"linear", "layer_norm", "embedding"})
CHANNELS_FIRST: Final = CONVOLUTIONS | NORMS | {"group_norm", "instance_norm"}


@dataclass(frozen=True, slots=True)
class Value:
    """A value of a graph: where it is computed, and which of its axes count examples and channels."""

    site: CallSite
    batch_axis: int
    channel_axis: int


@dataclass(frozen=True, slots=True)
class Passage:
    """What one call of a layer reads and makes."""

    before: Value
    after: Value


def find_passages(captured: Captured) -> dict[str, list[Passage]]:
    """Return the passages through every layer, by the name of its weight, in graph order of the first.

    Every weight of a recurrent layer, of all its directions and stacked layers, passes the sequence that goes in and
    the sequence that comes out. A call is left out where the examples of a value cannot be told apart: where they share
    an axis with something else.
    """
    graph = _Graph(captured)
    found: dict[str, list[Passage]] = {}
    for node in captured.program.graph.nodes:
        names = list(graph.weights_of(node))
        passage = graph.passage(node) if names else None
        for name in names:
            if passage is not None:
                found.setdefault(name, []).append(passage)
    return found


def operation(node: fx.Node) -> str:
    """Return `conv2d` for `aten.conv2d.default`; empty for a node that is no operation of torch."""
    parts = str(node.target).split(".")
    return parts[1] if node.op == "call_function" and len(parts) > 1 and parts[0] == "aten" else ""


class _Graph:
    """A captured graph with the axes of its values."""

    def __init__(self, captured: Captured) -> None:
        self.captured = captured
        nodes: list[fx.Node] = list(captured.program.graph.nodes)
        inputs = set(captured.program.graph_signature.user_inputs)
        self.batch = next((str(_shape(node)[0]) for node in nodes if node.name in inputs and _shape(node)), "")
        self.parameters = set(captured.program.graph_signature.inputs_to_parameters)
        self.channel_axes: dict[fx.Node, int | None] = {}
        for node in nodes:
            self.channel_axes[node] = _channel_axis(node, self.channel_axes)

    def weights_of(self, node: fx.Node) -> Iterator[str]:
        """Yield the names of the weights that `node` multiplies with, where it is a layer."""
        name = operation(node)
        if name in CONVOLUTIONS or name == "linear":
            weights: Iterable[Any] = [node.args[1]]
        elif name in RECURRENT and str(node.target).endswith(".input"):
            weights = cast("Iterable[Any]", node.args[2])
        else:
            return
        for weight in weights:
            if isinstance(weight, fx.Node) and weight.name in self.captured.weights and len(_shape(weight)) > 1:
                yield self.captured.weights[weight.name]

    def passage(self, node: fx.Node) -> Passage | None:
        """Return what the layer of `node` reads and makes, None where examples cannot be told apart."""
        before, after = self._before(node), self._after(node)
        return None if before is None or after is None else Passage(before, after)

    def _before(self, node: fx.Node) -> Value | None:
        read = _source(node)
        if read is None:
            return None
        axis: int | None = 1 if operation(node) in CONVOLUTIONS else len(_shape(read)) - 1
        fallback, found = axis, self._value(read, axis)
        while operation(read) in TRANSPARENT | RESHAPING and (source := _source(read)) is not None:
            axis = None if axis is None else _moved_back(read, source, axis)
            read = source
            found = self._value(read, fallback if axis is None else axis) or found
        return found

    def _after(self, node: fx.Node) -> Value | None:
        if operation(node) in RECURRENT:
            sequence = next((user for user in node.users if _picks_first(user)), None)
            if sequence is None:
                return None
            node = sequence
        end = self._onward(node)
        value = self._value(end, len(_shape(end)) - 1)
        while value is None and (user := _only_user(end)) is not None and operation(user) in TRANSPARENT | RESHAPING:
            end = user
            value = self._value(end, len(_shape(end)) - 1)
        return value

    def _onward(self, node: fx.Node) -> fx.Node:
        """Return the last of the batch norms, biases and activations that come directly and alone after `node`."""
        end = cursor = node
        while (user := _only_user(cursor)) is not None:
            cursor = user
            if operation(user) in ACTIVATIONS | NORMS or _picks_first(user) or self._adds_parameter(user):
                end = user if _shape(user) else end
            elif operation(user) not in TRANSPARENT:
                break
        return end

    def _adds_parameter(self, node: fx.Node) -> bool:
        other = node.args[1] if len(node.args) > 1 else None
        return operation(node) == "add" and isinstance(other, fx.Node) and other.name in self.parameters

    def _value(self, node: fx.Node, otherwise: int) -> Value | None:
        """Return the value of `node`, whose channels lie on the axis `otherwise` where the graph does not tell."""
        shape, site = _shape(node), self.captured.sites.get(node.name)
        batch_axis = next((axis for axis, size in enumerate(shape) if str(size) == self.batch), None)
        if site is None or batch_axis is None or not node.meta["val"].is_floating_point():
            return None
        known = self.channel_axes[node]
        channel_axis = min(otherwise, len(shape) - 1) if known is None else known
        return Value(site, batch_axis, channel_axis)


def _only_user(node: fx.Node) -> fx.Node | None:
    """Return who alone reads `node`, as its first argument."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].args and users[0].args[0] is node else None


def _picks_first(node: fx.Node) -> bool:
    return node.target is operator.getitem and bool(node.args[1] == 0)


def _source(node: fx.Node) -> fx.Node | None:
    first = node.args[0] if node.args else None
    return first if isinstance(first, fx.Node) else None


def _shape(node: fx.Node) -> tuple[Any, ...]:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _channel_axis(node: fx.Node, known: Mapping[fx.Node, int | None]) -> int | None:
    """Return which axis of the value of `node` counts channels, None where that is not known."""
    n_axes, name, source = len(_shape(node)), operation(node), _source(node)
    if n_axes < 2:
        return None
    if name in CHANNELS_LAST or (source is not None and operation(source) in RECURRENT):
        return n_axes - 1
    if name in CHANNELS_FIRST or (
        node.target is operator.getitem and source is not None and operation(source) in NORMS
    ):
        return 1
    if n_axes == 2:
        return 1
    if name in RESHAPING and source is not None:
        axis = known[source]
        return None if axis is None else _moved(node, source, axis)
    alike = (known[other] for other in node.all_input_nodes if len(_shape(other)) == n_axes)
    return next((axis for axis in alike if axis is not None), None)


def _moved(node: fx.Node, source: fx.Node, axis: int) -> int | None:
    """Return where `axis` of `source` is in `node`, which reshapes it; None where it is lost."""
    order = _order(node, source)
    if order is not None:
        return order.index(axis)
    made, read = list(map(str, _shape(node))), list(map(str, _shape(source)))
    if made[: axis + 1] == read[: axis + 1]:
        return axis
    return len(made) - 1 if axis == len(read) - 1 and made[-1] == read[-1] else None


def _moved_back(node: fx.Node, source: fx.Node, axis: int) -> int | None:
    """Return where `axis` of `node`, which reshapes `source`, is in `source`; None where it is not there."""
    order = _order(node, source)
    if order is not None:
        return order[axis]
    return axis if operation(node) in TRANSPARENT else _moved(source, node, axis)


def _order(node: fx.Node, source: fx.Node) -> list[int] | None:
    """Return which axis of `source` each axis of `node` is, where it swaps axes."""
    n_axes, name = len(_shape(source)), operation(node)
    if name == "permute":
        return [int(axis) % n_axes for axis in cast("list[int]", node.args[1])]
    if name not in SWAPPING:
        return None
    first, second = (0, 1) if name == "t" else (int(cast("int", axis)) % n_axes for axis in node.args[1:3])
    order = list(range(n_axes))
    order[first], order[second] = second, first
    return order
