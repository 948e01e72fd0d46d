"""This file writes a model as a `.dwn` file: torch encodings become the container's NumPy records, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, assert_never

import numpy as np
import torch
from torch import Tensor, nn

from dwindle.artifact import Artifact
from dwindle.container.contents import Contents
from dwindle.container.limits import MAX_ALPHABET
from dwindle.container.records import (
    AffineRecord,
    Array,
    CodebookRecord,
    DenseRecord,
    HalfRecord,
    Record,
    ScaledRecord,
    SparseRecord,
)
from dwindle.container.values import DTYPES
from dwindle.container.writer import write
from dwindle.core.encoding import Affine, Codebook, Dense, Encoding, Half, Scaled, Sparse, codebook_of
from dwindle.core.granularity import Granularity, PerChannel, PerGroup, PerTensor
from dwindle.errors import ExportError
from dwindle.exporters.options import ExportOptions
from dwindle.network.compressed import CompressedModel
from dwindle.network.inputs import Inputs
from dwindle.settings import to_plain
from dwindle.version import VERSION

if TYPE_CHECKING:
    from onnx import ModelProto

WIDE_OPSET: Final = 21
"""The first opset whose QuantizeLinear gives 16-bit integers."""


@dataclass(frozen=True, kw_only=True)
class NativeExporter:
    """Writes `.dwn` files.

    Attributes:
        metadata: JSON values that travel inside the file, such as class names and preprocessing; the exporter adds
            `n_dense_weights`, `digest`, `history`, `edits`, `activations` and `version`.
        options: what the graph in the file looks like.
    """

    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    options: ExportOptions = field(default_factory=ExportOptions)

    @property
    def format(self) -> str:
        """The artifact's format and file suffix."""
        return "dwn"

    def obstacles(self, model: CompressedModel) -> list[str]:
        """Return the reasons why the format cannot hold `model`; empty if it can."""
        found = [*unknown_dtypes(model), *unknown_layers(model), *unfit_options(model, self.options)]
        for name, encoding in model.encodings.items():
            codebook = codebook_of(encoding)
            if codebook is not None and codebook.codebook_size > MAX_ALPHABET:
                found.append(f"{name!r} has {codebook.codebook_size} centroids; use at most {MAX_ALPHABET}")
        return found

    def export(
        self, model: CompressedModel, example: Inputs, path: Path, *, graph: ModelProto | None = None
    ) -> Artifact:
        """Write `model` to `path`, whole or not at all; `example` is one input batch, `graph` its graph if it is known.

        Raises:
            ExportError: the format cannot hold the model, or ONNX cannot express its graph.
            ContainerError: the disk refuses the file.
        """
        from dwindle.exporters.graph import build_graph  # onnx is heavy and optional

        if reasons := self.obstacles(model):
            raise ExportError(f"this model cannot become a .dwn file: {'; '.join(reasons)}")
        graph = build_graph(model, example, options=self.options) if graph is None else graph
        data: bytes = graph.SerializeToString(deterministic=True)
        contents = to_contents(model, graph=data, metadata={**self.metadata, **self.options.metadata()})
        write(path, contents)
        return Artifact.of(path, origin=contents.metadata["digest"])


def unknown_dtypes(model: CompressedModel) -> list[str]:
    """Return a sentence for each tensor whose numbers have no NumPy twin (bfloat16, say)."""
    found = {name: str(_dtype_of(encoding)).removeprefix("torch.") for name, encoding in model.encodings.items()}
    known = ", ".join(DTYPES)
    return [f"{n!r} holds {d} numbers; convert it to one of {known}" for n, d in found.items() if d not in DTYPES]


def unknown_layers(model: CompressedModel) -> list[str]:
    """Return a sentence for each layer that ONNX has no operator for, and that torch would export as another one."""
    projected = [n for n, m in model.network.named_modules() if isinstance(m, nn.LSTM) and m.proj_size > 0]
    return [f"{n!r} is an LSTM with proj_size, which ONNX lacks; put a linear layer behind the LSTM" for n in projected]


def unfit_options(model: CompressedModel, options: ExportOptions) -> list[str]:
    """Return a sentence for each option that `model` rules out."""
    found: list[str] = []
    widths = {quantizer.n_bits for quantizer in model.activations.values()}
    if max(widths, default=0) > 8 and options.opset < WIDE_OPSET:
        found.append(f"{max(widths)}-bit activations need opset {WIDE_OPSET}, got {options.opset}; raise it")
    if widths and options.float_type != "float32":
        found.append(f"quantized activations compute in integers, not {options.float_type}; use float_type='float32'")
    return found


def to_contents(model: CompressedModel, *, graph: bytes, metadata: Mapping[str, Any]) -> Contents:
    """Return what the file of `model` contains; our own metadata keys win over those of `metadata`."""
    own = {
        "n_dense_weights": model.n_dense_weights,
        "digest": model.digest(),
        # Learning curves hold wall times: with them no two runs of one recipe would give the same bytes.
        "history": to_plain(tuple(replace(record, curve=()) for record in model.history)),
        "edits": to_plain(model.edits),
        "activations": {str(site): to_plain(quantizer) for site, quantizer in sorted(model.activations.items())},
        "version": VERSION,
    }
    records = {name: to_record(encoding) for name, encoding in model.encodings.items()}
    return Contents(records, model.aliases, graph, {**metadata, **own})


def to_record(encoding: Encoding) -> Record:
    """Return `encoding` in NumPy arrays; memory is shared where torch allows it."""
    match encoding:
        case Dense(values):
            return DenseRecord(_array(values))
        case Half(values):
            return HalfRecord(_array(values))
        case Affine(codes, scale, zero_point, granularity, n_bits, signed):
            arrays = (_array(codes.to(torch.int32)), _array(scale), _array(zero_point.to(torch.int32)))
            return AffineRecord(*arrays, _plain_granularity(granularity), n_bits, signed)
        case Codebook(indices, centroids):
            return CodebookRecord(_array(indices), to_record(centroids))  # pyright: ignore[reportArgumentType]
        case Sparse(support, values):
            return SparseRecord(_array(support), to_record(values))  # pyright: ignore[reportArgumentType]
        case Scaled(values, factor, axis):
            return ScaledRecord(to_record(values), _array(factor), axis)  # pyright: ignore[reportArgumentType]
        case _:
            assert_never(encoding)


def from_record(record: Record) -> Encoding:
    """Return `record` as an encoding of torch tensors, which own their memory.

    Raises:
        EncodingError: the record contradicts itself.
    """
    match record:
        case DenseRecord(values):
            return Dense(_tensor(values))
        case HalfRecord(values):
            return Half(_tensor(values))
        case AffineRecord(codes, scale, zero_point, granularity, n_bits, signed):
            tensors = (_tensor(codes), _tensor(scale).reshape(-1), _tensor(zero_point).reshape(-1))
            return Affine(*tensors, _granularity(granularity), n_bits, signed)
        case CodebookRecord(indices, centroids):
            return Codebook(_tensor(indices), from_record(centroids))  # pyright: ignore[reportArgumentType]
        case SparseRecord(support, values):
            return Sparse(_tensor(support), from_record(values))  # pyright: ignore[reportArgumentType]
        case ScaledRecord(values, factor, axis):
            return Scaled(from_record(values), _tensor(factor), axis)  # pyright: ignore[reportArgumentType]
        case _:
            assert_never(record)


def _dtype_of(encoding: Encoding) -> torch.dtype:
    """Return the type that `encoding` decodes to, without decoding it."""
    match encoding:
        case Dense(values):
            return values.dtype
        case Half() | Affine():
            return torch.float32
        case Codebook(_, inner) | Sparse(_, inner):
            return _dtype_of(inner)
        case Scaled(inner, factor, _):
            return torch.promote_types(_dtype_of(inner), factor.dtype)
        case _:
            assert_never(encoding)


def _array(tensor: Tensor) -> Array:
    return tensor.detach().cpu().contiguous().numpy()


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(np.array(array))


def _plain_granularity(granularity: Granularity) -> tuple[str] | tuple[str, int]:
    match granularity:
        case PerTensor():
            return ("tensor",)
        case PerChannel(axis):
            return ("channel", axis)
        case PerGroup(size):
            return ("group", size)


def _granularity(plain: tuple[str] | tuple[str, int]) -> Granularity:
    match plain:
        case ("channel", int(axis)):
            return PerChannel(axis)
        case ("group", int(size)):
            return PerGroup(size)
        case _:
            return PerTensor()
