"""This file holds `dwindle export`: another format from a `.dwn` file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dwindle.cli.bench import at_least
from dwindle.cli.console import print_json, stderr, stdout

File = Annotated[Path, typer.Argument(help="A .dwn file.", metavar="FILE.DWN")]
To = Annotated[
    Literal["onnx", "xml", "tflite", "pte", "c", "c-int8"],
    typer.Option(
        help="onnx: one self-contained file. xml: OpenVINO IR, with a .bin beside it. tflite: LiteRT. pte: ExecuTorch. "
        "c: the whole file as a byte array, model.h and model.c. c-int8: int8 weights, scales and zero points as "
        "arrays."
    ),
]
Out = Annotated[
    str | None, typer.Option(help="File to write, or a folder; beside FILE.DWN by default.", metavar="PATH")
]
NetworkOf = Annotated[
    str | None,
    typer.Option("--network", help="What builds the network, for tflite and pte: package.module:function."),
]
Opset = Annotated[int | None, typer.Option(help="ONNX operators, 15 to 21; as in the file by default.")]
IrVersion = Annotated[int | None, typer.Option(help="Version of ONNX's file format; the oldest that does by default.")]
BatchSize = Annotated[
    int | None, typer.Option(help="Fix the batch size; free by default, 1 in tflite and pte.", callback=at_least(1))
]
FloatType = Annotated[
    Literal["float32", "float16"] | None, typer.Option(help="What floats are computed in; as in the file by default.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

OF_ONNX = ("opset", "ir_version", "batch_size", "float_type")
TAKEN: Mapping[str, tuple[str, ...]] = {
    "onnx": OF_ONNX,
    "xml": OF_ONNX,
    "tflite": ("batch_size",),
    "pte": ("batch_size",),
}
"""Options that a format takes."""
COMPILED: Mapping[str, str] = {"tflite": "LiteRT", "pte": "ExecuTorch"}
"""Formats that an engine's compiler writes, which takes its time."""


def export(
    file: File,
    *,
    to: To = "onnx",
    out: Out = None,
    network: NetworkOf = None,
    opset: Opset = None,
    ir_version: IrVersion = None,
    batch_size: BatchSize = None,
    float_type: FloatType = None,
    as_json: AsJson = False,
) -> None:
    """Write a .dwn file for another engine, or as C arrays; the network is needed for tflite and pte alone."""
    from dwindle.exporters.from_file import export_file  # onnx is heavy

    options = {"opset": opset, "ir_version": ir_version, "batch_size": batch_size, "float_type": float_type}
    given = {name: value for name, value in options.items() if value is not None}
    _require_fitting(to, given, network)
    target = None if out is None else _target(out, file, to)
    if to in COMPILED:
        stderr.print(f"compiling for {COMPILED[to]}: some seconds, or minutes for a large network or on a busy machine")
    written = export_file(file, to, target, network=None if network is None else _builder(network), **given)
    if as_json:
        files = [{"path": str(a.path), "size_bytes": a.size_bytes, "sha256": a.sha256} for a in written]
        print_json({"from": str(file), "to": to, "files": files})
        return
    for artifact in written:
        stdout.print(f"{artifact.path}  {artifact.size_bytes:,} bytes", markup=False)


def _target(out: str, file: Path, to: str) -> Path:
    """Return the file to write: `out`, or the name of `file` in it where it is a folder or ends as one (`c/`)."""
    path = Path(out)
    if not (path.is_dir() or out.endswith(("/", os.sep))):
        return path
    return path / (file.stem if to in {"c", "c-int8"} else f"{file.stem}.{to}")


def _require_fitting(to: str, given: Mapping[str, object], network: str | None) -> None:
    """Refuse what `to` does not take, a wrong call."""
    taken = TAKEN.get(to, ())
    if others := [name for name in given if name not in taken]:
        options = others[0].replace("_", "-")
        formats = " or ".join(f"--to {name}" for name, known in TAKEN.items() if others[0] in known)
        raise typer.BadParameter(f"--{options} is for {formats}, not for --to {to}")
    if network is not None and to not in COMPILED:
        raise typer.BadParameter(f"--network is for --to tflite or --to pte, not for --to {to}, which needs none")


def _builder(reference: str) -> Callable[..., Any]:
    from dwindle.job.resolve import resolve

    return resolve(reference, Path.cwd(), where="--network")
