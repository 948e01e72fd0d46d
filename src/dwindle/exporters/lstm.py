"""This file lets LSTM layers multiply integers: LSTM becomes DynamicQuantizeLSTM, an operation of onnxruntime.

For each direction the weight's codes are brought from torch's form (4 * hidden, inputs), gates input, forget, cell,
output, to (inputs, 4 * hidden), gates input, output, forget, cell; directions are stacked. Scales and zero points
follow: one for each direction where each of its weights has one scale, else one for each output. All this is constant,
so the engine computes it at load and packs the codes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from dwindle.container.integer import PARTS, IntegerForm, integer_form
from dwindle.container.records import Record
from dwindle.errors import ExportError
from dwindle.exporters.opset import ENGINE_DOMAIN
from dwindle.exporters.references import reference
from dwindle.exporters.tidy import node_for, replace_nodes

INTEGER_LSTM: Final = "DynamicQuantizeLSTM"
GATES: Final = (0, 3, 1, 2)
"""Where ONNX's gates input, output, forget, cell stand in torch's order."""
REARRANGING: Final = frozenset({"Concat", "Slice", "Unsqueeze", "Identity"})


def multiply_codes_in_lstms(proto: onnx.ModelProto, records: Mapping[str, Record], weights: Collection[str]) -> None:
    """Turn, in place, each LSTM layer whose weights are among `weights` into one that multiplies their codes.

    Raises:
        ExportError: one of `weights` has no codes of 8 bits, or is read by no LSTM in a way that is known.
    """
    if not weights:
        return
    graph, left = proto.graph, set(weights)
    producers = {name: node for node in graph.node for name in node.output}
    nodes: list[onnx.NodeProto] = []
    layers = _Layers(graph, records)
    for node in graph.node:
        names = _weights_of(node, producers) if node.op_type == "LSTM" else ()
        is_integer = bool(names) and set(names) <= set(weights)
        nodes.append(layers.integer(node, names) if is_integer else node)
        left -= set(names) if is_integer else set()
    if left:
        raise ExportError(
            f"the weights {sorted(left)} are to be multiplied as integers, but no LSTM of the ONNX graph reads them "
            "alone; use QuantizeDynamic on the network that is exported"
        )
    replace_nodes(graph, [*layers.fronts, *nodes])
    if all(entry.domain != ENGINE_DOMAIN for entry in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid(ENGINE_DOMAIN, 1))


def with_float_lstms(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph with the shapes of `proto` in standard operations, whose shapes onnx can infer; it cannot run."""
    if all(node.op_type != INTEGER_LSTM for node in proto.graph.node):
        return proto
    twin = onnx.ModelProto()
    twin.CopyFrom(proto)
    for node in twin.graph.node:
        if node.op_type == INTEGER_LSTM and node.domain == ENGINE_DOMAIN:
            node.op_type, node.domain = "LSTM", ""
            del node.input[8:]
            node.input[1] = node.input[2] = node.input[0]  # shapes follow from the input and the hidden size
    return twin


def _weights_of(node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]) -> tuple[str, ...]:
    """Return the input and recurrent weight of the forward direction, then of the backward one; empty if not found."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    n_directions = 2 if attributes.get("direction") == b"bidirectional" else 1
    sides = [_directions(name, producers, n_directions) for name in node.input[1:3]]
    names = [tuple(_sources(name, producers)) for pair in zip(*sides, strict=False) for name in pair]
    known = all(len(found) == 1 for found in names) and len(names) == 2 * n_directions
    return tuple(name for (name,) in names) if known else ()


def _directions(name: str, producers: Mapping[str, onnx.NodeProto], n_directions: int) -> list[str]:
    """Return what is stacked to `name`, one value for each direction."""
    node = producers.get(name)
    if n_directions == 1:
        return [name]
    return list(node.input) if node is not None and node.op_type == "Concat" and len(node.input) == 2 else []


def _sources(name: str, producers: Mapping[str, onnx.NodeProto]) -> set[str]:
    """Return the initializers whose rearranged values are `name`."""
    node = producers.get(name)
    if node is None:
        return {name}
    if node.op_type not in REARRANGING:
        return set()
    inputs = node.input if node.op_type == "Concat" else node.input[:1]
    return {source for entry in inputs for source in _sources(entry, producers)}


class _Layers:
    """Makes integer layers; what they need in front of all other nodes gathers in `fronts`, constants in the graph."""

    def __init__(self, graph: onnx.GraphProto, records: Mapping[str, Record]) -> None:
        self.graph, self.records = graph, records
        self.fronts: list[onnx.NodeProto] = []
        self._known: set[str] = set()

    def integer(self, lstm: onnx.NodeProto, names: tuple[str, ...]) -> onnx.NodeProto:
        """Return the node that takes the place of `lstm`, whose weights are `names`."""
        hidden = int(next(a.i for a in lstm.attribute if a.name == "hidden_size"))
        inputs, recurrent = (self._side(f"{lstm.name}/{i}", names[i::2], hidden) for i in range(2))
        given = [*lstm.input, *[""] * (8 - len(lstm.input))]
        operands = [given[0], inputs[0], recurrent[0], *given[3:], *inputs[1:], *recurrent[1:]]
        node = helper.make_node(INTEGER_LSTM, operands, list(lstm.output), name=lstm.name, domain=ENGINE_DOMAIN)
        node.attribute.extend(attribute for attribute in lstm.attribute if attribute.name != "layout")
        return node

    def _side(self, prefix: str, names: tuple[str, ...], hidden: int) -> list[str]:
        """Return the names of codes, scale and zero point of `names`, the same weight of each direction."""
        forms = [self._form(name) for name in names]
        by_output = any(form.axis is not None for form in forms)
        each = [
            self._arranged(name, form, hidden, by_output=by_output) for name, form in zip(names, forms, strict=True)
        ]
        return [self._stacked(f"{prefix}/{part}", [row[i] for row in each]) for i, part in enumerate(PARTS)]

    def _form(self, name: str) -> IntegerForm:
        form = integer_form(self.records[name])
        if form is None or form.axis not in {None, 0}:
            raise ExportError(
                f"{name!r} has no codes of 8 bits with one scale, or one for each output, but is to be multiplied as "
                "integers; use QuantizeDynamic on the network that is exported"
            )
        for part in PARTS:
            self._constant(f"{name}/{part}", getattr(form, part), is_reference=True)
        return form

    def _arranged(self, name: str, form: IntegerForm, hidden: int, *, by_output: bool) -> list[str]:
        """Return codes (1, inputs, 4 * hidden), scale and zero point (1,) or (1, 4 * hidden) of one direction."""
        sorted_codes = self._sort_gates(f"{name}/codes", hidden, shape=[1, 4 * hidden, form.codes.shape[1]])
        codes = self._front("Transpose", [sorted_codes], f"{name}/codes/transposed", perm=[0, 2, 1])
        found = [codes]
        for part in PARTS[1:]:
            source = f"{name}/{part}"
            if form.axis is not None:
                found.append(self._sort_gates(source, hidden, shape=[1, 4 * hidden]))
            else:
                shape = [1, 4 * hidden] if by_output else [1]
                found.append(self._front("Expand", [source, self._shape(shape)], f"{source}/spread"))
        return found

    def _sort_gates(self, name: str, hidden: int, *, shape: list[int]) -> str:
        by_gate = self._front("Reshape", [name, self._shape([4, hidden, *shape[2:]])], f"{name}/by_gate")
        order = self._constant("gates", np.asarray(GATES, dtype=np.int64))
        in_order = self._front("Gather", [by_gate, order], f"{name}/in_order", axis=0)
        return self._front("Reshape", [in_order, self._shape(shape)], f"{name}/sorted")

    def _stacked(self, name: str, directions: list[str]) -> str:
        return directions[0] if len(directions) == 1 else self._front("Concat", directions, name, axis=0)

    def _front(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        if output not in self._known:  # the weights of a layer that is called twice
            self.fronts.append(node_for(op, inputs, output, **attributes))
            self._known.add(output)
        return output

    def _shape(self, shape: list[int]) -> str:
        return self._constant(f"shape/{'x'.join(map(str, shape))}", np.asarray(shape, dtype=np.int64))

    def _constant(self, name: str, array: npt.NDArray[Any], *, is_reference: bool = False) -> str:
        """Add an initializer, once; a reference has no data here."""
        name = name if is_reference else f"lstm/{name}"
        if name not in self._known:
            dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
            tensor = reference(name, dtype, array.shape) if is_reference else numpy_helper.from_array(array, name)
            self.graph.initializer.append(tensor)
            self._known.add(name)
        return name
