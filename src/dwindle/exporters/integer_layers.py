"""This file reads from a graph with references what its integer layers need beside weights: scales and int32 biases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from dwindle.container.integer import integer_form
from dwindle.container.records import Record, decode_record
from dwindle.exporters.references import is_reference

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class IntegerBias:
    """A bias as int32 codes: value = code * scale.

    Attributes:
        layer: name of the node that adds it.
        tensor: name of the bias in the state dict.
        codes: int32, one for each output.
        scale: float32, scale of the layer's input times scale of its weight.
    """

    layer: str
    tensor: str
    codes: Array
    scale: Array


def quantized_values(graph: onnx.ModelProto) -> dict[str, tuple[Array, Array]]:
    """Return scale and zero point of each value that a QuantizeLinear makes, by the name of what it quantizes."""
    constants = _constants(graph)
    found: dict[str, tuple[Array, Array]] = {}
    for node in graph.graph.node:
        if node.op_type == "QuantizeLinear" and len(node.input) == 3 and set(node.input[1:]) <= constants.keys():
            name = node.input[1].removesuffix("/scale")
            found[name] = (constants[node.input[1]], constants[node.input[2]])
    return found


def integer_biases(graph: onnx.ModelProto, records: Mapping[str, Record]) -> list[IntegerBias]:
    """Return the biases that the graph turns into codes, with the arithmetic of its nodes."""
    constants = _constants(graph)
    scales = {n.output[0]: n for n in graph.graph.node if n.op_type == "Mul"}
    found: list[IntegerBias] = []
    for node in graph.graph.node:
        is_ratio = node.op_type == "Div" and node.output[0].endswith("/bias/ratio") and len(node.input) == 2
        product = scales.get(node.input[1]) if is_ratio else None
        if product is None or node.input[0] not in records or product.input[0] not in constants:
            continue
        record = records.get(product.input[1].removesuffix("/scale"))
        form = None if record is None else integer_form(record)
        if form is not None:
            scale = np.asarray(constants[product.input[0]] * form.scale, dtype=np.float32)
            codes = np.rint(decode_record(records[node.input[0]]) / scale).astype(np.int32)
            found.append(IntegerBias(node.output[0].removesuffix("/bias/ratio"), node.input[0], codes, scale))
    return found


def _constants(graph: onnx.ModelProto) -> dict[str, Array]:
    return {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer if not is_reference(t)}
