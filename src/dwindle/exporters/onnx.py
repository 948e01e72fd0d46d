"""This file writes a compressed model as one self-contained `.onnx` file that really is small."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import onnx

from dwindle.artifact import Artifact
from dwindle.container.integer import PARTS, integer_form
from dwindle.container.records import Record
from dwindle.core.encoding import describe
from dwindle.errors import ExportError
from dwindle.exporters.graph import build_graph
from dwindle.exporters.half_graph import computes_in_half, store_halves
from dwindle.exporters.inline import unfold_codes, unfold_floats
from dwindle.exporters.native import to_record, unfit_options, unknown_dtypes, unknown_layers
from dwindle.exporters.opset import opset_of
from dwindle.exporters.options import ExportOptions
from dwindle.exporters.references import is_reference
from dwindle.exporters.tidy import drop_unread, fold_constants, replace_nodes
from dwindle.network.compressed import CompressedModel
from dwindle.network.inputs import Inputs
from dwindle.settings import to_plain
from dwindle.version import VERSION
from dwindle.whole_file import write_whole

LARGEST_FILE = 2**31 - 1
"""Bytes of the largest protobuf message; ONNX needs side files beyond it, which would no longer be one artifact."""
INT4_OPSET: Final = 21
"""The first opset with 4-bit integers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxExporter:
    """Exporter to ONNX. See `exporters/inline.py` for the form that each encoding takes.

    Attributes:
        notes: free text entries for the file's metadata.
        options: opset, batch size, type of floats, preprocessing, class names.
    """

    notes: Mapping[str, str] = field(default_factory=dict[str, str])
    options: ExportOptions = field(default_factory=ExportOptions)

    @property
    def format(self) -> str:
        """The artifact's format and file suffix."""
        return "onnx"

    def obstacles(self, model: CompressedModel) -> list[str]:
        """Return the reasons why ONNX cannot express `model`; empty if it can."""
        found = [*unknown_dtypes(model), *unknown_layers(model), *unfit_options(model, self.options)]
        n_bytes = sum(t.numel() * t.element_size() for t in model.network.state_dict().values())
        if n_bytes > LARGEST_FILE:
            found.append(f"{n_bytes} bytes of weights pass through one protobuf message, which holds {LARGEST_FILE}")
        return found

    def export(
        self, model: CompressedModel, example: Inputs, path: Path, *, graph: onnx.ModelProto | None = None
    ) -> Artifact:
        """Write `model` to `path`, whole or not at all; `example` is one input batch, `graph` its graph if it is known.

        The bytes depend on the model, the example's shape and the settings alone.

        Raises:
            NetworkError: the network cannot be captured.
            ExportError: ONNX cannot express the model, or the file cannot be written.
        """
        if reasons := self.obstacles(model):
            raise ExportError("ONNX cannot express this model: " + "; ".join(reasons))
        graph = build_graph(model, example, options=self.options) if graph is None else graph
        records = {name: to_record(encoding) for name, encoding in model.encodings.items()}
        digest = model.digest()
        structures = {describe(encoding) for encoding in model.encodings.values()}
        notes = {**self.notes, **as_notes(self.options.metadata()), **notes_of(digest, structures)}
        write_onnx(path, graph, records, notes=notes)
        return Artifact.of(path, origin=digest)


def as_notes(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return `metadata` as texts, which is all that ONNX holds: texts as they are, other values as JSON."""
    return {
        key: value if isinstance(value, str) else json.dumps(to_plain(value), sort_keys=True)
        for key, value in metadata.items()
    }


def notes_of(digest: str, structures: Iterable[str]) -> dict[str, str]:
    """Return what every `.onnx` of ours says about itself."""
    return {
        "dwindle.digest": digest,
        "dwindle.version": VERSION,
        "dwindle.encodings": ", ".join(sorted(structures)),
    }


def write_onnx(path: Path, graph: onnx.ModelProto, records: Mapping[str, Record], *, notes: Mapping[str, str]) -> None:
    """Write `graph`, which refers to `records` and stays as it is, to one self-contained file.

    Raises:
        ExportError: the result is not valid ONNX, or the file cannot be written.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(graph)
    fill_references(proto.graph, records, has_int4=opset_of(proto) >= INT4_OPSET)
    if computes_in_half(proto.graph):
        store_halves(proto.graph)
    onnx.helper.set_model_props(proto, dict(sorted(notes.items())))
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is not valid ONNX: {error}") from error
    _write(path, proto.SerializeToString(deterministic=True))


def fill_references(graph: onnx.GraphProto, records: Mapping[str, Record], *, has_int4: bool = True) -> None:
    """Replace, in place, every weight reference of `graph` by data and the nodes that unfold it.

    Where `has_int4` is False, what would take 4 bits takes 8.
    """
    wanted = {tensor.name for tensor in graph.initializer if is_reference(tensor)}
    inline = [tensor for tensor in graph.initializer if tensor.name not in wanted]
    nodes: list[onnx.NodeProto] = []
    for name, record in sorted(records.items()):
        form = integer_form(record) if f"{name}/{PARTS[0]}" in wanted else None
        if form is None and name not in wanted:
            continue
        unfolding = (
            unfold_floats(name, record, has_int4=has_int4)
            if form is None
            else unfold_codes(name, record, form, has_int4=has_int4)
        )
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
