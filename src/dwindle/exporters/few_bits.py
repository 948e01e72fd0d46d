"""This file writes what rounds the inputs of layers to a few levels in [-1, 1], in the arithmetic of our own model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from dwindle.errors import ExportError
from dwindle.exporters.dynamic import PRODUCTS, product_behind
from dwindle.exporters.tidy import node_for, replace_nodes
from dwindle.network.activations import CallSite, LevelQuantizer

LAYERS = PRODUCTS | {"Conv"}


def round_inputs(
    graph: onnx.GraphProto, values: Mapping[CallSite, str], quantizers: Mapping[CallSite, LevelQuantizer]
) -> None:
    """Let, in place, the layer behind each site read its input on the levels of its quantizer.

    Raises:
        ExportError: a call site has no convolution or matrix product in this graph.
    """
    producers = {name: node for node in graph.node for name in node.output}
    wanted: dict[str, LevelQuantizer] = {}
    for site, quantizer in quantizers.items():
        layer = product_behind(producers, values.get(site, ""), among=LAYERS)
        if layer is None:
            raise ExportError(
                f"call site {site} has no convolution or matrix product in the ONNX graph, but its input is to be "
                "rounded; use Binarize on the network that is exported"
            )
        wanted[layer.name] = quantizer
    nodes: list[onnx.NodeProto] = []
    done: set[str] = set()
    for node in graph.node:
        if quantizer := wanted.get(node.name):
            rounded = f"{node.input[0]}/{quantizer.kind}{quantizer.n_bits}"
            nodes.extend([] if rounded in done else _rounding(graph, node.input[0], rounded, quantizer=quantizer))
            done.add(rounded)
            node.input[0] = rounded
        nodes.append(node)
    replace_nodes(graph, nodes)


def _rounding(graph: onnx.GraphProto, x: str, target: str, *, quantizer: LevelQuantizer) -> list[onnx.NodeProto]:
    if quantizer.n_bits == 1:
        return [node_for("Sign", [x], target)]
    levels = quantizer.levels
    steps: list[tuple[str, tuple[float, ...]]] = [("Clip", (-1.0, 1.0))]
    if levels.kind == "full":
        steps += [("Add", (1.0,)), ("Mul", (levels.highest / 2.0,)), ("Add", (0.5,)), ("Floor", ())]
        steps += [("Mul", (2.0,)), ("Sub", (float(levels.highest),)), ("Mul", (levels.unit,))]
    else:
        steps += [("Mul", (float(levels.highest),)), ("Add", (0.5,)), ("Floor", ()), ("Mul", (levels.unit,))]
    nodes: list[onnx.NodeProto] = []
    source = x
    for number, (operation, operands) in enumerate(steps):
        names = [f"{target}/{number}/{i}" for i in range(len(operands))]
        for name, value in zip(names, operands, strict=True):
            graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype=np.float32), name))
        out = target if number == len(steps) - 1 else f"{target}/{number}"
        nodes.append(node_for(operation, [source, *names], out))
        source = out
    return nodes
