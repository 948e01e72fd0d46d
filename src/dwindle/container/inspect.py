"""This file says where the bytes of a `.dwn` file went: a ledger whose parts add up to the size of the file."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dwindle.container.header import PREAMBLE_BYTES
from dwindle.container.integer import bytes_in_runtime
from dwindle.container.plan import streams_of
from dwindle.container.reader import Opened, open_file
from dwindle.container.records import DenseRecord, decode_record, describe_record
from dwindle.container.references import external_names
from dwindle.errors import ContainerError

FP32_BYTES = 4
_MOST_WEIGHTS = 1 << 63
"""Metadata may claim any number; from here on it is no number of weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSizes:
    """One tensor of a file; sizes in bytes.

    Attributes:
        structure: its encoding in words, for example `Sparse(Codebook(16, Dense))`.
        raw_bytes: 4 for each floating-point number; buffers of another type count as they are.
        encoded_bytes: all its streams, tables included.
        runtime_bytes: what a runtime holds: int8 codes where the graph computes with integers, else decoded numbers.
        sparsity: fraction of exact zeros.
    """

    name: str
    shape: tuple[int, ...]
    structure: str
    n_weights: int
    raw_bytes: int
    encoded_bytes: int
    runtime_bytes: int
    sparsity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSizes:
    """One file; sizes in bytes. `header_bytes + graph_bytes + encoded_bytes + overhead_bytes == file_bytes`.

    Attributes:
        header_bytes: compressed JSON: names, shapes, metadata.
        graph_bytes: compressed ONNX graph.
        overhead_bytes: preamble: magic, version, lengths, checksums.
        n_dense_weights: parameters of the dense network; None where the metadata does not tell.
    """

    path: Path
    file_bytes: int
    header_bytes: int
    graph_bytes: int
    overhead_bytes: int
    tensors: tuple[TensorSizes, ...]
    n_dense_weights: int | None
    metadata: Mapping[str, Any]

    @property
    def n_weights(self) -> int:
        """Numbers in all tensors, buffers included."""
        return sum(tensor.n_weights for tensor in self.tensors)

    @property
    def raw_bytes(self) -> int:
        """All tensors uncompressed."""
        return sum(tensor.raw_bytes for tensor in self.tensors)

    @property
    def encoded_bytes(self) -> int:
        """All streams."""
        return sum(tensor.encoded_bytes for tensor in self.tensors)

    @property
    def runtime_bytes(self) -> int:
        """All weights as a runtime holds them."""
        return sum(tensor.runtime_bytes for tensor in self.tensors)

    @property
    def sparsity(self) -> float:
        """Fraction of exact zeros among all numbers."""
        zeros = sum(tensor.sparsity * tensor.n_weights for tensor in self.tensors)
        return zeros / self.n_weights if self.n_weights else 0.0

    @property
    def compression_ratio(self) -> float | None:
        """Dense fp32 weight bytes ÷ bytes of the whole file; None where the dense size is unknown."""
        return None if self.n_dense_weights is None else FP32_BYTES * self.n_dense_weights / self.file_bytes

    def zip_bytes(self) -> int:
        """Return the bytes of the decoded tensors as zip stores them (deflate, level 9); slow on large files.

        Raises:
            ContainerError: the file has gone or changed since it was inspected.
        """
        with open_file(self.path) as opened:
            return sum(_deflated(np.ascontiguousarray(opened.array(name))) for name in opened.header.plans)


def inspect_file(path: Path) -> FileSizes:
    """Return where the bytes of the `.dwn` file at `path` went.

    Raises:
        ContainerError: the file cannot be read.
    """
    with open_file(path) as opened:
        tensors = tuple(_tensors(opened))
    n_dense = opened.metadata.get("n_dense_weights")
    sizes = FileSizes(
        path=path,
        file_bytes=opened.preamble.file_size,
        header_bytes=opened.preamble.header_stored,
        graph_bytes=opened.preamble.graph_stored,
        overhead_bytes=PREAMBLE_BYTES,
        tensors=tensors,
        n_dense_weights=n_dense if type(n_dense) is int and 0 < n_dense < _MOST_WEIGHTS else None,
        metadata=opened.metadata,
    )
    n_accounted = sizes.header_bytes + sizes.graph_bytes + sizes.overhead_bytes + sizes.encoded_bytes
    if n_accounted != sizes.file_bytes:
        raise ContainerError(f"{path}: parts of {n_accounted} bytes do not add up to {sizes.file_bytes}")
    return sizes


def _tensors(opened: Opened) -> Iterator[TensorSizes]:
    codes = {name for name in external_names(opened.graph) if name.endswith("/codes")}
    for name, plan in opened.header.plans.items():
        record = opened.record(name)
        n_weights = math.prod(plan.shape)
        itemsize = record.values.itemsize if isinstance(record, DenseRecord) else FP32_BYTES
        n_kept = int(np.count_nonzero(decode_record(record)))
        yield TensorSizes(
            name=name,
            shape=plan.shape,
            structure=describe_record(record),
            n_weights=n_weights,
            raw_bytes=n_weights * itemsize,
            encoded_bytes=sum(stream.n_bytes for stream in streams_of(plan)),
            runtime_bytes=bytes_in_runtime(record, is_integer=f"{name}/codes" in codes),
            sparsity=1 - n_kept / n_weights if n_weights else 0.0,
        )


def _deflated(values: np.ndarray[Any, Any]) -> int:
    """Return the length of raw deflate, which is what a zip file holds."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return len(deflater.compress(values.tobytes())) + len(deflater.flush())
