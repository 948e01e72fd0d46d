"""This file follows channels through a captured graph, from who computes them to who reads them.

Every value gets a twin of the same shape that says which channel each of its elements belongs to. Operations that only
move elements are run on the twins themselves; what mixes elements of one channel, such as a mean over time, leaves them
with that channel. Channels are written as random numbers, so that a mixture of two is told from a third.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final, cast

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from dwindle.network.inputs import Inputs, as_tuple

NONE: Final = -1
"""The number of what belongs to no channel."""
RECURRENT: Final = ("aten.lstm.input", "aten.gru.input", "aten.rnn_tanh.input", "aten.rnn_relu.input")
_CONVOLUTIONS: Final = ("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default")
_AS_IT_IS: Final = frozenset({
    "aten.dropout.default", "aten.feature_dropout.default", "aten.alpha_dropout.default", "aten.clone.default",
    "aten.contiguous.default", "aten.detach.default", "aten.alias.default", "aten._to_copy.default",
    "aten.to.dtype", "aten.to.dtype_layout", "aten.to.device",
})  # fmt: skip
_RUN: Final = frozenset({
    "aten.select.int", "aten.slice.Tensor", "aten.index.Tensor", "aten.index_select.default", "aten.gather.default",
    "aten.transpose.int", "aten.permute.default", "aten.movedim.int", "aten.t.default", "aten.flip.default",
    "aten.view.default", "aten.reshape.default", "aten._unsafe_view.default", "aten.flatten.using_ints",
    "aten.unflatten.int", "aten.unsqueeze.default", "aten.squeeze.default", "aten.squeeze.dim", "aten.squeeze.dims",
    "aten.expand.default", "aten.cat.default", "aten.stack.default", "aten.unbind.int", "aten.chunk.default",
    "aten.split.Tensor", "aten.split_with_sizes.default",
    "aten.mean.dim", "aten.amax.default", "aten.amin.default", "aten.max.dim", "aten.min.dim",
    "aten.avg_pool1d.default", "aten.adaptive_avg_pool1d.default", "aten.max_pool1d.default",
})  # fmt: skip
_SUM: Final = "aten.sum.dim_IntList"
_NORM: Final = "aten.batch_norm.default"
_NEAR: Final = 1e-11
_NO_WEIGHT: Final = "they are multiplied by something that is no weight of the network"


@dataclass(frozen=True, slots=True)
class Read:
    """A tensor of the network along whose axis channels lie: their numbers by index; `NONE` for an index of none."""

    tensor: str
    axis: int
    channels: tuple[int, ...]
    role: str


Source = tuple[tuple[tuple[int, ...], ...], ...]
"""What a call computes: for each output (a tensor) the numbers along its last axis; one row of them for all, or one for
each index of the first axis."""


@dataclass(eq=False)
class Flow:
    """What became of channels: who reads them, and why some could not be followed (channel -> reason)."""

    reads: list[Read] = field(default_factory=list[Read])
    lost: dict[int, str] = field(default_factory=dict[int, str])


def follow(
    graph: fx.GraphModule, example: Inputs, sources: Mapping[str, Source], *, names: Mapping[str, str], n_channels: int
) -> Flow:
    """Return where the channels that `sources` (nodes by name) compute are read.

    Args:
        graph: with weights as attributes; it is run on the example.
        example: one input batch.
        sources: node -> what it computes.
        names: attribute -> name of the tensor of the network; tied ones have one name.
        n_channels: channels are numbered below this.
    """
    runner = _Runner(graph, sources, names, n_channels=n_channels)
    with torch.no_grad():
        runner.run(*as_tuple(example))
    return runner.flow


class _LostError(Exception):
    """Channels cannot be followed any further; the argument says why."""


class _Runner(fx.Interpreter):
    """Runs a graph on values and on the channels of these values."""

    def __init__(
        self, graph: fx.GraphModule, sources: Mapping[str, Source], names: Mapping[str, str], *, n_channels: int
    ) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self._sources = sources
        self._names = names
        generator = torch.Generator().manual_seed(0)
        self._marks = torch.rand(n_channels, generator=generator, dtype=torch.float64) + 1.0
        self._sorted, self._order = self._marks.sort()
        self._twins: dict[fx.Node, Any] = {}
        self.flow = Flow()

    def run_node(self, n: fx.Node) -> Any:
        """Run one operation, and find the channels of what it returns."""
        value = super().run_node(n)
        marked = [node for node in n.all_input_nodes if self._twins.get(node) is not None]
        twin: Any = None
        if marked:
            try:
                twin = self._passed_on(n, value)
            except _LostError as error:
                for node in marked:
                    self._lose(self._twins[node], str(error))
        if n.name in self._sources:
            twin = self._computed(self._sources[n.name], value)
        self._twins[n] = twin
        return value

    def _computed(self, source: Source, value: Any) -> tuple[Tensor, ...]:
        twins: list[Tensor] = []
        for rows, output in zip(source, cast("Sequence[Tensor]", value), strict=True):
            marks = self._marks[torch.tensor(rows)]  # (rows, channels)
            shaped = marks.reshape(len(rows), *[1] * (output.ndim - 2), marks.shape[1])
            twins.append(shaped.expand(output.shape).contiguous())
        return tuple(twins)

    def _passed_on(self, node: fx.Node, value: Any) -> Any:
        """Return the channels of what `node` returns, given marked arguments; note who reads them."""
        name = str(node.target)
        if node.op == "output":
            raise _LostError("its channels are outputs of the network")
        if self._is_read(node, name):
            return None
        if node.target is operator.getitem:
            return self._twins[cast("fx.Node", node.args[0])][cast("int", node.args[1])]
        if name == _NORM:
            return self._normalized(node)
        return self._twins[node.all_input_nodes[0]] if name in _AS_IT_IS else self._run_on_twins(node, name, value)

    def _is_read(self, node: fx.Node, name: str) -> bool:
        """Tell whether `node` mixes all channels into new values; note where its weight reads them."""
        if name == "aten.linear.default":
            self._read(node, [self._weight(node, 1)], x_axis=-1)
        elif name in _CONVOLUTIONS and (len(node.args) < 7 or node.args[6] == 1):
            self._read(node, [self._weight(node, 1)], x_axis=1)
        elif name in RECURRENT:
            self._read_by_recurrence(node)
        else:
            return False
        return True

    def _run_on_twins(self, node: fx.Node, name: str, value: Any) -> Any:
        target: Any = torch.ops.aten.mean.dim if name == _SUM else node.target
        if name == _SUM or name in _RUN:
            arguments, held = map_arg((node.args, node.kwargs), self._twin_or_value)
            settings = {key: setting for key, setting in held.items() if key != "dtype"}
            twin = target(*arguments, **settings)
            return tuple(twin) if isinstance(twin, list) else twin
        if torch.Tag.pointwise in getattr(target, "tags", ()) and isinstance(value, Tensor):
            return self._merged(node)
        raise _LostError(f"they reach {name.removeprefix('aten.')}, through which they cannot be followed")

    def _twin_or_value(self, node: fx.Node) -> Any:
        twin = self._twins.get(node)
        value = self.env[node]
        if twin is None and isinstance(value, Tensor) and value.is_floating_point():
            return torch.full(value.shape, torch.nan, dtype=torch.float64)
        return value if twin is None else twin

    def _merged(self, node: fx.Node) -> Tensor:
        """Return the channels of an operation on elements at the same place, which must not be of two."""
        tensors = [t for n in node.all_input_nodes if isinstance(t := self._twin_or_value(n), Tensor)]
        floats = [t if t.is_floating_point() else torch.full(t.shape, torch.nan, dtype=torch.float64) for t in tensors]
        first, *others = torch.broadcast_tensors(*floats)
        for other in others:
            if bool((~first.isnan() & ~other.isnan() & (first != other)).any()):
                raise _LostError("they are added to or multiplied by other such channels")
            first = torch.where(first.isnan(), other, first)
        return first

    def _read(self, node: fx.Node, tensors: Sequence[str], *, x_axis: int) -> None:
        channels = self._along(node, x_axis)
        self.flow.reads.extend(Read(tensor, 1, channels, "input") for tensor in tensors)

    def _read_by_recurrence(self, node: fx.Node) -> None:
        states = [node.args[1]] if isinstance(node.args[1], fx.Node) else cast("list[fx.Node]", node.args[1])
        if any(self._twins.get(state) is not None for state in states):
            raise _LostError("they are the first state of another recurrent layer")
        weights, n_layers, is_bidirectional = cast("tuple[list[fx.Node], int, bool]", itemgetter(2, 4, 7)(node.args))
        n_each = len(weights) // (n_layers * (2 if is_bidirectional else 1))
        readers = [weights[0], weights[n_each]] if is_bidirectional else [weights[0]]
        self._read(node, [self._name(reader) for reader in readers], x_axis=-1)

    def _normalized(self, node: fx.Node) -> Any:
        channels = self._along(node, 1)
        for place, role in ((1, "norm"), (2, "norm"), (3, "statistic"), (4, "statistic")):
            if node.args[place] is not None:
                self.flow.reads.append(Read(self._weight(node, place), 0, channels, role))
        return self._twins[cast("fx.Node", node.args[0])]

    def _weight(self, node: fx.Node, place: int) -> str:
        if self._twins.get(cast("fx.Node", node.args[0])) is None:
            raise _LostError(_NO_WEIGHT)
        return self._name(cast("fx.Node", node.args[place]))

    def _name(self, weight: fx.Node) -> str:
        name = self._names.get(str(weight.target)) if weight.op == "get_attr" else None
        if name is None:
            raise _LostError(_NO_WEIGHT)
        return name

    def _along(self, node: fx.Node, axis: int) -> tuple[int, ...]:
        """Return the channels along an axis of the first argument; they must not depend on the other axes."""
        twin: Tensor = self._twins[cast("fx.Node", node.args[0])]
        rows = twin.movedim(axis, -1).reshape(-1, twin.shape[axis])
        if not torch.equal(rows.nan_to_num(), rows[:1].nan_to_num().expand(rows.shape)):
            raise _LostError("which of them is read where differs from place to place")
        return self._numbers(rows[0])

    def _numbers(self, marks: Tensor) -> tuple[int, ...]:
        """Return the numbers of channels by their marks.

        Raises:
            _LostError: a mark is a mixture.
        """
        marks = marks.flatten()
        inside = ~marks.isnan()
        place = torch.searchsorted(self._sorted, marks[inside] - _NEAR).clamp_(max=len(self._sorted) - 1)
        if bool(((self._sorted[place] - marks[inside]).abs() > _NEAR).any()):
            raise _LostError("several of them are mixed before they are read")
        numbers = torch.full(marks.shape, NONE)
        numbers[inside] = self._order[place]
        return tuple(numbers.tolist())

    def _lose(self, twin: Any, reason: str) -> None:
        for one in twin if isinstance(twin, tuple) else (twin,):
            if one is None:
                continue
            marks = one[~one.isnan()].unique()
            try:
                numbers = self._numbers(marks)
            except _LostError:  # a mixture: nobody knows whose, so all are lost
                numbers = tuple(range(len(self._marks)))
            self.flow.lost.update(dict.fromkeys(numbers, reason) | self.flow.lost)
