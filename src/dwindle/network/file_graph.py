"""This file reads the ONNX graph that a file holds: what its network takes, and a batch of zeros of that."""

from __future__ import annotations

import onnx
import torch
from google.protobuf.message import DecodeError
from torch import Tensor

from dwindle.errors import ContainerError
from dwindle.network.inputs import Inputs


def read_graph(data: bytes) -> onnx.ModelProto:
    """Return the graph in a file from its bytes.

    Raises:
        ContainerError: there is none, or it is no ONNX model.
    """
    if not data:
        raise ContainerError("this file holds weights but no graph; export it again with an example input")
    try:
        graph = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise ContainerError(f"the graph of this file is not an ONNX model: {error}") from error
    if not graph.graph.input or not graph.graph.output:
        raise ContainerError("the graph of this file has no input or no output; export it again")
    return graph


def example_of(graph: onnx.ModelProto) -> Inputs:
    """Return a batch of zeros that `graph` takes, one example where the size is open; an index of 0 is in any table.

    Raises:
        ContainerError: an input has a type that torch lacks.
    """
    tensors = tuple(_zeros(value) for value in graph.graph.input)
    return tensors[0] if len(tensors) == 1 else tensors


def _zeros(value: onnx.ValueInfoProto) -> Tensor:
    held = value.type.tensor_type
    sizes = [dim.dim_value if dim.HasField("dim_value") else 1 for dim in held.shape.dim]
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(held.elem_type)
        return torch.zeros(sizes, dtype=getattr(torch, dtype.name))
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:
        raise ContainerError(f"input {value.name!r} of this file is no batch that torch knows: {error}") from error
