"""This file builds the ONNX graph that every file format starts from, with its weights by reference."""

from __future__ import annotations

import onnx
from torch import Tensor

from dwindle.exporters.float_graph import float_graph
from dwindle.exporters.native import to_record
from dwindle.exporters.qdq import quantize_activations
from dwindle.exporters.references import refer_to_weights
from dwindle.exporters.tidy import drop_unread
from dwindle.network.compressed import CompressedModel


def build_graph(model: CompressedModel, example: Tensor) -> onnx.ModelProto:
    """Return `model` as an ONNX graph with a dynamic batch, whose weights are external references by name.

    `exporters/references.py` says what the names mean. Quantized activations are QuantizeLinear/DequantizeLinear pairs.

    Args:
        model: what to export; its network runs in eval mode.
        example: one input batch (batch, ...).

    Raises:
        NetworkError: the network cannot be captured.
        ExportError: ONNX cannot express an operation, or an activation quantizer belongs to no value of the graph.
    """
    plain = float_graph(model, example)
    graph = plain.proto.graph
    quantize_activations(graph, plain.values, model.activations)
    refer_to_weights(graph, {name: to_record(encoding) for name, encoding in model.encodings.items()})
    drop_unread(graph)
    return plain.proto
