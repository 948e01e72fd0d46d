"""This file fixes the batch size of an ONNX graph, as compilers for accelerators demand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import onnx

from dwindle.errors import ExportError
from dwindle.exporters.references import is_reference
from dwindle.exporters.tidy import drop_unread, fold_constants

BATCH: Final = "batch"
"""Name of the batch dimension where it is free."""


def fix_batch(proto: onnx.ModelProto, batch_size: int) -> None:
    """Give `proto`, in place, inputs and outputs of `batch_size`; what follows from shapes becomes constant.

    Raises:
        ExportError: its batch size is fixed already, to another number.
    """
    graph = proto.graph
    first = graph.input[0].type.tensor_type.shape.dim[0]
    if first.dim_param != BATCH:
        if first.dim_value == batch_size:
            return
        raise ExportError(
            f"the graph accepts batches of {first.dim_value} only, not {batch_size}; leave batch_size out, or export "
            f"with an example of {batch_size}"
        )
    for value in (*graph.input, *graph.output):
        _fix(value, batch_size)
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    found = {value.name: _static(value) for value in (*inferred.value_info, *inferred.input, *inferred.output)}
    shapes = {name: shape for name, shape in found.items() if shape is not None}
    for value in graph.output:
        _write_shape(value, shapes)
    weights = {tensor.name for tensor in graph.initializer if is_reference(tensor)}
    fold_constants(graph, keep=weights, shapes=shapes)
    drop_unread(graph)


def _fix(value: onnx.ValueInfoProto, batch_size: int) -> None:
    for dim in value.type.tensor_type.shape.dim:
        if dim.dim_param == BATCH:
            dim.dim_value = batch_size
        elif re.search(rf"\b{BATCH}\b", dim.dim_param):
            dim.Clear()  # an expression such as 2*batch: inferred below


def _static(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    dims = value.type.tensor_type.shape.dim
    if not value.type.tensor_type.HasField("shape") or not all(dim.HasField("dim_value") for dim in dims):
        return None
    return tuple(dim.dim_value for dim in dims)


def _write_shape(value: onnx.ValueInfoProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    if value.name in shapes:
        for dim, length in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=True):
            dim.dim_value = length
