"""This file puts preprocessing (scale, mean, std, layout) in front of an ONNX graph."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import TensorProto, numpy_helper

from dwindle.errors import ExportError
from dwindle.exporters.preprocessing import Preprocessing
from dwindle.exporters.tidy import node_for, replace_nodes


def prepend(graph: onnx.GraphProto, preprocessing: Preprocessing) -> None:
    """Let `graph`, in place, take raw inputs under its input's name and preprocess them first.

    Raises:
        ExportError: the graph has several inputs, or another number of channels.
    """
    _require_fit(graph, preprocessing)
    value = graph.input[0]
    ready = f"{value.name}/preprocessed"
    n_axes = len(value.type.tensor_type.shape.dim)
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = ready if name == value.name else name
    nodes = _steps(value.name, preprocessing, n_axes)
    nodes[-1].output[0] = ready
    for part, numbers in preprocessing.parts().items():
        array = preprocessing.spread(numbers, n_axes)
        graph.initializer.append(numpy_helper.from_array(array, f"{value.name}/{part}"))
    _retype(value, preprocessing)
    replace_nodes(graph, [*nodes, *graph.node])


def _require_fit(graph: onnx.GraphProto, preprocessing: Preprocessing) -> None:
    if len(graph.input) != 1:
        raise ExportError(
            f"preprocessing needs a network with one input, this one has {len(graph.input)}; "
            "leave it out and preprocess in the application"
        )
    tensor = graph.input[0].type.tensor_type
    if tensor.elem_type != TensorProto.FLOAT:
        raise ExportError(f"preprocessing gives float32, but the network takes {_type_name(tensor.elem_type)}")
    if len(tensor.shape.dim) < 2:
        raise ExportError(
            f"preprocessing needs an input (batch, channels, ...), this one has {len(tensor.shape.dim)} axes"
        )
    n_channels = tensor.shape.dim[1].dim_value
    for part, numbers in preprocessing.parts().items():
        if len(numbers) not in {1, n_channels}:
            raise ExportError(
                f"preprocessing has {len(numbers)} values of {part}, but the input has {n_channels} channels; "
                "give one for each channel, or one for all"
            )


def _type_name(elem_type: int) -> str:
    return TensorProto.DataType.Name(elem_type).lower()


def _steps(raw: str, preprocessing: Preprocessing, n_axes: int) -> list[onnx.NodeProto]:
    nodes: list[onnx.NodeProto] = []

    def step(op: str, part: str, *operands: str, **attributes: Any) -> None:
        current = nodes[-1].output[0] if nodes else raw
        nodes.append(node_for(op, [current, *operands], f"{raw}/{part}", **attributes))

    if preprocessing.channels_last:
        step("Transpose", "channels_first", perm=[0, n_axes - 1, *range(1, n_axes - 1)])
    if preprocessing.is_uint8:
        step("Cast", "float", to=TensorProto.FLOAT)
    step("Mul", "scaled", f"{raw}/factor")
    step("Sub", "centred", f"{raw}/mean")
    step("Div", "normalized", f"{raw}/std")
    return nodes


def _retype(value: onnx.ValueInfoProto, preprocessing: Preprocessing) -> None:
    tensor = value.type.tensor_type
    if preprocessing.is_uint8:
        tensor.elem_type = TensorProto.UINT8
    if preprocessing.channels_last:
        batch, channels, *others = (dim.SerializeToString() for dim in tensor.shape.dim)
        del tensor.shape.dim[:]
        tensor.shape.dim.extend(onnx.TensorShapeProto.Dimension.FromString(dim) for dim in (batch, *others, channels))
