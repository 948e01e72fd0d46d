"""This file estimates from an ONNX graph alone what an engine must hold: its weights, and the tensors alive at once.

Nodes run one by one in the order of the file, for one example or the batch that the file fixes. A tensor lives from
the node that makes it to the last one that reads it; inputs live from the start, outputs to the end. The figure is the
largest sum of living tensors.

- Constants are weights, not activations. They count as the first node that needs an example reads them: decoded, but
  as integers where they go through a DequantizeLinear.
- A node with quantizers around it (all its tensors come from DequantizeLinear, its result goes to QuantizeLinear)
  computes with integers, so these tensors count in the type of their codes; any other float tensor counts as floats.
  What only moves values (a transpose, a slice, zeros at the edges) moves codes where it reads them.
- Views take no memory of their own, nor do activation functions and batch norms whose input nothing else reads: engines
  compute them in place or within the layer before.
- Not counted: workspaces (im2col, padding), states inside recurrent layers, the engine's own code and tables.

An arena is planned from the same lives (`bench/arena.py`), as an engine plans it (`bench/planner.py`): with its
workspaces, its alignment, and the gaps between tensors.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import onnx
from onnx import AttributeProto

from dwindle.bench.arena import Block, living_bytes
from dwindle.bench.graph_shapes import UnknownShapeError, Values, bytes_of_type, kernel_of, values_of
from dwindle.bench.planner import MICROCONTROLLER, Planner
from dwindle.bench.workspace import Kernel
from dwindle.errors import MeasurementError

VIEWS: Final = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
IN_PLACE: Final = frozenset({
    "BatchNormalization", "Clip", "Dropout", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "PRelu",
    "Relu", "Selu", "Sigmoid", "Softplus", "Tanh",
})  # fmt: skip
"""Elementwise, one result of the shape and type of the first input."""
MOVES: Final = frozenset({"DepthToSpace", "Expand", "Pad", "Slice", "SpaceToDepth", "Split", "Tile", "Transpose"})
"""They move values and change none, so they move codes as well."""
_WHOLE: Final = frozenset({"Expand", "Pad", "Slice", "Tile"})
"""Where the result has the shape of the input, they did nothing."""
SUMS: Final = frozenset({"Add", "Div", "Mul", "Sub"})
_RANDOM: Final = frozenset({
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
})  # fmt: skip
_OF_SHAPES: Final = frozenset({"Shape", "Size"})
"""With one example and all shapes known, their results are constants, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphMemory:
    """What a graph asks for, in bytes; None where the file does not tell.

    Attributes:
        weight_bytes: constants as an engine computes with them.
        activation_bytes: the largest sum of tensors alive at once.
        arena_bytes: what the planner laid them into.
        unknown: why a figure is None.
    """

    weight_bytes: int | None
    activation_bytes: int | None
    arena_bytes: int | None = None
    unknown: str = ""


def memory_of_graph(model: onnx.ModelProto, *, planner: Planner = MICROCONTROLLER) -> GraphMemory:
    """Return what the graph asks for; `model` is changed: the values of its weights and its inner shapes go.

    Args:
        model: any; weights may lie in other files.
        planner: the engine that lays the arena.

    Raises:
        MeasurementError: the model has no graph.
    """
    if not model.graph.output:
        raise MeasurementError("this ONNX model has no outputs; export it again")
    try:
        graph = graph_of(model)
    except UnknownShapeError as error:
        return GraphMemory(weight_bytes=None, activation_bytes=None, unknown=str(error))
    reasons: list[str] = []
    figures: list[int | None] = []
    for figure in (graph.weight_bytes, graph.peak_bytes, lambda: graph.arena_bytes(planner)):
        try:
            figures.append(figure())
        except UnknownShapeError as error:
            figures.append(None)
            reasons.append(str(error))
    return GraphMemory(
        weight_bytes=figures[0],
        activation_bytes=figures[1],
        arena_bytes=figures[2],
        unknown="; ".join(dict.fromkeys(reasons)),
    )


def graph_of(model: onnx.ModelProto) -> Graph:
    """Return the graph of `model`, with one example; `model` is changed, as by `memory_of_graph`.

    Raises:
        UnknownShapeError: its shapes cannot be inferred, or a node is none that can be followed.
    """
    weights = {t.name: bytes_of_type(t.data_type, t.dims) for t in model.graph.initializer}
    values = values_of(model, weights)
    return Graph(model, {*weights, *(t.name for t in model.graph.initializer)}, values)


@dataclass(frozen=True, slots=True, eq=False)
class GraphNode:
    """A node; `inputs` without the constants, which stand in `constants`; `first` is empty where it is one of them.

    `kernel` is None where the shapes of its tensors are not known; `all_inputs` has empty names as the file does.
    """

    op: str
    first: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]
    kernel: Kernel | None = None
    all_inputs: tuple[str, ...] = ()


class Graph:
    """The nodes that need an example, what they read, and how many bytes each value has."""

    def __init__(self, model: onnx.ModelProto, constants: Collection[str], values: Values) -> None:
        graph = model.graph
        self.values = values
        self._constants = set(constants)
        self._codes: dict[str, tuple[str, ...]] = {}
        self._code_of: dict[str, str] = {}
        self.inputs = {value.name for value in graph.input} - self._constants
        self.nodes = tuple(self._needed(graph, {(f.domain, f.name) for f in model.functions}))
        self.outputs = {value.name for value in graph.output} - self._constants
        self._constant_outputs = {value.name for value in graph.output} & self._constants
        self.readers: dict[str, list[int]] = defaultdict(list)
        for position, node in enumerate(self.nodes):
            for name in dict.fromkeys(node.inputs):
                self.readers[name].append(position)

    def _needed(self, graph: onnx.GraphProto, functions: Collection[tuple[str, str]]) -> Iterator[GraphNode]:
        made = set(self.inputs)
        for node in graph.node:
            _require_plain(node, functions)
            inputs = tuple(filter(None, node.input))
            outputs = tuple(filter(None, node.output))
            varying = tuple(name for name in inputs if name not in self._constants)
            self._follow_codes(node)
            if missing := [name for name in varying if name not in made]:
                raise UnknownShapeError(f"{node.op_type!r} reads {missing[0]!r}, which nothing before it makes")
            if node.op_type in _OF_SHAPES or (not varying and node.op_type not in _RANDOM):
                self._constants.update(outputs)
                if node.op_type == "DequantizeLinear":
                    self._codes.update(dict.fromkeys(outputs, inputs))
                continue
            made.update(outputs)
            constants = tuple(name for name in inputs if name in self._constants)
            first = inputs[0] if inputs[:1] == varying[:1] else ""
            kernel = kernel_of(node, self.values.shapes)
            yield GraphNode(node.op_type, first, varying, constants, outputs, kernel, tuple(node.input))

    def _follow_codes(self, node: onnx.NodeProto) -> None:
        """Note of which codes the outputs of `node` are the values: it decodes them, or only hands them on."""
        if node.op_type == "DequantizeLinear" and node.input:
            self._code_of.update(dict.fromkeys(node.output, node.input[0]))
        elif node.op_type in VIEWS | MOVES | {"MaxPool"} and node.input and node.input[0] in self._code_of:
            self._code_of.update(dict.fromkeys(node.output, self._code_of[node.input[0]]))

    def code_bits(self, name: str) -> int | None:
        """Return the bits of a code where the value is decoded from codes; None where it is not."""
        return self.values.bits_of(self._code_of[name]) if name in self._code_of else None

    def bytes_of(self, name: str) -> int:
        """Return the bytes of a value as it is typed."""
        if name not in self.values.sizes:
            raise UnknownShapeError(f"the shape of {name!r} does not follow from the graph")
        return self.values.sizes[name]

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Return the shape of a value."""
        if name not in self.values.shapes:
            raise UnknownShapeError(f"the shape of {name!r} does not follow from the graph")
        return self.values.shapes[name]

    def weight_bytes(self) -> int:
        """Return the bytes of the constants that nodes read, integers where they are dequantized."""
        read = {name for node in self.nodes for name in node.constants} | self._constant_outputs
        held = {part for name in read for part in self._codes.get(name, (name,))}
        return sum(self.bytes_of(name) for name in held)

    def peak_bytes(self) -> int:
        """Return the largest sum of tensors alive at once."""
        return living_bytes(self.blocks())

    def arena_bytes(self, planner: Planner) -> int:
        """Return the bytes of the arena that `planner` lays."""
        return planner.lay(self.blocks(planner), alignment=planner.alignment).n_bytes

    def blocks(self, planner: Planner | None = None) -> tuple[Block, ...]:
        """Return what lies in memory and when: tensors alone, or as `planner` says; a node is at step 2 x its number.

        The step between two nodes belongs to zeros that are written around the input of the second.
        """
        held = held_bytes(self, codes_in=planner is not None and planner.codes_in)
        holders = _shared(self, held, sums_in_place=planner is not None and planner.sums_in_place)
        lives: dict[str, tuple[int, int, int]] = {}
        for name, (birth, death) in self._lives(planner).items():
            root = holders[name]
            first, last, size = lives.get(root, (birth, death, 0))
            lives[root] = (min(first, birth), max(last, death), max(size, held[name]))
        tensors = [Block(name=n, n_bytes=size, birth=b, death=d) for n, (b, d, size) in lives.items()]
        return (*tensors, *(self._workspaces(planner, held) if planner else ()))

    def _workspaces(self, planner: Planner, held: Mapping[str, int]) -> Iterator[Block]:
        for position, node in enumerate(self.nodes):
            if node.kernel is None or not node.first:
                continue
            n_elements = math.prod(self.values.shapes[node.first])
            kernel = replace(node.kernel, element_bytes=held[node.first] / max(n_elements, 1))
            step, name = 2 * position, f"{node.op} {position}"
            if n_bytes := planner.workspace(kernel):
                yield Block(name=name, n_bytes=n_bytes, birth=step, death=step)
            if planner.pads_apart and kernel.padded:
                n_bytes = math.ceil(kernel.padded * kernel.element_bytes)
                yield Block(name=f"input of {name}", n_bytes=n_bytes, birth=step - 1, death=step)

    def _lives(self, planner: Planner | None) -> Mapping[str, tuple[int, int]]:
        births = dict.fromkeys(self.inputs, 0) | {
            name: 2 * position for position, node in enumerate(self.nodes) for name in node.outputs
        }
        last = 2 * len(self.nodes)
        stay = self.outputs | self.inputs if planner is not None and planner.keeps_inputs else self.outputs
        return {
            name: (birth, last if name in stay else self._death(name, planner, birth=birth))
            for name, birth in births.items()
        }

    def _death(self, name: str, planner: Planner | None, *, birth: int) -> int:
        if not self.readers.get(name):
            return birth
        position = self.readers[name][-1]
        node = self.nodes[position]
        is_copied = planner is not None and planner.pads_apart and node.kernel is not None and node.kernel.padded > 0
        return max(2 * position - (1 if is_copied and node.inputs == (name,) else 0), birth)


def held_bytes(graph: Graph, *, codes_in: bool = False) -> Mapping[str, int]:
    """Return the bytes that each value takes: those of its codes where a node computes with integers."""
    becomes = _quantized_later(graph)
    decoded: dict[str, int] = {}
    computed: set[str] = set()
    for node in graph.nodes:
        goes_on = all(name in becomes for name in node.outputs)
        if node.op == "DequantizeLinear" and node.first:
            decoded.update(dict.fromkeys(node.outputs, graph.bytes_of(node.first)))
        elif node.op in VIEWS | MOVES and node.first in decoded and not goes_on:
            share = decoded[node.first] / max(graph.bytes_of(node.first), 1)
            decoded.update({name: math.ceil(share * graph.bytes_of(name)) for name in node.outputs})
        elif goes_on and node.inputs and all(name in computed or name in decoded for name in node.inputs):
            computed.update(node.outputs)
    names = (*sorted(graph.inputs), *(name for node in graph.nodes for name in node.outputs))
    of_codes = {name: graph.bytes_of(becomes[name]) for name in computed} | _never_floats(graph, decoded, computed)
    if codes_in:
        of_codes |= {name: graph.bytes_of(becomes[name]) for name in graph.inputs if name in becomes}
    return {name: of_codes[name] if name in of_codes else graph.bytes_of(name) for name in names}


def _never_floats(graph: Graph, decoded: Mapping[str, int], computed: Collection[str]) -> dict[str, int]:
    """Return the bytes as codes of each decoded value that only nodes read which compute with integers."""
    found: dict[str, int] = {}
    for node in reversed(graph.nodes):
        for name in node.outputs:
            readers = [graph.nodes[position] for position in graph.readers.get(name, ())]
            is_integer = all(all(o in computed or o in found for o in reader.outputs) for reader in readers)
            if name in decoded and name not in graph.outputs and is_integer:
                found[name] = decoded[name]
    return found


def _quantized_later(graph: Graph) -> Mapping[str, str]:
    """Return, for each value that only a quantizer reads (through activation functions), the name of its codes."""
    found: dict[str, str] = {}
    for node in reversed(graph.nodes):
        name = node.first
        if not name or not node.outputs or name in graph.outputs or len(graph.readers[name]) != 1:
            continue
        if node.op == "QuantizeLinear":
            found[name] = node.outputs[0]
        elif node.op in VIEWS | IN_PLACE and node.outputs[0] in found:
            found[name] = found[node.outputs[0]]
    return found


def _shared(graph: Graph, held: Mapping[str, int], *, sums_in_place: bool) -> Mapping[str, str]:
    """Return for each value the name under which its memory goes: the first value that lay there."""
    holder = {name: name for name in held}
    members: dict[str, list[str]] = {name: [name] for name in held}
    for position, node in enumerate(graph.nodes):
        if len(node.outputs) != 1:
            continue
        result = node.outputs[0]
        is_sum = sums_in_place and node.op in SUMS
        for candidate in node.inputs if is_sum else filter(None, (node.first,)):
            source = holder[candidate]
            is_read_later = any(p > position for name in members[source] for p in graph.readers.get(name, ()))
            is_free = not is_read_later and not (graph.inputs | graph.outputs) & set(members[source])
            is_same = held[result] == held[candidate]
            is_view = node.op in VIEWS or (node.op in _WHOLE | {"DequantizeLinear"} and is_same)
            in_place = is_sum or node.op in IN_PLACE | {"QuantizeLinear"}
            if is_view or (in_place and is_free and is_same):
                holder[result] = source
                members[source].append(result)
                break
    return holder


def _require_plain(node: onnx.NodeProto, functions: Collection[tuple[str, str]]) -> None:
    if any(a.type in {AttributeProto.GRAPH, AttributeProto.GRAPHS} for a in node.attribute):
        raise UnknownShapeError(f"{node.op_type!r} holds a graph of its own")
    if (node.domain, node.op_type) in functions:
        raise UnknownShapeError(f"{node.op_type!r} is a function of the model")
