"""This file holds `dwindle inspect`: where the bytes of a file went."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from dwindle.cli.console import print_json, stdout
from dwindle.container.inspect import FileSizes, inspect_file

File = Annotated[Path, typer.Argument(help="A .dwn file.", metavar="FILE.DWN")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
WithZip = Annotated[bool, typer.Option("--zip/--no-zip", help="Compare with a zip of the decoded fp32 weights (slow).")]

WIDEST: Final = 200
"""Characters a table row may take; a narrow terminal wraps rows, which keeps every figure whole."""


def inspect(file: File, *, as_json: AsJson = False, with_zip: WithZip = True) -> None:
    """Print where the bytes of a file went: for each tensor and in total, dense, encoded and as a runtime holds it."""
    sizes = inspect_file(file)
    zip_bytes = sizes.zip_bytes() if with_zip else None
    if as_json:
        print_json(_plain(sizes, zip_bytes))
    else:
        Console(width=WIDEST, highlight=False, markup=False).print(_table(sizes), crop=False)
        for line in _totals(sizes, zip_bytes):
            stdout.print(line)


def _plain(sizes: FileSizes, zip_bytes: int | None) -> dict[str, Any]:
    tensors = [asdict(tensor) for tensor in sizes.tensors]
    return {
        "file": sizes.path.name,
        "file_bytes": sizes.file_bytes,
        "header_bytes": sizes.header_bytes,
        "graph_bytes": sizes.graph_bytes,
        "encoded_bytes": sizes.encoded_bytes,
        "overhead_bytes": sizes.overhead_bytes,
        "runtime_bytes": sizes.runtime_bytes,
        "raw_bytes": sizes.raw_bytes,
        "zip_bytes": zip_bytes,
        "n_dense_weights": sizes.n_dense_weights,
        "compression_ratio": sizes.compression_ratio,
        "tensors": tensors,
    }


def _table(sizes: FileSizes) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("tensor", "shape", "structure"):
        table.add_column(name)
    for name in ("weights", "sparsity", "fp32 bytes", "encoded", "bits/weight", "in runtime"):
        table.add_column(name, justify="right")
    for t in sizes.tensors:
        bits = f"{8 * t.encoded_bytes / t.n_weights:.2f}" if t.n_weights else ""
        cells = (f"{t.n_weights:,}", f"{t.sparsity:.1%}", f"{t.raw_bytes:,}", f"{t.encoded_bytes:,}", bits)
        table.add_row(t.name, "x".join(map(str, t.shape)), t.structure, *cells, f"{t.runtime_bytes:,}")
    return table


def _totals(sizes: FileSizes, zip_bytes: int | None) -> list[str]:
    lines = [
        f"file {sizes.file_bytes:,} bytes = header {sizes.header_bytes:,} + graph {sizes.graph_bytes:,} "
        f"+ tensors {sizes.encoded_bytes:,} + frame {sizes.overhead_bytes:,}",
        f"the runtime will hold {sizes.runtime_bytes:,} bytes of weights",
    ]
    if zip_bytes is not None:
        lines.append(f"a zip of the decoded fp32 weights would take {zip_bytes:,} bytes")
    if sizes.compression_ratio is not None and sizes.n_dense_weights is not None:
        dense_bytes = 4 * sizes.n_dense_weights
        lines.append(f"dense fp32 weights {dense_bytes:,} bytes / this file = {sizes.compression_ratio:.2f}x")
    return lines
