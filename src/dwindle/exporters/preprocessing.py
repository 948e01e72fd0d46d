"""This file puts what an application does to its inputs (scale, mean, std, layout) into the ONNX graph."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from dwindle.errors import ExportError, SettingError
from dwindle.exporters.tidy import node_for, replace_nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """What happens to a raw input before the network sees it: (x * scale - mean) / std for each channel.

    Attributes:
        scale: 1 / 255 brings bytes to [0, 1].
        mean: one value for each channel, or one for all; in the units after `scale`.
        std: likewise; positive.
        is_uint8: the raw input holds bytes instead of floats.
        channels_last: the raw input is (batch, height, width, channels), as cameras and image libraries give it.
    """

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    is_uint8: bool = False
    channels_last: bool = False

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.scale, *self.mean, *self.std))) or not all(value > 0 for value in self.std):
            raise SettingError(f"{self}: scale, mean and std must be finite and std positive")
        if not self.mean or not self.std:
            raise SettingError(f"{self}: mean and std need one value for each channel, or one for all")


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
    for part, numbers in _constants(preprocessing).items():
        array = np.asarray(numbers, dtype=np.float32).reshape(-1, *([1] * (n_axes - 2)))
        graph.initializer.append(numpy_helper.from_array(array, f"{value.name}/{part}"))
    _retype(value, preprocessing)
    replace_nodes(graph, [*nodes, *graph.node])


def _constants(preprocessing: Preprocessing) -> dict[str, tuple[float, ...]]:
    return {"factor": (preprocessing.scale,), "mean": preprocessing.mean, "std": preprocessing.std}


def _require_fit(graph: onnx.GraphProto, preprocessing: Preprocessing) -> None:
    if len(graph.input) != 1:
        raise ExportError(f"preprocessing needs a network with one input, this one has {len(graph.input)}")
    dims = graph.input[0].type.tensor_type.shape.dim
    if len(dims) < 2:
        raise ExportError(f"preprocessing needs an input (batch, channels, ...), this one has {len(dims)} axes")
    n_channels = dims[1].dim_value
    for part, numbers in _constants(preprocessing).items():
        if len(numbers) not in {1, n_channels}:
            raise ExportError(
                f"preprocessing has {len(numbers)} values of {part}, but the input has {n_channels} channels; "
                "give one for each channel, or one for all"
            )


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
