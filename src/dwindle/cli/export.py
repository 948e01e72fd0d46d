"""This file holds `dwindle export`: another format from a `.dwn` file alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dwindle.cli.console import print_json, stdout

File = Annotated[Path, typer.Argument(help="A .dwn file.", metavar="FILE.DWN")]
To = Annotated[
    Literal["onnx", "c", "c-int8"],
    typer.Option(
        help="onnx: one self-contained file. c: the whole file as a byte array, model.h and model.c. "
        "c-int8: int8 weights, scales and zero points as arrays."
    ),
]
Out = Annotated[Path | None, typer.Option(help="File to write; beside FILE.DWN by default.", metavar="PATH")]
Opset = Annotated[int | None, typer.Option(help="ONNX operators, 15 to 21; as in the file by default.")]
IrVersion = Annotated[int | None, typer.Option(help="Version of ONNX's file format; the oldest that does by default.")]
BatchSize = Annotated[int | None, typer.Option(help="Fix the batch size; free by default.")]
FloatType = Annotated[
    Literal["float32", "float16"] | None, typer.Option(help="What floats are computed in; as in the file by default.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def export(
    file: File,
    *,
    to: To = "onnx",
    out: Out = None,
    opset: Opset = None,
    ir_version: IrVersion = None,
    batch_size: BatchSize = None,
    float_type: FloatType = None,
    as_json: AsJson = False,
) -> None:
    """Write a .dwn file as ONNX or as C arrays; the network is not needed."""
    from dwindle.exporters.from_file import export_file  # onnx is heavy

    options = {"opset": opset, "ir_version": ir_version, "batch_size": batch_size, "float_type": float_type}
    given = {name: value for name, value in options.items() if value is not None}
    if to != "onnx" and given:
        raise typer.BadParameter(f"--{next(iter(given)).replace('_', '-')} is for --to onnx, not for --to {to}")
    written = export_file(file, to, out, **given)
    if as_json:
        files = [{"path": str(a.path), "size_bytes": a.size_bytes, "sha256": a.sha256} for a in written]
        print_json({"from": str(file), "to": to, "files": files})
        return
    for artifact in written:
        stdout.print(f"{artifact.path}  {artifact.size_bytes:,} bytes", markup=False)
