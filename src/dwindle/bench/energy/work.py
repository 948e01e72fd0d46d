"""This file counts from an ONNX graph what a network computes and what it moves: multiplications by type, and bytes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import onnx

from dwindle.bench.arena import living_bytes
from dwindle.bench.graph_shapes import UnknownShapeError
from dwindle.bench.live_tensors import IN_PLACE, VIEWS, Graph, GraphNode, graph_of, held_bytes

Kind = Literal["int8", "int16", "float16", "float32"]

_FUSED: Final = VIEWS | IN_PLACE | {"DequantizeLinear", "QuantizeLinear"}
"""What engines do within the operation before: it moves nothing of its own."""
_CONVOLUTIONS: Final = frozenset({"Conv", "ConvInteger"})
_PRODUCTS: Final = frozenset({"Gemm", "MatMul", "MatMulInteger"})
_RECURRENT: Final = frozenset({"DynamicQuantizeLSTM", "GRU", "LSTM", "RNN"})
_INTEGERS: Final = frozenset({"ConvInteger", "DynamicQuantizeLSTM", "MatMulInteger"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one inference does.

    Attributes:
        macs: multiplications with an addition, by the type they are computed in.
        weight_bytes: constants, each read once.
        moved_bytes: values between operations, each written once and read by every reader.
        living_bytes: of these, the most that are alive at once.
    """

    macs: Mapping[Kind, int]
    weight_bytes: int
    moved_bytes: int
    living_bytes: int


def work_of(model: onnx.ModelProto) -> Work:
    """Return what one example costs; `model` is changed, as by `memory_of_graph`.

    Multiplications of convolutions, linear and recurrent layers are counted; those of everything else are few.

    Raises:
        UnknownShapeError: shapes do not follow from the graph.
    """
    graph = graph_of(model)
    held = held_bytes(graph)
    macs: Counter[Kind] = Counter()
    moved = 0
    for node in graph.nodes:
        if n_macs := _macs(node, graph):
            macs[_kind(node, graph, held)] += n_macs
        if node.op not in _FUSED:
            moved += sum(held[name] for name in (*node.inputs, *node.outputs))
    return Work(
        macs=macs, weight_bytes=graph.weight_bytes(), moved_bytes=moved, living_bytes=living_bytes(graph.blocks())
    )


def _macs(node: GraphNode, graph: Graph) -> int:
    if not node.outputs:
        return 0
    if node.op in _RECURRENT:
        return _recurrent_macs(node, graph)
    if node.op in _PRODUCTS:
        return _n_elements(graph, node.outputs[0]) * _sizes(node, graph, at_least=1)[-1]
    if node.op in _CONVOLUTIONS and node.kernel is not None:
        return _n_elements(graph, node.outputs[0]) * node.kernel.row
    return 0


def _recurrent_macs(node: GraphNode, graph: Graph) -> int:
    """Return steps x examples x the weights of one step: (directions, gates x hidden, inputs), and the state's."""
    n_steps, n_examples = _sizes(node, graph, at_least=2)[:2]
    return n_steps * n_examples * sum(_n_elements(graph, name) for name in node.all_inputs[1:3])


def _sizes(node: GraphNode, graph: Graph, *, at_least: int) -> tuple[int, ...]:
    """Return the shape of the first input."""
    shape = graph.shape_of(node.all_inputs[0]) if node.all_inputs else ()
    if len(shape) < at_least:
        raise UnknownShapeError(f"{node.op!r} reads a tensor of shape {list(shape)}, which it cannot")
    return shape


def _kind(node: GraphNode, graph: Graph, held: Mapping[str, int]) -> Kind:
    name = node.outputs[0]
    if node.op in _INTEGERS:
        return "int8"
    is_integer = held[name] < graph.bytes_of(name)
    n_bytes = held[name] / max(_n_elements(graph, name), 1)
    if is_integer:
        return "int8" if n_bytes <= 1 else "int16"
    return "float16" if n_bytes <= 2 else "float32"


def _n_elements(graph: Graph, name: str) -> int:
    return math.prod(graph.shape_of(name))
