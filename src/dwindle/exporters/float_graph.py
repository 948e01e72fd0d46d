"""This file exports a network as a plain float ONNX graph whose initializers have the names of the state dict."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import onnx
import torch
from torch import fx
from torch.export import ExportedProgram

from dwindle.errors import ExportError
from dwindle.exporters.fixed_batch import BATCH
from dwindle.exporters.references import empty_weights
from dwindle.exporters.tidy import drop_unread, drop_zero_biases, fold_constants, pool_globally
from dwindle.network.activations import CallSite
from dwindle.network.capture import Captured
from dwindle.network.compressed import CompressedModel

OPSET: Final = 21
"""The first opset with 4-bit integers and with 16-bit QuantizeLinear; onnxruntime reads it since 1.20."""
EXPORT_LOGGER: Final = "torch.onnx._internal.exporter._registration"


@dataclass(frozen=True, slots=True, eq=False)
class FloatGraph:
    """A float graph, and which of its values belongs to which call site."""

    proto: onnx.ModelProto
    values: Mapping[CallSite, str]

    def copy(self) -> FloatGraph:
        """Return the same graph, to be changed without changing this one."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        return FloatGraph(proto, dict(self.values))


def float_graph(model: CompressedModel, captured: Captured) -> FloatGraph:
    """Return `captured`, the graph of `model.network`, as ONNX; activation quantizers play no part here.

    Inputs have the names of the parameters of `forward`; the output is `output`, or `output_0`, `output_1`, ...
    Weights are references by their names in the state dict; of tied weights only the first name is left.

    Raises:
        ExportError: torch has no ONNX form for an operation of the network.
    """
    program = _export(captured.program)
    proto = program.model_proto
    decomposed = program.exported_program
    if decomposed is None:
        raise ExportError("torch.onnx.export kept no program, so call sites cannot be found; use the pinned torch")
    values = _values_of_sites(captured, decomposed)
    graph = proto.graph
    _merge_tied(graph, model.aliases)
    empty_weights(graph, model.encodings.keys())  # early: every step from here on copies what it keeps
    fold_constants(graph, keep=set(model.encodings))
    drop_zero_biases(graph, keep=set(model.encodings))
    pool_globally(graph)
    drop_unread(graph)
    renamed = _name_interface(graph)
    present = {*(name for node in graph.node for name in node.output), *(value.name for value in graph.input)}
    values = {site: renamed.get(name, name) for site, name in values.items()}
    _strip(proto)
    return FloatGraph(proto, {site: name for site, name in values.items() if name in present})


def _export(program: ExportedProgram) -> torch.onnx.ONNXProgram:
    with _quiet():
        try:
            # optimize=False: the optimizer folds weights and renames initializers, which are our references.
            exported = torch.onnx.export(program, dynamo=True, optimize=False, opset_version=OPSET, verbose=False)
        except torch.onnx.errors.OnnxExporterError as error:
            raise ExportError(f"torch.onnx cannot express this network: {_last_line(error)}") from error
    if exported is None:
        raise ExportError("torch.onnx.export returned nothing; use the pinned torch")
    return exported


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Hide what the exporter says about itself: its own deprecated calls, and that torchvision is absent."""
    logger = logging.getLogger(EXPORT_LOGGER)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*LeafSpec.*", category=FutureWarning)
            yield
    finally:
        logger.setLevel(before)


def _values_of_sites(captured: Captured, decomposed: ExportedProgram) -> dict[CallSite, str]:
    """Return the ONNX value of each call site.

    ONNX values are named after the nodes of the decomposed program, and each of those remembers the node it came from.
    Where one operation became several, its value is the one that is read outside of them.
    """
    origins = {node: _origin(node) for node in decomposed.graph.nodes if node.op == "call_function"}
    found: dict[str, str] = {str(name): str(name) for name in captured.program.graph_signature.user_inputs}
    for node, origin in origins.items():
        leaves = any(origins.get(user) != origin for user in node.users)
        if origin is not None and leaves:
            found[origin] = node.name
    for node in captured.program.graph.nodes:  # an operation that came to nothing (dropout) has the value of its input
        source = node.args[0] if node.args else None
        if (
            node.op == "call_function"
            and node.name not in found
            and isinstance(source, fx.Node)
            and source.name in found
        ):
            found[node.name] = found[source.name]
    return {site: found[name] for name, site in captured.sites.items() if name in found}


def _origin(node: fx.Node) -> str | None:
    name = None
    sources: list[Any] = node.meta.get("from_node") or []
    while sources:
        name = str(sources[-1].name)
        sources = sources[-1].from_node
    return name


def _merge_tied(graph: onnx.GraphProto, aliases: Mapping[str, str]) -> None:
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = aliases.get(name, name)
    for tensor in graph.initializer:
        tensor.name = aliases.get(tensor.name, tensor.name)


def _name_interface(graph: onnx.GraphProto) -> dict[str, str]:
    """Name the outputs and the batch dimension; return old name -> new name of what was renamed."""
    fixed = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    renamed: dict[str, str] = {}
    for i, output in enumerate(graph.output):
        name = "output" if len(graph.output) == 1 else f"output_{i}"
        if output.name in fixed or output.name in renamed:  # an input handed through, or one value given out twice
            source = renamed.get(output.name, output.name)
            graph.node.append(onnx.helper.make_node("Identity", [source], [name], name=f"node_{name}"))
        else:
            renamed[output.name] = name
        output.name = name
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = renamed.get(name, name)
    _name_batch(graph)
    return renamed


def _name_batch(graph: onnx.GraphProto) -> None:
    first = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    if not first:
        return
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(rf"\b{re.escape(first)}\b", BATCH, dim.dim_param)


def _strip(proto: onnx.ModelProto) -> None:
    """Remove stack traces and other notes of the exporter: they tell the user's paths and differ from run to run."""
    graph = proto.graph
    graph.name, proto.doc_string = "main", ""
    del proto.metadata_props[:]
    _strip_graph(graph)
    proto.producer_name, proto.producer_version = "dwindle", ""


def _strip_graph(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    del graph.metadata_props[:]
    graph.doc_string = ""
    for item in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""
    for inner in (attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")):
        _strip_graph(inner)  # one side of a branch
