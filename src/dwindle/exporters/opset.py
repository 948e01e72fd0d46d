"""This file rewrites an ONNX graph for an older opset, or says which operation that opset cannot express."""

from __future__ import annotations

from typing import Any, Final

import onnx
from onnx import defs, helper, numpy_helper

from dwindle.errors import ExportError

ENGINE_DOMAIN: Final = "com.microsoft"
"""Operations of onnxruntime: they have one version, whatever that of the standard ones."""
REDEFINED: Final = frozenset({"GridSample", "GroupNormalization", "RoiAlign"})
"""Operations that compute something else, or spell their attributes otherwise, in an older version of themselves."""


def opset_of(proto: onnx.ModelProto) -> int:
    """Return the opset of the standard operations of `proto`."""
    return next((entry.version for entry in proto.opset_import if entry.domain in {"", "ai.onnx"}), 0)


def lower_opset(proto: onnx.ModelProto, opset: int, *, ir_version: int | None = None) -> None:
    """Rewrite `proto`, in place, for `opset`, and give it the oldest format that knows it (or `ir_version`).

    Most operations are the same in both, or have only gained types and optional attributes since.

    Raises:
        ExportError: `opset` is newer than the graph, or has no form for one of its operations (all are listed).
    """
    current = opset_of(proto)
    if opset > current:
        raise ExportError(
            f"the graph is written in opset {current} and cannot become {opset}; ask for {current} or less"
        )
    if opset < current:
        constants = {tensor.name: tensor for tensor in proto.graph.initializer}
        problems = [_lower(node, current, opset=opset, constants=constants) for node in proto.graph.node]
        if listed := sorted({problem for problem in problems if problem}):
            raise ExportError(f"opset {opset} cannot express this network: {'; '.join(listed)}; ask for a newer one")
        others = [entry for entry in proto.opset_import if entry.domain == ENGINE_DOMAIN]
        standard = helper.make_opsetid("", opset)
        del proto.opset_import[:]
        proto.opset_import.extend([standard, *others])
        proto.ir_version = helper.find_min_ir_version_for([standard])
    if ir_version is not None:
        proto.ir_version = ir_version


def _lower(node: onnx.NodeProto, current: int, *, opset: int, constants: dict[str, onnx.TensorProto]) -> str:
    """Rewrite `node`, in place, for `opset`; return what is in the way, empty where nothing is."""
    if node.domain == ENGINE_DOMAIN:
        return ""
    if node.domain not in {"", "ai.onnx"}:
        return f"{node.op_type} of domain {node.domain!r} is no standard operation"
    newer = defs.get_schema(node.op_type, current)
    try:
        older = defs.get_schema(node.op_type, opset)
    except defs.SchemaError:
        return f"{node.op_type} exists from opset {_first_version(node.op_type)} on"
    if newer.since_version == older.since_version:
        return ""
    if "axes" in older.attributes and "axes" not in newer.attributes:
        _axes_as_attribute(node, constants)
    return _difference(node, newer, older)


def _difference(node: onnx.NodeProto, newer: Any, older: Any) -> str:
    """Take away, in place, attributes that say what `older` does anyway; return what `older` has not."""
    if node.op_type in REDEFINED:
        return f"{node.op_type} was redefined in opset {newer.since_version}"
    if len(node.input) > older.max_input:
        return f"{node.op_type} has {len(node.input)} inputs, {older.max_input} before opset {newer.since_version}"
    for attribute in [attribute for attribute in node.attribute if attribute.name not in older.attributes]:
        if not _is_default(attribute, newer):
            return f"{node.op_type} has no {attribute.name} before opset {newer.since_version}"
        node.attribute.remove(attribute)
    return ""


def _axes_as_attribute(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> None:
    """Reductions read their axes from an input since opset 18."""
    if len(node.input) == 2 and node.input[1] in constants:
        axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
        del node.input[1]
        node.attribute.append(helper.make_attribute("axes", axes))
        kept = [attribute for attribute in node.attribute if attribute.name != "noop_with_empty_axes"]
        del node.attribute[:]
        node.attribute.extend(kept)


def _is_default(attribute: onnx.AttributeProto, schema: Any) -> bool:
    value = helper.get_attribute_value(attribute)
    if attribute.name == "dilations":  # ones, by the text of the standard
        return set(value) <= {1}
    default = schema.attributes[attribute.name].default_value
    return bool(default.type) and value == helper.get_attribute_value(default)


def _first_version(op: str) -> int:
    return min(
        schema.since_version
        for schema in defs.get_all_schemas_with_history()
        if schema.name == op and not schema.domain
    )
