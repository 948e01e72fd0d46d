"""This file estimates from an ONNX graph alone what an engine must hold: its weights, and the tensors alive at once.

Nodes run one by one in the order of the file, for one example or the batch that the file fixes. A tensor lives from
the node that makes it to the last one that reads it; inputs live from the start, outputs to the end. The figure is the
largest sum of living tensors.

- Constants are weights, not activations. They count as the first node that needs an example reads them: decoded, but
  as integers where they go through a DequantizeLinear.
- A node with quantizers around it (all its tensors come from DequantizeLinear, its result goes to QuantizeLinear)
  computes with integers, so these tensors count in the type of their codes; any other float tensor counts as floats.
- Views take no memory of their own, nor do activation functions and batch norms whose input nothing else reads: engines
  compute them in place or within the layer before.
- Not counted: workspaces (im2col, padding), states inside recurrent layers, the engine's own code and tables.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import onnx
from onnx import AttributeProto, TensorProto, shape_inference

from dwindle.errors import MeasurementError
from dwindle.exporters.lstm import with_float_lstms
from dwindle.exporters.tidy import fold_constants

VIEWS: Final = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
IN_PLACE: Final = frozenset({
    "BatchNormalization", "Clip", "Dropout", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "PRelu",
    "Relu", "Selu", "Sigmoid", "Softplus", "Tanh",
})  # fmt: skip
"""Elementwise, one result of the shape and type of the first input."""
_RANDOM: Final = frozenset({
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
})  # fmt: skip
_OF_SHAPES: Final = frozenset({"Shape", "Size"})
"""With one example and all shapes known, their results are constants, too."""
_BITS: Final[Mapping[int, int]] = {
    TensorProto.FLOAT: 32, TensorProto.UINT8: 8, TensorProto.INT8: 8, TensorProto.UINT16: 16, TensorProto.INT16: 16,
    TensorProto.INT32: 32, TensorProto.INT64: 64, TensorProto.BOOL: 8, TensorProto.FLOAT16: 16,
    TensorProto.DOUBLE: 64, TensorProto.UINT32: 32, TensorProto.UINT64: 64, TensorProto.BFLOAT16: 16,
    TensorProto.UINT4: 4, TensorProto.INT4: 4, TensorProto.COMPLEX64: 64, TensorProto.COMPLEX128: 128,
}  # fmt: skip
_MOST_BYTES: Final = 1 << 60
"""Dimensions may claim any number; from here on it is no size of a tensor."""
_SMALL: Final = 1 << 12
"""Constants of up to so many elements keep their values, because shapes may follow from them."""
_ROUNDS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphMemory:
    """What a graph asks for, in bytes; None where the file does not tell.

    Attributes:
        weight_bytes: constants as an engine computes with them.
        activation_bytes: the largest sum of tensors alive at once.
        beside_bytes: constants that the model keeps in other files.
        unknown: why a figure is None.
    """

    weight_bytes: int | None
    activation_bytes: int | None
    beside_bytes: int = 0
    unknown: str = ""


class _UnknownError(Exception):
    """A figure cannot be had from this graph; the message says why."""


def memory_of_graph(model: onnx.ModelProto) -> GraphMemory:
    """Return what the graph asks for; `model` is changed: the values of its weights and its inner shapes go.

    Raises:
        MeasurementError: the model has no graph.
    """
    if not model.graph.output:
        raise MeasurementError("this ONNX model has no outputs; export it again")
    weights = {t.name: _bytes_of(t.data_type, t.dims) for t in model.graph.initializer}
    beside = sum(weights[t.name] or 0 for t in model.graph.initializer if _is_outside(t))
    try:
        sizes = _sizes(model, weights)
        graph = _Graph(model, {*weights, *(t.name for t in model.graph.initializer)}, sizes)
    except _UnknownError as error:
        return GraphMemory(weight_bytes=None, activation_bytes=None, beside_bytes=beside, unknown=str(error))
    reasons: list[str] = []
    figures: list[int | None] = []
    for figure in (graph.weight_bytes, graph.peak_bytes):
        try:
            figures.append(figure())
        except _UnknownError as error:
            figures.append(None)
            reasons.append(str(error))
    return GraphMemory(
        weight_bytes=figures[0],
        activation_bytes=figures[1],
        beside_bytes=beside,
        unknown="; ".join(dict.fromkeys(reasons)),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Node:
    """A node; `inputs` without the constants, which stand in `constants`; `first` is empty where it is one of them."""

    op: str
    first: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]


class _Graph:
    """The nodes that need an example, what they read, and how many bytes each value has."""

    def __init__(self, model: onnx.ModelProto, constants: Collection[str], sizes: Mapping[str, int]) -> None:
        graph = model.graph
        self._sizes = sizes
        self._constants = set(constants)
        self._codes: dict[str, tuple[str, ...]] = {}
        self.inputs = {value.name for value in graph.input} - self._constants
        self.nodes = tuple(self._needed(graph, {(f.domain, f.name) for f in model.functions}))
        self.outputs = {value.name for value in graph.output} - self._constants
        self._constant_outputs = {value.name for value in graph.output} & self._constants
        self.readers: dict[str, list[int]] = defaultdict(list)
        for position, node in enumerate(self.nodes):
            for name in dict.fromkeys(node.inputs):
                self.readers[name].append(position)

    def _needed(self, graph: onnx.GraphProto, functions: Collection[tuple[str, str]]) -> Iterator[_Node]:
        made = set(self.inputs)
        for node in graph.node:
            _require_plain(node, functions)
            inputs = tuple(filter(None, node.input))
            outputs = tuple(filter(None, node.output))
            varying = tuple(name for name in inputs if name not in self._constants)
            if missing := [name for name in varying if name not in made]:
                raise _UnknownError(f"{node.op_type!r} reads {missing[0]!r}, which nothing before it makes")
            if node.op_type in _OF_SHAPES or (not varying and node.op_type not in _RANDOM):
                self._constants.update(outputs)
                if node.op_type == "DequantizeLinear":
                    self._codes.update(dict.fromkeys(outputs, inputs))
                continue
            made.update(outputs)
            constants = tuple(name for name in inputs if name in self._constants)
            yield _Node(node.op_type, inputs[0] if inputs[:1] == varying[:1] else "", varying, constants, outputs)

    def bytes_of(self, name: str) -> int:
        """Return the bytes of a value as it is typed."""
        if name not in self._sizes:
            raise _UnknownError(f"the shape of {name!r} does not follow from the graph")
        return self._sizes[name]

    def weight_bytes(self) -> int:
        """Return the bytes of the constants that nodes read, integers where they are dequantized."""
        read = {name for node in self.nodes for name in node.constants} | self._constant_outputs
        held = {part for name in read for part in self._codes.get(name, (name,))}
        return sum(self.bytes_of(name) for name in held)

    def peak_bytes(self) -> int:
        """Return the largest sum of tensors alive at once."""
        held = _held_bytes(self)
        holders = _shared(self, held)
        lives: dict[str, tuple[int, int, int]] = {}
        for name, (birth, death) in self._lives().items():
            root = holders[name]
            first, last, size = lives.get(root, (birth, death, 0))
            lives[root] = (min(first, birth), max(last, death), max(size, held[name]))
        change = [0] * (len(self.nodes) + 2)
        for birth, death, size in lives.values():
            change[birth] += size
            change[death + 1] -= size
        total = peak = 0
        for step in change:
            total += step
            peak = max(peak, total)
        return peak

    def _lives(self) -> Mapping[str, tuple[int, int]]:
        births = dict.fromkeys(self.inputs, 0) | {
            name: position for position, node in enumerate(self.nodes) for name in node.outputs
        }
        last = len(self.nodes)
        return {
            name: (birth, last if name in self.outputs else max(self.readers.get(name, [birth])))
            for name, birth in births.items()
        }


def _held_bytes(graph: _Graph) -> Mapping[str, int]:
    """Return the bytes that each value takes: those of its codes where a node computes with integers."""
    becomes = _quantized_later(graph)
    decoded: dict[str, str] = {}
    computed: set[str] = set()
    for node in graph.nodes:
        goes_on = all(name in becomes for name in node.outputs)
        if node.op == "DequantizeLinear" and node.first:
            decoded.update(dict.fromkeys(node.outputs, node.first))
        elif node.op in VIEWS and node.first in decoded and not goes_on:
            decoded.update(dict.fromkeys(node.outputs, decoded[node.first]))
        elif goes_on and node.inputs and all(name in computed or name in decoded for name in node.inputs):
            computed.update(node.outputs)
    names = (*sorted(graph.inputs), *(name for node in graph.nodes for name in node.outputs))
    stand_for = {name: becomes[name] for name in computed} | _never_floats(graph, decoded, computed)
    return {name: graph.bytes_of(stand_for.get(name, name)) for name in names}


def _never_floats(graph: _Graph, decoded: Mapping[str, str], computed: Collection[str]) -> dict[str, str]:
    """Return the codes of each decoded value that only nodes read which compute with integers."""
    found: dict[str, str] = {}
    for node in reversed(graph.nodes):
        for name in node.outputs:
            readers = [graph.nodes[position] for position in graph.readers.get(name, ())]
            is_integer = all(all(o in computed or o in found for o in reader.outputs) for reader in readers)
            if name in decoded and name not in graph.outputs and is_integer:
                found[name] = decoded[name]
    return found


def _quantized_later(graph: _Graph) -> Mapping[str, str]:
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


def _shared(graph: _Graph, held: Mapping[str, int]) -> Mapping[str, str]:
    """Return for each value the name under which its memory goes: the first value that lay there."""
    holder = {name: name for name in held}
    members: dict[str, list[str]] = {name: [name] for name in held}
    passed: set[int] = set()
    for position, node in enumerate(graph.nodes):
        if not node.first or len(node.outputs) != 1:
            continue
        source, result = holder[node.first], node.outputs[0]
        others = {p for name in members[source] for p in graph.readers.get(name, ())} - passed - {position}
        is_free = not others and not (graph.inputs | graph.outputs) & set(members[source])
        is_same = held[result] == held[node.first]
        is_view = node.op in VIEWS or (node.op == "DequantizeLinear" and is_same)
        if is_view or (node.op in IN_PLACE | {"QuantizeLinear"} and is_free and is_same):
            holder[result] = source
            members[source].append(result)
            passed.add(position)
    return holder


def _sizes(model: onnx.ModelProto, weights: Mapping[str, int | None]) -> Mapping[str, int]:
    """Return the bytes of every value whose shape follows from the graph with one example; `model` is changed."""
    graph = model.graph
    _take_one_example(graph, weights)
    try:
        _drop_values(graph)
    except UnicodeDecodeError as error:
        raise _UnknownError("the name of a weight is not text") from error
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    types = _inferred(model)
    for _ in range(_ROUNDS):  # a shape that is computed from another one becomes known one round later
        n_nodes = len(graph.node)
        shapes = {name: shape for name, (_, shape) in types.items()}
        try:
            fold_constants(graph, keep=(), wanted=lambda node: node.op_type != "Range", shapes=shapes)
        except Exception as error:  # whatever NumPy and the reference evaluator raise on contradictory nodes
            raise _UnknownError(f"its constants cannot be computed ({error})") from error
        if len(graph.node) == n_nodes:
            break
        types = _inferred(model)
    sizes = {name: _bytes_of(data_type, shape) for name, (data_type, shape) in types.items()}
    sizes |= {t.name: _bytes_of(t.data_type, t.dims) for t in graph.initializer} | dict(weights)
    return {name: n_bytes for name, n_bytes in sizes.items() if n_bytes is not None}


def _inferred(model: onnx.ModelProto) -> Mapping[str, tuple[int, tuple[int, ...]]]:
    """Return the element type and the shape of every value whose shape is known."""
    try:
        # Without data_prop: onnx 1.23 goes through a shape of 2^60 elements one by one there, and never returns.
        graph = shape_inference.infer_shapes(with_float_lstms(model)).graph
    except Exception as error:  # onnx raises classes of its own, and ValueError for a model beyond 2 GB
        raise _UnknownError(f"shapes cannot be inferred ({str(error).strip()[:200]})") from error
    types = {v.name: v.type.tensor_type for v in (*graph.output, *graph.value_info, *graph.input)}
    return {
        name: (held.elem_type, tuple(dim.dim_value for dim in held.shape.dim))
        for name, held in types.items()
        if held.HasField("shape") and all(dim.HasField("dim_value") for dim in held.shape.dim)
    }


def _take_one_example(graph: onnx.GraphProto, constants: Mapping[str, object]) -> None:
    """Write 1 for the batch of every input, in place; other open sizes stay open unless they bear the batch's name."""
    inputs = [value.type.tensor_type for value in graph.input if value.name not in constants]
    batches: set[str] = set()
    for tensor in inputs:
        if tensor.shape.dim and not tensor.shape.dim[0].HasField("dim_value"):
            batches.add(tensor.shape.dim[0].dim_param)
            tensor.shape.dim[0].dim_value = 1
    for dim in (dim for tensor in inputs for dim in tensor.shape.dim):
        if dim.dim_param and dim.dim_param in batches:
            dim.dim_value = 1


def _drop_values(graph: onnx.GraphProto) -> None:
    """Turn weights into inputs of their shape, in place: shapes do not depend on their values, which may be huge."""
    declared = {value.name for value in graph.input}
    kept: list[TensorProto] = []
    for tensor in graph.initializer:
        if math.prod(tensor.dims) <= _SMALL and not _is_outside(tensor):
            kept.append(tensor)
        elif tensor.name not in declared:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _bytes_of(data_type: int, dims: Iterable[int]) -> int | None:
    bits, sizes = _BITS.get(data_type), tuple(dims)
    if bits is None or any(size < 0 for size in sizes):
        return None
    n_bytes = (math.prod(sizes) * bits + 7) // 8
    return n_bytes if n_bytes < _MOST_BYTES else None


def _require_plain(node: onnx.NodeProto, functions: Collection[tuple[str, str]]) -> None:
    if any(a.type in {AttributeProto.GRAPH, AttributeProto.GRAPHS} for a in node.attribute):
        raise _UnknownError(f"{node.op_type!r} holds a graph of its own")
    if (node.domain, node.op_type) in functions:
        raise _UnknownError(f"{node.op_type!r} is a function of the model")


def _is_outside(tensor: TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL
