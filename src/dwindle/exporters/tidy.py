"""This file tidies an exported ONNX graph: it folds small constants, drops what nothing reads, touches no weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from itertools import starmap
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

Array = npt.NDArray[Any]

FOLDABLE: Final = frozenset((
    "Add", "Cast", "CastLike", "Concat", "Constant", "ConstantOfShape", "Div", "Equal",
    "Expand", "Gather", "Mul", "Neg", "Range", "Reshape", "Round",
    "Shape", "Slice", "Sqrt", "Squeeze", "Sub", "Unsqueeze", "Where",
))  # fmt: skip
"""Operations whose result depends on their inputs alone (random ones have no inputs either, so a list it must be)."""
LARGEST: Final = 1 << 14
"""Elements of the largest result that is folded: a larger one costs more in the file than it saves at load."""


def fold_constants(
    graph: onnx.GraphProto,
    *,
    keep: Collection[str],
    wanted: Callable[[onnx.NodeProto], bool] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Replace, in place, nodes whose inputs are all constant by initializers.

    Args:
        graph: nodes in topological order, as ONNX demands.
        keep: names of initializers whose values must not be looked at (weights); their shapes may.
        wanted: which nodes may go; all foldable ones by default.
        shapes: what is known of other values.
    """
    sizes = {**_sizes(graph), **(shapes or {}), **{tensor.name: tuple(tensor.dims) for tensor in graph.initializer}}
    types = _element_types(graph)
    known = {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.name not in keep}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        foldable = node.op_type in FOLDABLE and len(node.output) == 1 and (wanted is None or wanted(node))
        value = _evaluate(node, known, sizes=sizes, types=types) if foldable else None
        if value is None or value.size > LARGEST:
            nodes.append(node)
            continue
        known[node.output[0]] = value
        sizes[node.output[0]] = value.shape
        graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
    replace_nodes(graph, nodes)


def drop_zero_biases(graph: onnx.GraphProto, *, keep: Collection[str]) -> None:
    """Remove, in place, the bias of zeros that the exporter invents for a convolution without bias."""
    zeros = {t.name for t in graph.initializer if t.name not in keep and not numpy_helper.to_array(t).any()}
    for node in graph.node:
        if node.op_type in {"Conv", "ConvTranspose"} and len(node.input) == 3 and node.input[2] in zeros:
            del node.input[2]


def pool_globally(graph: onnx.GraphProto) -> None:
    """Write, in place, a mean over height and width as `GlobalAveragePool`, which engines know in integers."""
    values = {t.name: t for t in graph.initializer}
    for node in graph.node:
        if node.op_type != "ReduceMean" or len(node.input) != 2 or node.input[1] not in values:
            continue
        axes = numpy_helper.to_array(values[node.input[1]]).tolist()
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        # Negative axes alone prove neither rank nor order: (-1, -2) is height and width only of four axes.
        if sorted(axes) == [-2, -1] and attributes.get("keepdims", 1) == 1 and _rank(graph, node.input[0]) == 4:
            node.op_type = "GlobalAveragePool"
            del node.attribute[:]
            del node.input[1]


def drop_unread(graph: onnx.GraphProto) -> None:
    """Remove, in place, nodes and initializers that no output depends on."""
    read = {output.name for output in graph.output}
    nodes: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if any(name in read for name in node.output):
            nodes.append(node)
            read.update(node.input)
    replace_nodes(graph, nodes[::-1])
    tensors = {t.name: t for t in graph.initializer if t.name in read}
    del graph.initializer[:]
    graph.initializer.extend(tensors.values())


def node_for(op: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    """Return a node with one output, after which it is named; attributes that are None are left out."""
    node = helper.make_node(op, inputs, [output], name=f"{output}/node")
    given = {key: value for key, value in attributes.items() if value is not None}
    node.attribute.extend(starmap(helper.make_attribute, sorted(given.items())))
    return node


def replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Let `graph` consist of `nodes` (which may be its own)."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _element_types(graph: onnx.GraphProto) -> dict[str, int]:
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info):
        types[value.name] = value.type.tensor_type.elem_type
    return types


def _sizes(graph: onnx.GraphProto) -> dict[str, tuple[int | None, ...]]:
    """Return the sizes of the values whose rank the graph tells, None for the batch and what depends on it.

    An LSTM reads its hidden size from a value like (layers, batch, hidden). Were that left to the engine, it would sort
    the gates of all weights anew at every inference, and could not pack them beforehand.
    """
    types = {value.name: value.type.tensor_type for value in graph.value_info}
    return {
        name: tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in held.shape.dim)
        for name, held in types.items()
        if held.HasField("shape")
    }


def _rank(graph: onnx.GraphProto, name: str) -> int | None:
    found = next((v for v in (*graph.input, *graph.value_info) if v.name == name), None)
    return len(found.type.tensor_type.shape.dim) if found is not None else None


def _evaluate(
    node: onnx.NodeProto, known: dict[str, Array], *, sizes: dict[str, tuple[int | None, ...]], types: dict[str, int]
) -> Array | None:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Shape" and node.input[0] in sizes:
        wanted = sizes[node.input[0]][attributes.get("start", 0) : attributes.get("end")]
        return None if None in wanted else np.asarray(wanted, dtype=np.int64)
    if node.op_type == "CastLike" and node.input[0] in known and types.get(node.input[1]):
        return known[node.input[0]].astype(helper.tensor_dtype_to_np_dtype(types[node.input[1]]))
    if not all(name in known for name in node.input if name) or _result_size(node, known) > LARGEST:
        return None
    feeds = {name: known[name] for name in node.input if name}
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feeds.items()
    ]
    output = onnx.ValueInfoProto(name=node.output[0])
    graph = helper.make_graph([node], "one", inputs, [output])
    results: Any = ReferenceEvaluator(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])).run(
        None, feeds
    )
    return np.asarray(results[0])


def _result_size(node: onnx.NodeProto, known: dict[str, Array]) -> int:
    """Return how many elements a node that makes arrays out of shapes is about to make."""
    if node.op_type == "Expand":
        return math.prod(int(n) for n in known[node.input[1]])
    if node.op_type == "ConstantOfShape":
        return math.prod(int(n) for n in known[node.input[0]])
    return 0
