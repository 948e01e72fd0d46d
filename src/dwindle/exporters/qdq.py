"""This file puts QuantizeLinear/DequantizeLinear pairs behind the quantized values of an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dwindle.core.encoding import code_range
from dwindle.errors import ExportError
from dwindle.exporters.tidy import node_for, replace_nodes
from dwindle.network.activations import ActivationQuantizer, CallSite

STORAGE: Final = {(8, False): np.uint8, (8, True): np.int8, (16, False): np.uint16, (16, True): np.int16}
"""The integers that QuantizeLinear knows; other widths are clipped to their range and stored in the next wider one."""
BYTES: Final = frozenset({TensorProto.UINT8, TensorProto.INT8})
MOVES: Final = frozenset({"Flatten", "Identity", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operations whose output holds values of their input and no others, so that it lies on the same grid."""


def quantize_activations(
    graph: onnx.GraphProto, values: Mapping[CallSite, str], quantizers: Mapping[CallSite, ActivationQuantizer]
) -> None:
    """Insert, in place, a pair behind each value that `quantizers` names; its readers then read what is left of it.

    A computed value `v` is renamed `v/float`, so that `v` is the dequantized one. An input keeps its name, and its
    readers read `v/dequantized`.

    Raises:
        ExportError: a call site has no value in this graph.
    """
    inputs = {value.name for value in graph.input}
    chains: dict[str, list[onnx.NodeProto]] = {}
    done: dict[str, ActivationQuantizer] = {}
    for site, quantizer in quantizers.items():
        name = values.get(site)
        if name is None:
            raise ExportError(
                f"call site {site} has no value in the ONNX graph; calibrate on the network that is exported "
                f"(known sites: {', '.join(str(known) for known in sorted(values)[:8])}, ...)"
            )
        if name in done:
            _require_equal(site, done[name], quantizer)
            continue
        done[name] = quantizer
        source, target = (name, f"{name}/dequantized") if name in inputs else (f"{name}/float", name)
        chains[name] = _pair(graph, name, quantizer, source=source, target=target)
    _insert(graph, chains, inputs)


def _require_equal(site: CallSite, first: ActivationQuantizer, second: ActivationQuantizer) -> None:
    def grid(quantizer: ActivationQuantizer) -> tuple[float, int, int, bool]:
        return quantizer.scale, quantizer.zero_point, quantizer.n_bits, quantizer.signed

    if grid(first) != grid(second):
        raise ExportError(
            f"call site {site} shares its value with another one, but is quantized with {second}, not {first}"
        )


def _pair(
    graph: onnx.GraphProto, name: str, quantizer: ActivationQuantizer, *, source: str, target: str
) -> list[onnx.NodeProto]:
    width = 8 if quantizer.n_bits <= 8 else 16
    scale, zero_point = f"{name}/scale", f"{name}/zero_point"
    graph.initializer.append(numpy_helper.from_array(np.asarray(quantizer.scale, dtype=np.float32), scale))
    stored = STORAGE[width, quantizer.signed](quantizer.zero_point)
    graph.initializer.append(numpy_helper.from_array(np.asarray(stored), zero_point))
    nodes: list[onnx.NodeProto] = []
    if quantizer.n_bits != width:
        nodes.append(_clip(graph, name, quantizer, source=source))
        source = nodes[-1].output[0]
    codes = f"{name}/codes"
    # The zero point tells the type already; the attribute lets a reader of the node tell as well.
    dtype = None if width == 8 else helper.np_dtype_to_tensor_dtype(stored.dtype)
    quantize = node_for("QuantizeLinear", [source, scale, zero_point], codes, output_dtype=dtype)
    return [*nodes, quantize, node_for("DequantizeLinear", [codes, scale, zero_point], target)]


def _clip(graph: onnx.GraphProto, name: str, quantizer: ActivationQuantizer, *, source: str) -> onnx.NodeProto:
    bounds: list[str] = []
    for bound, code in zip(("low", "high"), code_range(quantizer.n_bits, signed=quantizer.signed), strict=True):
        value = np.float32(code - quantizer.zero_point) * np.float32(quantizer.scale)
        graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype=np.float32), f"{name}/{bound}"))
        bounds.append(f"{name}/{bound}")
    return node_for("Clip", [source, *bounds], f"{name}/clipped")


def _insert(graph: onnx.GraphProto, chains: Mapping[str, list[onnx.NodeProto]], inputs: set[str]) -> None:
    nodes: list[onnx.NodeProto] = []
    for name in inputs & chains.keys():
        _redirect(graph, name, f"{name}/dequantized")
    for name in sorted(inputs & chains.keys()):
        nodes.extend(chains[name])
    for node in graph.node:
        behind: list[onnx.NodeProto] = []
        for i, name in enumerate(node.output):
            if name in chains:
                node.output[i] = f"{name}/float"
                behind.extend(chains[name])
        nodes.extend((node, *behind))
    replace_nodes(graph, nodes)


def _redirect(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new


def quantized_scale(producers: Mapping[str, onnx.NodeProto], name: str) -> str | None:
    """Return the name of the scale of `name` if it comes out of a pair, also through nodes that only move values.

    None for 16-bit codes, too: onnxruntime (1.31) has no kernel that multiplies them, so a layer behind them computes
    in floats, and its weight is better unfolded once at load than dequantized at every inference.
    """
    node = producers.get(name)
    while node is not None and node.op_type in MOVES:
        node = producers.get(node.input[0])
    quantize = None if node is None or node.op_type != "DequantizeLinear" else producers.get(node.input[0])
    if quantize is None or quantize.op_type != "QuantizeLinear":
        return None
    attributes = {a.name: helper.get_attribute_value(a) for a in quantize.attribute}
    return quantize.input[1] if attributes.get("output_dtype", TensorProto.UINT8) in BYTES else None
