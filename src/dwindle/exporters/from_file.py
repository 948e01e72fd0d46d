"""This file turns a `.dwn` file into an `.onnx` or into C arrays: from the file alone, without the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import onnx
from google.protobuf.message import DecodeError

from dwindle.artifact import Artifact
from dwindle.container.contents import Contents
from dwindle.container.reader import read
from dwindle.container.records import describe_record
from dwindle.errors import ContainerError, ExportError, SettingError
from dwindle.exporters.c_array import write_c_codes, write_c_file
from dwindle.exporters.graph import apply_options
from dwindle.exporters.half_graph import computes_in_half
from dwindle.exporters.onnx import as_notes, notes_of, write_onnx
from dwindle.exporters.opset import opset_of
from dwindle.exporters.options import ExportOptions, FloatType
from dwindle.settings import nearest

OWN: Final = frozenset({"n_dense_weights", "digest", "history", "edits", "activations", "version"})
"""Metadata that `.dwn` files have and `.onnx` files do not."""
TARGETS: Final = ("onnx", "c", "c-int8")
"""What a `.dwn` file can be turned into."""


def export_onnx(
    contents: Contents,
    path: Path,
    *,
    opset: int | None = None,
    ir_version: int | None = None,
    batch_size: int | None = None,
    float_type: FloatType | None = None,
) -> Artifact:
    """Write what a `.dwn` file contains as one self-contained `.onnx`; without options, the one that `deploy` writes.

    Args:
        contents: what `read` returns.
        path: of the new file.
        opset: an older one than the file's graph has; None keeps it, as do the other options.
        ir_version: version of ONNX's file format.
        batch_size: fixed from now on.
        float_type: `float16` computes in half.

    Raises:
        SettingError: an option is out of range.
        ContainerError: the file holds no graph, or one that is no ONNX model.
        ExportError: the graph cannot be changed as asked, or the file cannot be written.
    """
    graph = graph_of(contents)
    wanted = ExportOptions(
        opset=opset_of(graph) if opset is None else opset,
        ir_version=ir_version,
        batch_size=batch_size,
        float_type="float32" if float_type is None or computes_in_half(graph.graph) else float_type,
    )
    if float_type == "float32" and computes_in_half(graph.graph):
        raise ExportError("the graph of this file computes in float16; deploy the model again for float32")
    apply_options(graph, contents.records, wanted)
    metadata = {key: value for key, value in contents.metadata.items() if key not in OWN}
    digest = str(contents.metadata.get("digest", ""))
    structures = {describe_record(record) for record in contents.records.values()}
    write_onnx(path, graph, contents.records, notes={**as_notes(metadata), **notes_of(digest, structures)})
    return Artifact.of(path, origin=digest)


def graph_of(contents: Contents) -> onnx.ModelProto:
    """Return the graph of a file.

    Raises:
        ContainerError: there is none, or it is no ONNX model.
    """
    if not contents.graph:
        raise ContainerError("this file holds weights but no graph; export it again with an example input")
    try:
        graph = onnx.ModelProto.FromString(contents.graph)
    except DecodeError as error:
        raise ContainerError(f"the graph of this file is not an ONNX model: {error}") from error
    if not graph.graph.input or not graph.graph.output:
        raise ContainerError("the graph of this file has no input or no output; export it again")
    return graph


def export_file(path: Path, to: str, out: Path | None = None, **options: Any) -> tuple[Artifact, ...]:
    """Write the `.dwn` file at `path` in another form, and return the files written.

    Args:
        path: the file.
        to: `onnx`; `c`, the whole file as a byte array; `c-int8`, its int8 weights as arrays.
        out: the file to write, for C without a suffix or with either; None writes beside `path` under its name.
        options: those of `export_onnx`.

    Raises:
        SettingError: `to` is unknown, or an option is out of range.
        ContainerError: `path` is no intact `.dwn` file.
        ExportError: the file cannot become that, or the disk refuses.
    """
    if to not in TARGETS:
        raise SettingError(f"a .dwn file cannot become {to!r}; {nearest(to, TARGETS)}")
    contents = read(path)
    if out is not None and out.exists() and out.samefile(path):
        raise SettingError(f"{out} is the file to export and would be overwritten; give another path to write to")
    if to == "onnx":
        return (export_onnx(contents, path.with_suffix(".onnx") if out is None else out, **options),)
    stem = path.with_suffix("") if out is None else out
    if to == "c":
        return write_c_file(path, contents, stem)
    return write_c_codes(path, contents, stem, graph=graph_of(contents) if contents.graph else None)
