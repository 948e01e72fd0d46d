"""This file replaces the weights of an ONNX graph by references: names without data, which a file format fills.

The convention, for a weight `W` of the state dict:

- `W` is the float tensor `decode(record of W)`;
- `W/codes` (int8), `W/scale` (float32) and `W/zero_point` (int8) are the parts of `integer_form(record of W)`.

A weight is referred to by its integers where an engine can compute with them: its only reader is a Conv, Gemm or MatMul
whose other input is quantized. Otherwise it is referred to as float, because onnxruntime (1.31) would run the
DequantizeLinear of a weight that meets no quantized input at every inference instead of once at load (a convolution of
64 x 64 x 3 x 3 took 0.82 ms instead of 0.65), and because it refuses to load integers that two layers share: where it
turns int8 into uint8 ("session.x64quantprecision"), it does so for each layer under the same name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dwindle.container.integer import PARTS, IntegerForm, integer_form
from dwindle.container.records import Record, decode_record
from dwindle.exporters.qdq import quantized_scale
from dwindle.exporters.tidy import node_for, replace_nodes

LARGEST_BIAS_CODE: Final = 2**31 - 1


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """A node that reads a weight, perhaps through a transposition.

    Attributes:
        node: a Conv, Gemm or MatMul.
        input_scale: name of the scale of its other input.
        transpose: the node in between, or None.
    """

    node: onnx.NodeProto
    input_scale: str
    transpose: onnx.NodeProto | None


def refer_to_weights(graph: onnx.GraphProto, records: Mapping[str, Record]) -> None:
    """Replace, in place, each initializer that `records` names by references; biases of integer layers become int32."""
    producers = {name: node for node in graph.node for name in node.output}
    readers = _readers(graph)
    present = [tensor.name for tensor in graph.initializer if tensor.name in records]
    fronts: list[onnx.NodeProto] = []
    gone: set[str] = set()
    for name in present:
        form = integer_form(records[name])
        # A weight of zeros has an arbitrary scale, and its bias would be rounded to that.
        if form is None or not decode_record(records[name]).any():
            continue
        uses = _integer_readers(name, form, readers=readers, producers=producers)
        if uses is None or not all(_bias_fits(graph, use, form=form, records=records) for use in uses):
            continue
        fronts.extend(_dequantize(name, form, uses))
        gone.update(use.transpose.name for use in uses if use.transpose is not None)
        for use in uses:
            fronts.extend(_quantize_bias(name, use))
        for part in PARTS:
            _add_reference(graph, f"{name}/{part}", getattr(form, part))
    empty_weights(graph, records.keys())
    replace_nodes(graph, [*fronts, *(node for node in graph.node if node.name not in gone)])


def reference(name: str, dtype: int, shape: tuple[int, ...]) -> TensorProto:
    """Return an initializer without data; its name is where the data is."""
    tensor = TensorProto(name=name, data_type=dtype, dims=shape, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=name)
    return tensor


def is_reference(tensor: TensorProto) -> bool:
    """Return whether `tensor` is a name without data."""
    return tensor.data_location == TensorProto.EXTERNAL


def _add_reference(graph: onnx.GraphProto, name: str, array: np.ndarray[Any, Any]) -> None:
    graph.initializer.append(reference(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape))


def empty_weights(graph: onnx.GraphProto, names: Collection[str]) -> None:
    """Replace, in place, each initializer named in `names` by a reference to its floats."""
    tensors = [reference(t.name, t.data_type, tuple(t.dims)) if t.name in names else t for t in graph.initializer]
    copies = [TensorProto.FromString(t.SerializeToString()) for t in tensors]
    del graph.initializer[:]
    graph.initializer.extend(copies)


def _readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def _integer_readers(
    name: str,
    form: IntegerForm,
    *,
    readers: Mapping[str, list[onnx.NodeProto]],
    producers: Mapping[str, onnx.NodeProto],
) -> list[Reader] | None:
    """Return the readers of weight `name`, which is one, if it can compute with its integers, else None."""
    found: list[Reader] = []
    for node in readers.get(name, []):
        if node.op_type == "Transpose":
            perm = list(helper.get_attribute_value(node.attribute[0])) if node.attribute else None
            if perm != [1, 0]:
                return None
            axis = None if form.axis is None else 1 - form.axis
            behind = [(reader, node.output[0], axis, node) for reader in readers.get(node.output[0], [])]
        else:
            behind = [(node, name, form.axis, None)]
        for reader, operand, scale_axis, transpose in behind:
            scale = _input_scale(reader, operand, axis=scale_axis, n_axes=form.codes.ndim, producers=producers)
            if scale is None:
                return None
            found.append(Reader(reader, scale, transpose))
    return found if len(found) == 1 else None


def _input_scale(
    node: onnx.NodeProto, operand: str, *, axis: int | None, n_axes: int, producers: Mapping[str, onnx.NodeProto]
) -> str | None:
    """Return the scale of the other input of `node` if `node` can multiply it with integers `operand`, else None."""
    if (
        node.op_type not in {"Conv", "Gemm", "MatMul"}
        or list(node.input).count(operand) != 1
        or node.input[1] != operand
    ):
        return None
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    plain = all(attributes.get(key, 1) == 1 for key in ("alpha", "beta")) and attributes.get("transA", 0) == 0
    is_rows = node.op_type == "Conv" or attributes.get("transB", 0) == 1
    if not plain or axis not in {None, 0 if is_rows else n_axes - 1}:
        return None
    return quantized_scale(producers, node.input[0])


def _bias_of(node: onnx.NodeProto) -> str | None:
    return node.input[2] if len(node.input) == 3 and node.input[2] else None


def _bias_fits(graph: onnx.GraphProto, use: Reader, *, form: IntegerForm, records: Mapping[str, Record]) -> bool:
    """Return whether the layer's bias is a vector of the state dict that int32 holds at scale s_x * s_w.

    It does not where a channel's weights are all but zero: that layer stays float, because a saturated bias is wrong.
    """
    bias = _bias_of(use.node)
    if bias is None:
        return True
    if bias not in records:
        return False
    values = decode_record(records[bias])
    input_scale = next(t for t in graph.initializer if t.name == use.input_scale)
    scale = numpy_helper.to_array(input_scale).astype(np.float64) * form.scale
    return values.ndim == 1 and bool((np.abs(values) < LARGEST_BIAS_CODE * scale).all())


def _dequantize(name: str, form: IntegerForm, uses: list[Reader]) -> list[onnx.NodeProto]:
    scale, zero_point = f"{name}/scale", f"{name}/zero_point"
    nodes: list[onnx.NodeProto] = []
    for use in uses:
        codes, axis, target = f"{name}/codes", form.axis, f"{name}/dequantized"
        if use.transpose is not None:
            codes, axis, target = (
                f"{name}/codes/transposed",
                None if axis is None else 1 - axis,
                use.transpose.output[0],
            )
        use.node.input[1] = target
        if use.transpose is not None:
            nodes.append(node_for("Transpose", [f"{name}/codes"], codes, perm=[1, 0]))
        nodes.append(node_for("DequantizeLinear", [codes, scale, zero_point], target, axis=axis))
    return nodes


def _quantize_bias(weight: str, use: Reader) -> list[onnx.NodeProto]:
    """Return nodes that turn a float bias b into int32 codes round(b / (s_x s_w)), on the grid of the accumulator.

    Engines fold all but the DequantizeLinear at load; QGemm with a float output demands this form of its bias.
    """
    bias = _bias_of(use.node)
    if bias is None:
        return []
    prefix = f"{use.node.name}/bias"
    use.node.input[2] = prefix
    return [
        node_for("Mul", [use.input_scale, f"{weight}/scale"], f"{prefix}/scale"),
        node_for("Div", [bias, f"{prefix}/scale"], f"{prefix}/ratio"),
        node_for("Round", [f"{prefix}/ratio"], f"{prefix}/rounded"),
        node_for("Cast", [f"{prefix}/rounded"], f"{prefix}/codes", to=TensorProto.INT32),
        node_for("DequantizeLinear", [f"{prefix}/codes", f"{prefix}/scale"], prefix, axis=0),
    ]
