"""This file turns a `.dwn` file into another.

ONNX, OpenVINO IR and C arrays are made from the file alone; LiteRT's and ExecuTorch's formats from the network, too,
whose code no file holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

from torch import nn

from dwindle.artifact import Artifact, files_of
from dwindle.container.contents import Contents
from dwindle.container.reader import read
from dwindle.container.records import describe_record
from dwindle.errors import ExportError, SettingError
from dwindle.exporters.c_array import write_c_codes, write_c_file
from dwindle.exporters.graph import apply_options
from dwindle.exporters.half_graph import computes_in_half
from dwindle.exporters.onnx import as_notes, notes_of, write_onnx
from dwindle.exporters.openvino import write_ir
from dwindle.exporters.opset import opset_of
from dwindle.exporters.options import ExportOptions, FloatType
from dwindle.exporters.rebuild import model_of, require_no_preprocessing
from dwindle.network.file_graph import example_of, read_graph
from dwindle.settings import nearest

OWN: Final = frozenset({"n_dense_weights", "digest", "history", "edits", "activations", "version"})
"""Metadata that `.dwn` files have and `.onnx` files do not."""
OF_NETWORK: Final = ("tflite", "pte")
"""What needs the network."""
OF_GRAPH: Final = ("onnx", "xml")
"""What is made from the graph in the file, and takes all options."""
TARGETS: Final = (*OF_GRAPH, *OF_NETWORK, "c", "c-int8")
"""What a `.dwn` file can be turned into."""
OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(OF_GRAPH, ("opset", "ir_version", "batch_size", "float_type")),
    **dict.fromkeys(OF_NETWORK, ("batch_size",)),
}
"""What a target lets one choose; C arrays nothing."""
Network = nn.Module | Callable[[], nn.Module]


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
    graph = read_graph(contents.graph)
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


def export_openvino(contents: Contents, path: Path, **options: Any) -> Artifact:
    """Write what a `.dwn` file contains as OpenVINO IR to `path` and the `.bin` beside it.

    Args:
        contents: what `read` returns.
        path: of the new `.xml`.
        options: those of `export_onnx`.

    Raises:
        RuntimeUnavailableError: openvino is not installed.
        SettingError, ContainerError: as `export_onnx`.
        ExportError: the graph cannot be changed as asked, OpenVINO refuses it, or a file cannot be written.
    """
    return write_ir(path, lambda source: export_onnx(contents, source, **options))


def export_program(contents: Contents, path: Path, network: Network, *, batch_size: int | None = None) -> Artifact:
    """Write what a `.dwn` file contains for LiteRT or ExecuTorch, as the suffix of `path` says.

    Args:
        contents: what `read` returns.
        path: of the new `.tflite` or `.pte`.
        network: of the architecture that was compressed, before any folding, or a function that builds one.
        batch_size: 1 unless given.

    Raises:
        SettingError: the batch size is none, or the notes in the file are malformed.
        NetworkError: the tensors of the file are not those of the network.
        ContainerError: the file holds no graph, which tells the shape of the input.
        ExportError: the format cannot express the model, its packages are missing, or the file cannot be written.
    """
    from dwindle.exporters.executorch import ExecuTorchExporter
    from dwindle.exporters.litert import LiteRtExporter

    made = path.suffix.lstrip(".")
    require_no_preprocessing(contents.metadata, to=made)
    options = ExportOptions(batch_size=batch_size)
    exporter = ExecuTorchExporter(options=options) if made == "pte" else LiteRtExporter(options=options)
    example = example_of(read_graph(contents.graph))
    return exporter.export(model_of(contents, network), example, path)


def export_file(
    path: Path, to: str, out: Path | None = None, *, network: Network | None = None, **options: Any
) -> tuple[Artifact, ...]:
    """Write the `.dwn` file at `path` in another form, and return the files written.

    Args:
        path: the file.
        to: `onnx`; `xml`, OpenVINO's; `tflite`, LiteRT's; `pte`, ExecuTorch's; `c`, the whole file as a byte array;
            `c-int8`, its int8 weights as arrays.
        out: the file to write, for C without a suffix or with either; None writes beside `path` under its name.
        network: what `tflite` and `pte` are made from, beside the file: the network or a function that builds it.
        options: those of `export_onnx`; of these `tflite` and `pte` take `batch_size`, C arrays none.

    Raises:
        SettingError: `to` is unknown, an option is out of range, or the network is missing.
        NetworkError: the tensors of the file are not those of the network.
        ContainerError: `path` is no intact `.dwn` file.
        RuntimeUnavailableError: `to` is `xml` and openvino is not installed.
        ExportError: the file cannot become that, or the disk refuses.
    """
    _require_possible(to, network, options)
    contents = read(path)
    if out is not None:
        _require_other(out, path)
    if to in {"c", "c-int8"}:
        stem = path.with_suffix("") if out is None else out
        if to == "c":
            return write_c_file(path, contents, stem)
        return write_c_codes(path, contents, stem, graph=read_graph(contents.graph) if contents.graph else None)
    target = path.with_suffix(f".{to}") if out is None else _with_suffix(out, to)
    for written in files_of(target):
        _require_other(written, path)
    if to in OF_NETWORK:
        return (export_program(contents, target, cast("Network", network), **options),)
    return (export_onnx(contents, target, **options) if to == "onnx" else export_openvino(contents, target, **options),)


def _require_possible(to: str, network: Network | None, options: Mapping[str, Any]) -> None:
    if to not in TARGETS:
        raise SettingError(f"a .dwn file cannot become {to!r}; {nearest(to, TARGETS)}")
    taken = OPTIONS.get(to, ())
    if others := sorted(options.keys() - set(taken)):
        raise SettingError(f"{to} has no option {others[0]!r}; it has {', '.join(taken) or 'none'}")
    if to in OF_NETWORK and network is None:
        raise SettingError(
            f"a .{to} is made from the network, whose code no file holds; give it (--network package.module:function, "
            "which builds it)"
        )


def _require_other(target: Path, source: Path) -> None:
    if target.exists() and target.samefile(source):
        raise SettingError(f"{target} is the file to export and would be overwritten; give another path to write to")


def _with_suffix(out: Path, to: str) -> Path:
    """Return `out`, whose suffix is what engines know a format by; an `.onnx` may be called anything."""
    if to != "onnx" and out.suffix != f".{to}":
        raise SettingError(f"{out} does not end in .{to}, by which engines know the format; call it {out.name}.{to}")
    return out
