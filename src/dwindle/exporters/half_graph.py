"""This file lets an ONNX graph compute in float16 between inputs and outputs that stay float32."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from dwindle.core.half import LARGEST
from dwindle.errors import ExportError
from dwindle.exporters.references import is_reference
from dwindle.exporters.tidy import node_for, replace_nodes

TYPED: Final = frozenset({"to", "dtype"})
"""Attributes that name the type of a result."""
HALF: Final = "/float16"
"""What the float16 twin of a value is called, behind its name."""
RECURRENT: Final = frozenset({"GRU", "LSTM", "RNN"})
"""onnxruntime 1.31 has no float16 kernels for these, and ends the process when it loads some such graphs."""
FLOAT32_INPUTS: Final = {"Resize": (1, 2), "Upsample": (1,)}
"""Inputs that are float32 whatever the others are: regions and scales."""


def compute_in_half(graph: onnx.GraphProto) -> None:
    """Let `graph`, in place, compute in float16; weights stay references to float32 and are cast behind the reference.

    Constants beyond the range of float16 (masks of attention are) become the largest float16 of their sign.

    Raises:
        ExportError: the graph has branches, loops or recurrent layers.
    """
    wide = {n.input[i] for n in graph.node for i in FLOAT32_INPUTS.get(n.op_type, ()) if i < len(n.input)}
    floats = [t for t in graph.initializer if t.data_type == TensorProto.FLOAT and t.name not in wide]
    inputs = [v.name for v in graph.input if v.type.tensor_type.elem_type == TensorProto.FLOAT]
    cast = [*inputs, *(t.name for t in floats if is_reference(t))]
    outputs = [v.name for v in graph.output if v.type.tensor_type.elem_type == TensorProto.FLOAT]
    for tensor in floats:
        if not is_reference(tensor):
            tensor.CopyFrom(numpy_helper.from_array(_to_half(numpy_helper.to_array(tensor)), tensor.name))
    renamed = {name: name + HALF for name in (*cast, *outputs)}
    for node in graph.node:
        _retype(node)
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = renamed.get(name, name)
    front = [node_for("Cast", [name], renamed[name], to=TensorProto.FLOAT16) for name in cast]
    back = [node_for("Cast", [renamed[name]], name, to=TensorProto.FLOAT) for name in outputs]
    replace_nodes(graph, [*front, *graph.node, *back])


def computes_in_half(graph: onnx.GraphProto) -> bool:
    """Return whether `compute_in_half` made this graph."""
    return any(
        n.op_type == "Cast" and _target(n) == TensorProto.FLOAT16 and n.output[0].endswith(HALF) for n in graph.node
    )


def store_halves(graph: onnx.GraphProto) -> None:
    """Store, in place, each float32 initializer that is only cast to float16 as float16."""
    readers = Counter(name for node in graph.node for name in node.input)
    tensors = {t.name: t for t in graph.initializer}
    halves: dict[str, TensorProto] = {}
    gone: set[str] = set()
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        source = tensors.get(node.input[0]) if node.op_type == "Cast" else None
        if source is None or readers[source.name] != 1 or not _widens_or_halves(node, source):
            kept.append(node)
            continue
        array = numpy_helper.to_array(source)
        array = array.astype(np.float16 if _target(node) == TensorProto.FLOAT16 else np.float32)
        tensors[node.output[0]] = halves[node.output[0]] = numpy_helper.from_array(array, node.output[0])
        gone.add(source.name)
    names = [t.name for t in graph.initializer if t.name not in gone] + [n for n in halves if n not in gone]
    copies = [TensorProto.FromString(tensors[name].SerializeToString()) for name in names]
    del graph.initializer[:]
    graph.initializer.extend(copies)
    replace_nodes(graph, kept)


def _widens_or_halves(node: onnx.NodeProto, source: TensorProto) -> bool:
    """Return whether `node` brings floats to float16, or float16 to float32 on the way there."""
    pair = (source.data_type, _target(node))
    return pair in {(TensorProto.FLOAT, TensorProto.FLOAT16), (TensorProto.FLOAT16, TensorProto.FLOAT)}


def _target(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "to"), 0)


def _retype(node: onnx.NodeProto) -> None:
    if node.op_type in RECURRENT:
        raise ExportError(f"a {node.op_type} layer does not run in float16; use float_type='float32' for this network")
    for attribute in node.attribute:
        match attribute.type:
            case AttributeProto.GRAPH | AttributeProto.GRAPHS:
                raise ExportError(f"a {node.op_type} cannot become float16; use float_type='float32' for this network")
            case AttributeProto.INT if attribute.name in TYPED and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
            case AttributeProto.TENSOR if attribute.t.data_type == TensorProto.FLOAT:
                attribute.t.CopyFrom(numpy_helper.from_array(_to_half(numpy_helper.to_array(attribute.t))))
            case AttributeProto.FLOAT if node.op_type == "Constant":
                value = helper.make_attribute("value", numpy_helper.from_array(np.asarray(attribute.f, np.float16)))
                attribute.CopyFrom(value)
            case _:
                pass


def _to_half(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    finite = np.clip(values, -LARGEST, LARGEST)
    return np.where(np.isinf(values), values, finite).astype(np.float16)
