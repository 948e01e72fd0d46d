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
from dwindle.bench.multiplying import PRODUCTS, UNCOUNTED, Product

Kind = Literal["int8", "int16", "float16", "float32"]

_FUSED: Final = VIEWS | IN_PLACE | {"DequantizeLinear", "QuantizeLinear"}
"""What engines do within the operation before: it moves nothing of its own."""
_BYTE: Final = 8
_MOST_BITS: Final = 16


class UncountedError(UnknownShapeError):
    """The graph multiplies in a way that is not counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one call does.

    Attributes:
        macs: multiplications with an addition, by the type they are computed in.
        weight_bytes: constants, each read once.
        moved_bytes: values between operations, each written once and read by every reader.
        living_bytes: of these, the most that are alive at once.
        n_examples: in one call; more than 1 where the file fixes its batch.
    """

    macs: Mapping[Kind, int]
    weight_bytes: int
    moved_bytes: int
    living_bytes: int
    n_examples: int = 1


def work_of(model: onnx.ModelProto) -> Work:
    """Return what a call costs, of one example or of the batch that the file fixes; `model` is changed.

    Multiplications of convolutions, linear and recurrent layers are counted (`bench/multiplying.py`); those of
    everything else are few.

    Raises:
        UncountedError: an operation multiplies in a way that is not counted.
        UnknownShapeError: shapes do not follow from the graph.
    """
    _require_counted(model)
    graph = graph_of(model)
    held = held_bytes(graph)
    macs: Counter[Kind] = Counter()
    moved = 0
    for node in graph.nodes:
        product = PRODUCTS.get(node.op)
        if product is not None and (n_macs := _macs(node, graph, product)):
            macs[_kind(node, graph, product)] += n_macs
        if node.op not in _FUSED:
            moved += sum(held[name] for name in (*node.inputs, *node.outputs))
    return Work(
        macs=macs,
        weight_bytes=graph.weight_bytes(),
        moved_bytes=moved,
        living_bytes=living_bytes(graph.blocks()),
        n_examples=_n_examples(graph),
    )


def _require_counted(model: onnx.ModelProto) -> None:
    """Refuse what multiplies in an unknown way: a 0 for it would look like a figure."""
    if found := sorted({node.op_type for node in model.graph.node} & UNCOUNTED):
        raise UncountedError(f"the multiplications of {found[0]!r} are not counted here")


def _macs(node: GraphNode, graph: Graph, product: Product) -> int:
    """Return the multiplications of a node, as its shapes tell: all of them are products of sizes."""
    data, weight = (_shape(node, graph, place=place) for place in product.operands[:2])
    result = graph.shape_of(node.outputs[0]) if node.outputs else ()
    if product.count == "windows":  # (outputs, inputs / groups, window)
        return math.prod(result) * math.prod(weight[1:])
    if product.count == "spread":  # (inputs, outputs / groups, window)
        return math.prod(data) * math.prod(weight[1:])
    if product.count == "gemm":  # rows x inputs, in either order, and rows x outputs
        return math.prod(data) * math.prod(result[-1:])
    if product.count == "rows":
        return math.prod(result) * data[-1]
    # steps x examples x the weights of one step: (directions, gates x hidden, inputs), and the state's
    return math.prod(data[:2]) * sum(math.prod(_shape(node, graph, place=place)) for place in product.operands[1:])


def _shape(node: GraphNode, graph: Graph, *, place: int) -> tuple[int, ...]:
    shape = graph.shape_of(node.all_inputs[place]) if place < len(node.all_inputs) else ()
    if not shape:
        raise UnknownShapeError(f"input {place} of {node.op!r} is missing or has no sizes, so it cannot multiply")
    return shape


def _kind(node: GraphNode, graph: Graph, product: Product) -> Kind:
    """Return what a node multiplies: integers where all that it multiplies are codes, whatever becomes of the sums."""
    if product.is_integer:
        return "int8"
    names = [node.all_inputs[place] for place in product.operands]
    bits = [graph.code_bits(name) for name in names]
    known = [n for n in bits if n is not None]
    if len(known) == len(names) and max(known) <= _MOST_BITS:
        return "int8" if max(known) <= _BYTE else "int16"
    return "float16" if graph.bytes_of(names[0]) <= 2 * math.prod(graph.shape_of(names[0])) else "float32"


def _n_examples(graph: Graph) -> int:
    """Return the first size of all inputs and outputs, where they share it; else there is one example."""
    firsts = {graph.shape_of(name)[:1] for name in graph.inputs | graph.outputs}
    (n_examples,) = next(iter(firsts)) if len(firsts) == 1 and () not in firsts else (1,)
    return max(n_examples, 1)
