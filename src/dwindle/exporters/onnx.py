"""This file writes a compressed model as one self-contained `.onnx` file that really is small."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from torch import Tensor

from dwindle.artifact import Artifact
from dwindle.container.integer import PARTS, integer_form
from dwindle.container.records import Record
from dwindle.core.encoding import describe
from dwindle.errors import ExportError
from dwindle.exporters.graph import build_graph
from dwindle.exporters.inline import unfold_codes, unfold_floats
from dwindle.exporters.native import to_record, unknown_dtypes
from dwindle.exporters.preprocessing import Preprocessing, prepend
from dwindle.exporters.references import is_reference
from dwindle.exporters.tidy import drop_unread, fold_constants, replace_nodes
from dwindle.network.compressed import CompressedModel
from dwindle.version import VERSION
from dwindle.whole_file import write_whole

LARGEST_FILE = 2**31 - 1
"""Bytes of the largest protobuf message; ONNX needs side files beyond it, which would no longer be one artifact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxExporter:
    """Exporter to ONNX (opset 21). See `exporters/inline.py` for the form that each encoding takes.

    Attributes:
        preprocessing: arithmetic put in front of the network, so that the file takes raw inputs; None adds nothing.
        notes: free text entries for the file's metadata, for example class names.
    """

    preprocessing: Preprocessing | None = None
    notes: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def format(self) -> str:
        """The artifact's format and file suffix."""
        return "onnx"

    def obstacles(self, model: CompressedModel) -> list[str]:
        """Return the reasons why ONNX cannot express `model`; empty if it can."""
        found = unknown_dtypes(model)
        n_bytes = sum(t.numel() * t.element_size() for t in model.network.state_dict().values())
        if n_bytes > LARGEST_FILE:
            found.append(f"{n_bytes} bytes of weights pass through one protobuf message, which holds {LARGEST_FILE}")
        return found

    def export(self, model: CompressedModel, example: Tensor, path: Path) -> Artifact:
        """Write `model` to `path`, whole or not at all; `example` is one input batch (batch, ...).

        The bytes depend on the model, the example's shape and the settings alone.

        Raises:
            NetworkError: the network cannot be captured.
            ExportError: ONNX cannot express the model, or the file cannot be written.
        """
        if reasons := self.obstacles(model):
            raise ExportError("ONNX cannot express this model: " + "; ".join(reasons))
        proto = build_graph(model, example)
        fill_references(proto.graph, {name: to_record(encoding) for name, encoding in model.encodings.items()})
        if self.preprocessing is not None:
            prepend(proto.graph, self.preprocessing)
        digest = model.digest()
        structures = {describe(encoding) for encoding in model.encodings.values()}
        own = {"dwindle.digest": digest, "dwindle.version": VERSION, "dwindle.encodings": ", ".join(sorted(structures))}
        onnx.helper.set_model_props(proto, {**dict(sorted(self.notes.items())), **own})
        try:
            onnx.checker.check_model(proto, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise ExportError(f"the exported graph is not valid ONNX: {error}") from error
        _write(path, proto.SerializeToString(deterministic=True))
        return Artifact.of(path, origin=digest)


def fill_references(graph: onnx.GraphProto, records: Mapping[str, Record]) -> None:
    """Replace, in place, every weight reference of `graph` by data and the nodes that unfold it."""
    wanted = {tensor.name for tensor in graph.initializer if is_reference(tensor)}
    inline = [tensor for tensor in graph.initializer if tensor.name not in wanted]
    nodes: list[onnx.NodeProto] = []
    for name, record in records.items():
        form = integer_form(record) if f"{name}/{PARTS[0]}" in wanted else None
        if form is None and name not in wanted:
            continue
        unfolding = unfold_floats(name, record) if form is None else unfold_codes(name, record, form)
        inline.extend(unfolding.initializers)
        nodes.extend(unfolding.nodes)
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in inline]
    del graph.initializer[:]
    graph.initializer.extend(copies)
    replace_nodes(graph, [*nodes, *graph.node])
    fold_constants(graph, keep=(), wanted=lambda node: "/bias/" in node.name)
    drop_unread(graph)


def _write(path: Path, data: bytes) -> None:
    try:
        write_whole(path, data)
    except OSError as error:
        raise ExportError(
            f"cannot write {len(data)} bytes to {path}: {error}; free space or choose another folder"
        ) from error
