"""This file infers the shapes and bytes of the values in an ONNX graph for one example, whatever its weights are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import onnx
from onnx import TensorProto, shape_inference

from dwindle.bench.multiplying import CONVOLUTIONS, PRODUCTS
from dwindle.bench.workspace import Kernel
from dwindle.exporters.lstm import with_float_lstms
from dwindle.exporters.tidy import fold_constants

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


class UnknownShapeError(Exception):
    """A figure cannot be had from this graph; the message says why. It never leaves the bench."""


@dataclass(frozen=True, slots=True)
class Values:
    """Bytes, shapes and ONNX's element types of the values whose shape follows from the graph."""

    sizes: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]
    types: Mapping[str, int] = field(default_factory=dict[str, int])

    def bits_of(self, name: str) -> int | None:
        """Return the bits of one element of a value; None where they are not known."""
        return _BITS.get(self.types.get(name, TensorProto.UNDEFINED))


def values_of(model: onnx.ModelProto, weights: Mapping[str, int | None]) -> Values:
    """Return bytes and shapes of all values whose shape follows from the graph with one example; `model` is changed."""
    graph = model.graph
    fixed = {t.name: tuple(t.dims) for t in graph.initializer}
    stored = {t.name: t.data_type for t in graph.initializer}
    _take_one_example(graph, weights)
    try:
        _drop_values(graph)
    except UnicodeDecodeError as error:
        raise UnknownShapeError("the name of a weight is not text") from error
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
            raise UnknownShapeError(f"its constants cannot be computed ({error})") from error
        if len(graph.node) == n_nodes:
            break
        types = {**types, **_inferred(model)}  # what was folded away is read by the graph as it was
    sizes = {name: bytes_of_type(data_type, shape) for name, (data_type, shape) in types.items()}
    sizes |= {t.name: bytes_of_type(t.data_type, t.dims) for t in graph.initializer} | dict(weights)
    shapes = {name: shape for name, (_, shape) in types.items()} | fixed
    element_types = {name: data_type for name, (data_type, _) in types.items()} | stored
    return Values({name: n_bytes for name, n_bytes in sizes.items() if n_bytes is not None}, shapes, element_types)


def kernel_of(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> Kernel | None:
    """Return what decides about the workspace of `node`; None where shapes are missing or have no channels."""
    x, y = (shapes.get(names[0]) if names else None for names in (node.input, node.output))
    if x is None or y is None or len(x) < 2:
        return None
    given = {a.name: a for a in node.attribute}
    steps = [size for name in ("strides", "dilations") if name in given for size in given[name].ints]
    place = PRODUCTS[node.op_type].operands[1] if node.op_type in CONVOLUTIONS else len(node.input)
    weight = shapes.get(node.input[place]) if place < len(node.input) else None
    window = weight[2:] if weight else given["kernel_shape"].ints if "kernel_shape" in given else ()
    return Kernel(
        op=node.op_type,
        channels=x[1],
        places=math.prod(y[2:]),
        window=tuple(window),
        steps=tuple(steps),
        groups=max(given["group"].i, 1) if "group" in given else 1,
        padded=_padded(x, y, {"window": tuple(window)} | {name: tuple(a.ints) for name, a in given.items()}),
    )


def _padded(x: Sequence[int], y: Sequence[int], given: Mapping[str, Sequence[int]]) -> int:
    """Return how many elements `x` has with the zeros of `given` around it; 0 where they are none, or SAME."""
    sizes, n = x[2:], len(x) - 2
    pads, window = given.get("pads", ()), given["window"]
    strides, dilations = given.get("strides", (1,) * n), given.get("dilations", (1,) * n)
    if not any(pads) or {len(window), len(strides), len(dilations), len(pads) / 2, len(y) - 2} != {n}:
        return 0
    for axis, size in enumerate(sizes):
        span = (window[axis] - 1) * dilations[axis] + 1
        same = max((y[2 + axis] - 1) * strides[axis] + span - size, 0)
        if (pads[axis], pads[n + axis]) != (same // 2, same - same // 2):
            return math.prod(x[:2]) * math.prod(s + pads[i] + pads[n + i] for i, s in enumerate(sizes))
    return 0


def _inferred(model: onnx.ModelProto) -> Mapping[str, tuple[int, tuple[int, ...]]]:
    """Return the element type and the shape of every value whose shape is known."""
    try:
        # Without data_prop: onnx 1.23 goes through a shape of 2^60 elements one by one there, and never returns.
        graph = shape_inference.infer_shapes(with_float_lstms(model)).graph
    except Exception as error:  # onnx raises classes of its own, and ValueError for a model beyond 2 GB
        raise UnknownShapeError(f"shapes cannot be inferred ({str(error).strip()[:200]})") from error
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
        if math.prod(tensor.dims) <= _SMALL and not is_outside(tensor):
            kept.append(tensor)
        elif tensor.name not in declared:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    del graph.initializer[:]
    graph.initializer.extend(kept)


def bytes_of_type(data_type: int, dims: Iterable[int]) -> int | None:
    """Return the bytes of a tensor of an ONNX type; None for types without a size and sizes that cannot be."""
    bits, sizes = _BITS.get(data_type), tuple(dims)
    if bits is None or any(size < 0 for size in sizes):
        return None
    n_bytes = (math.prod(sizes) * bits + 7) // 8
    return n_bytes if n_bytes < _MOST_BYTES else None


def is_outside(tensor: TensorProto) -> bool:
    """Return whether the values of `tensor` lie in another file."""
    return tensor.data_location == TensorProto.EXTERNAL
