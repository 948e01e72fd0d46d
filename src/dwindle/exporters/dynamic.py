"""This file writes layers whose inputs are quantized at run time: DynamicQuantizeLinear in front of a matrix product.

Every such layer first reads its input through DynamicQuantizeLinear and DequantizeLinear. Where its weight is integer
and no other layer reads it, the product then moves in between, onto the codes:

    y = MatMulInteger(codes of x, codes of W) * (scale of x * scale of W) + bias

onnxruntime fuses this to DynamicQuantizeMatMul, or to MatMulIntegerToFloat where several layers read one x.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Final

import onnx
from onnx import TensorProto, helper

from dwindle.container.integer import PARTS, IntegerForm, integer_form
from dwindle.container.records import Record
from dwindle.errors import ExportError
from dwindle.exporters.references import reference
from dwindle.exporters.tidy import node_for, replace_nodes
from dwindle.network.activations import CallSite

PRODUCTS: Final = frozenset({"MatMul", "Gemm"})
AFTER: Final = frozenset({"Add", "Identity", "Reshape"})
"""What may stand between a linear layer's product and its result."""


def quantize_inputs(graph: onnx.GraphProto, values: Mapping[CallSite, str], sites: Iterable[CallSite]) -> None:
    """Let, in place, the layer behind each of `sites` read its input through codes that are ranged at run time.

    Raises:
        ExportError: a call site has no matrix product in this graph.
    """
    producers = {name: node for node in graph.node for name in node.output}
    inputs: dict[str, str] = {}
    for site in sites:
        layer = product_behind(producers, values.get(site, ""), among=PRODUCTS)
        if layer is None:
            raise ExportError(
                f"call site {site} has no matrix product in the ONNX graph, but its input is to be quantized; use "
                "QuantizeDynamic on the network that is exported"
            )
        inputs[layer.name] = layer.input[0]
    nodes: list[onnx.NodeProto] = []
    done: set[str] = set()
    for node in graph.node:
        x = inputs.get(node.name)
        if x is not None:
            nodes.extend([] if x in done else _quantize(x))
            done.add(x)
            node.input[0] = f"{x}/dynamic/dequantized"
        nodes.append(node)
    replace_nodes(graph, nodes)


def multiply_codes(graph: onnx.GraphProto, records: Mapping[str, Record]) -> None:
    """Turn, in place, products of dequantized codes and integer weights into integer products, where possible."""
    producers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    changed: dict[str, list[onnx.NodeProto]] = {}
    fronts: list[onnx.NodeProto] = []
    for weight in [tensor.name for tensor in graph.initializer if tensor.name in records]:
        form = integer_form(records[weight])
        layers = _layers(weight, readers)
        # Of one weight with two readers, onnxruntime (1.31) makes its unsigned copy twice and then refuses the file.
        if form is None or len(layers) != 1 or not _is_possible(layers[0], form, producers):
            continue
        fronts.append(node_for("Transpose", [f"{weight}/codes"], _transposed(weight), perm=[1, 0]))
        changed[layers[0].name] = _integer_product(layers[0], weight, form)
        for part in PARTS:
            array = getattr(form, part)
            dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
            graph.initializer.append(reference(f"{weight}/{part}", dtype, array.shape))
    replace_nodes(graph, [*fronts, *(part for node in graph.node for part in changed.get(node.name, [node]))])


def product_behind(
    producers: Mapping[str, onnx.NodeProto], name: str, *, among: Container[str]
) -> onnx.NodeProto | None:
    """Return the operation `among` which `name` is the result of, through a bias and changes of shape."""
    node = producers.get(name)
    while node is not None and node.op_type in AFTER:
        node = next((producers[source] for source in node.input if source in producers), None)
    return node if node is not None and node.op_type in among else None


def _quantize(x: str) -> list[onnx.NodeProto]:
    outputs = [f"{x}/dynamic/codes", f"{x}/dynamic/scale", f"{x}/dynamic/zero_point"]
    quantize = helper.make_node("DynamicQuantizeLinear", [x], outputs, name=f"{x}/dynamic/node")
    return [quantize, node_for("DequantizeLinear", outputs, f"{x}/dynamic/dequantized")]


def _layers(weight: str, readers: Mapping[str, list[onnx.NodeProto]]) -> list[onnx.NodeProto]:
    """Return what reads `weight`, perhaps transposed."""
    found: list[onnx.NodeProto] = []
    for node in readers.get(weight, []):
        found.extend(readers.get(node.output[0], []) if node.op_type == "Transpose" else [node])
    return found


def _is_possible(layer: onnx.NodeProto, form: IntegerForm, producers: Mapping[str, onnx.NodeProto]) -> bool:
    """Tell whether `layer` multiplies codes with a weight (outputs, inputs) of one scale, or one for each output."""
    if layer.op_type not in PRODUCTS or form.codes.ndim != 2 or form.axis not in {None, 0}:
        return False
    source, transpose = producers.get(layer.input[0]), producers.get(layer.input[1])
    if source is None or source.op_type != "DequantizeLinear" or not source.name.endswith("/dynamic/dequantized/node"):
        return False
    attributes = {a.name: helper.get_attribute_value(a) for a in layer.attribute}
    plain = all(attributes.get(key, 1) == 1 for key in ("alpha", "beta")) and attributes.get("transA", 0) == 0
    return plain and (transpose is not None) != (attributes.get("transB", 0) == 1)


def _transposed(weight: str) -> str:
    return f"{weight}/codes/transposed"


def _integer_product(layer: onnx.NodeProto, weight: str, form: IntegerForm) -> list[onnx.NodeProto]:
    x, y = layer.input[0].removesuffix("/dequantized"), layer.output[0]
    prefix = f"{y}/integer"
    operands = [f"{x}/codes", _transposed(weight), f"{x}/zero_point"]
    if form.zero_point.any():
        operands.append(f"{weight}/zero_point")
    bias = layer.input[2] if len(layer.input) == 3 else ""
    scaled = f"{prefix}/scaled" if bias else y
    nodes = [
        node_for("MatMulInteger", operands, f"{prefix}/sums"),
        node_for("Cast", [f"{prefix}/sums"], f"{prefix}/float", to=TensorProto.FLOAT),
        node_for("Mul", [f"{x}/scale", f"{weight}/scale"], f"{prefix}/scale"),
        node_for("Mul", [f"{prefix}/float", f"{prefix}/scale"], scaled),
    ]
    return [*nodes, node_for("Add", [scaled, bias], y)] if bias else nodes
