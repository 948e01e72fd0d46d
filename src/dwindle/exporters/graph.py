"""This file builds the ONNX graph that every file format starts from, with its weights by reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import onnx

from dwindle.container.records import Record, decode_record
from dwindle.core.half import LARGEST
from dwindle.errors import ExportError
from dwindle.exporters.dynamic import multiply_codes, quantize_inputs
from dwindle.exporters.few_bits import round_inputs
from dwindle.exporters.fixed_batch import fix_batch
from dwindle.exporters.float_graph import float_graph
from dwindle.exporters.graph_cache import GraphCache
from dwindle.exporters.half_graph import compute_in_half
from dwindle.exporters.lstm import INTEGER_LSTM, multiply_codes_in_lstms
from dwindle.exporters.native import to_record
from dwindle.exporters.opset import lower_opset
from dwindle.exporters.options import ExportOptions
from dwindle.exporters.prepend import prepend
from dwindle.exporters.qdq import quantize_activations
from dwindle.exporters.references import refer_to_weights
from dwindle.exporters.tidy import drop_unread
from dwindle.network.activations import ActivationQuantizer, LevelQuantizer
from dwindle.network.capture import Captured, capture
from dwindle.network.compressed import CompressedModel
from dwindle.network.inputs import Inputs
from dwindle.network.recurrent import beside_lstms, dynamic_lstm_weights

DEFAULTS: Final = ExportOptions()


def build_graph(
    model: CompressedModel,
    example: Inputs,
    *,
    options: ExportOptions = DEFAULTS,
    captured: Captured | None = None,
    cache: GraphCache | None = None,
) -> onnx.ModelProto:
    """Return `model` as an ONNX graph whose weights are external references by name.

    `exporters/references.py` says what the names mean. Quantized activations are QuantizeLinear/DequantizeLinear pairs,
    inputs quantized at run time lead into integer products (`exporters/dynamic.py`).

    Args:
        model: what to export; its network runs in eval mode.
        example: one input batch; the graph accepts batches of any size, where the network does.
        options: opset, batch size, type of floats, preprocessing.
        captured: the graph of the model's network, where it is known already.
        cache: where the translation of an equal graph is looked up and kept.

    Raises:
        NetworkError: the network cannot be captured.
        ExportError: ONNX cannot express an operation, an option does not fit the model, or an activation quantizer
            belongs to no value of the graph.
    """
    captured = capture(model.network, example) if captured is None else captured
    plain = float_graph(model, captured) if cache is None else cache.float_graph(model, captured)
    graph = plain.proto.graph
    records = {name: to_record(encoding) for name, encoding in model.encodings.items()}
    static = {site: q for site, q in model.activations.items() if isinstance(q, ActivationQuantizer)}
    levels = {site: q for site, q in model.activations.items() if isinstance(q, LevelQuantizer)}
    quantize_activations(graph, plain.values, static)
    round_inputs(graph, plain.values, levels)
    others = beside_lstms(captured, model.activations).keys()
    quantize_inputs(graph, plain.values, sorted(others - static.keys() - levels.keys()))
    multiply_codes(graph, records)
    integers = dynamic_lstm_weights(captured, model.encodings, model.activations)
    multiply_codes_in_lstms(plain.proto, records, integers)
    refer_to_weights(graph, records)
    drop_unread(graph)
    apply_options(plain.proto, records, options)
    return plain.proto


def apply_options(proto: onnx.ModelProto, records: Mapping[str, Record], options: ExportOptions) -> None:
    """Change `proto`, in place, a graph with references to `records`, into what `options` ask for.

    Raises:
        ExportError: an option does not fit the graph.
    """
    _require_names(proto.graph, options.class_names)
    if options.float_type == "float16":
        require_half(proto.graph, records)
        compute_in_half(proto.graph)
    if options.preprocessing is not None:
        prepend(proto.graph, options.preprocessing)
    if options.batch_size is not None:
        fix_batch(proto, options.batch_size)
    lower_opset(proto, options.opset, ir_version=options.ir_version)


def require_half(graph: onnx.GraphProto, records: Mapping[str, Record]) -> None:
    """Check that a float graph with weights from `records` can compute in float16.

    Raises:
        ExportError: activations are quantized, or a weight is float64 or beyond the range of float16.
    """
    if any(node.op_type in {"QuantizeLinear", "DynamicQuantizeLinear", INTEGER_LSTM} for node in graph.node):
        raise ExportError("float_type='float16' is for float networks, this one computes in integers; use 'float32'")
    read = {tensor.name for tensor in graph.initializer}
    for name in sorted(read & records.keys()):
        values = decode_record(records[name])
        if values.dtype == np.float64:
            raise ExportError(f"{name!r} is float64; call network.float() before float_type='float16'")
        largest = float(np.abs(values).max(initial=0)) if values.dtype.kind == "f" else 0.0
        if largest > LARGEST:
            raise ExportError(
                f"{name!r} holds {largest:.4g}, beyond {LARGEST:.0f}, the largest float16; use float_type='float32' "
                "(or FoldBatchNorm, where it is a statistic of a batch norm)"
            )


def _require_names(graph: onnx.GraphProto, class_names: tuple[str, ...]) -> None:
    if not class_names:
        return
    dims = graph.output[0].type.tensor_type.shape.dim
    n_classes = dims[-1].dim_value if dims else 0
    if n_classes and n_classes != len(class_names):
        raise ExportError(f"{len(class_names)} class names for {n_classes} outputs; give one for each output, in order")
