"""This file writes a record as JSON plus streams; `decode.py` reads it back."""

from __future__ import annotations

import math
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from dwindle.container import coders
from dwindle.container.coders import Coded
from dwindle.container.limits import MAX_ALPHABET, MAX_RANK
from dwindle.container.plan import (
    n_scales,
)
from dwindle.container.records import (
    AffineRecord,
    CodebookRecord,
    DenseRecord,
    HalfRecord,
    Record,
    ScaledRecord,
    SparseRecord,
    shape_of_record,
)
from dwindle.container.values import encode_values
from dwindle.errors import ContainerError

Array = npt.NDArray[Any]


class StreamWriter:
    """Collects the streams section; records are appended in order of tensor names."""

    def __init__(self) -> None:
        self.section = bytearray()

    def describe(self, record: Record) -> dict[str, Any]:
        """Append the streams of `record` and return its JSON.

        Raises:
            ContainerError: the record contradicts itself or cannot be stored.
        """
        shape = shape_of_record(record)
        if len(shape) > MAX_RANK:
            raise ContainerError(f"a tensor of rank {len(shape)} cannot be stored; the format allows {MAX_RANK}")
        return self._record(record, None)

    def _record(self, record: Record, inside: Array | None) -> dict[str, Any]:
        """Describe `record`; only symbols at the flat positions `inside` reach the file (None: all)."""
        match record:
            case DenseRecord(values):
                return {"kind": "dense", "dtype": values.dtype.name, "values": self._numbers(values, inside)}
            case HalfRecord(values):
                _require_half(values)
                return {"kind": "half", "values": self._numbers(values, inside)}
            case AffineRecord():
                return self._affine(record, inside)
            case CodebookRecord(indices, centroids):
                size = math.prod(shape_of_record(centroids))
                stream = self._symbols(indices, inside, alphabet_size=size)
                inner = self._record(centroids, None)
                return {"kind": "codebook", "size": size, "indices": stream, "centroids": inner}
            case SparseRecord(support, values):
                _require_support(record)
                stream = self._append(coders.encode(support.reshape(-1).view(np.uint8), 2))
                kept = np.flatnonzero(support)
                return {"kind": "sparse", "n_kept": kept.size, "support": stream, "record": self._record(values, kept)}
            case ScaledRecord(values, factor, axis):
                _require_factor(record)
                inner = self._record(values, inside)
                stream = self._append(encode_values(factor.astype(np.float32, copy=False)))
                return {"kind": "scaled", "axis": axis, "factor": stream, "record": inner}
            case _:
                assert_never(record)

    def _numbers(self, values: Array, inside: Array | None) -> list[int]:
        flat = values.reshape(-1)
        return self._append(encode_values(flat if inside is None else flat[inside]))

    def _affine(self, record: AffineRecord, inside: Array | None) -> dict[str, Any]:
        low = lowest_code(record.n_bits, signed=record.signed)
        check_zero_points(record.zero_point, record.n_bits, signed=record.signed)
        if not record.scale.size == record.zero_point.size == n_scales(record.codes.shape, record.granularity):
            raise ContainerError(
                f"{record.granularity} of shape {record.codes.shape} has other than "
                f"{record.scale.size} scales and {record.zero_point.size} zero points"
            )
        codes = self._symbols(record.codes.astype(np.int32, copy=False) - low, inside, alphabet_size=1 << record.n_bits)
        return {
            "kind": "affine",
            "n_bits": record.n_bits,
            "signed": record.signed,
            "granularity": list(record.granularity),
            "codes": codes,
            "scale": self._append(encode_values(record.scale.astype(np.float32, copy=False))),
            "zero_point": self._append(encode_values(record.zero_point.astype(np.int32, copy=False))),
        }

    def _symbols(self, symbols: Array, inside: Array | None, *, alphabet_size: int) -> list[int]:
        flat = symbols.reshape(-1)
        flat = flat if inside is None else flat[inside]
        if alphabet_size > MAX_ALPHABET:
            raise ContainerError(
                f"a codebook of {alphabet_size} centroids cannot be stored; use at most {MAX_ALPHABET}"
            )
        if flat.dtype.kind not in "ui":
            raise ContainerError(f"symbols must be whole numbers, not {flat.dtype}")
        if flat.size and not (int(flat.min()) >= 0 and int(flat.max()) < alphabet_size):
            raise ContainerError(f"symbols in [{flat.min()}, {flat.max()}] do not fit an alphabet of {alphabet_size}")
        return self._append(coders.encode(flat, alphabet_size))

    def _append(self, coded: Coded) -> list[int]:
        self.section += coded.payload
        return [coded.coder, len(coded.payload)]


def lowest_code(n_bits: int, *, signed: bool) -> int:
    """Return the code that symbol 0 stands for."""
    return -(1 << (n_bits - 1)) if signed else 0


def check_zero_points(zero_point: Array, n_bits: int, *, signed: bool) -> None:
    """Check that zero points lie in the range of the codes.

    Raises:
        ContainerError: one does not.
    """
    low = lowest_code(n_bits, signed=signed)
    if zero_point.size and not (low <= int(zero_point.min()) and int(zero_point.max()) < low + (1 << n_bits)):
        raise ContainerError(f"a zero point lies outside the codes [{low}, {low + (1 << n_bits) - 1}]")


def _require_half(values: Array) -> None:
    if values.dtype != np.float16:
        raise ContainerError(f"a half record must hold float16 numbers, not {values.dtype}")


def _require_support(record: SparseRecord) -> None:
    support, shape = record.support, shape_of_record(record.values)
    if support.dtype != np.bool_ or support.shape != shape:
        raise ContainerError(f"a support must be bool of shape {shape}, not {support.dtype} of shape {support.shape}")


def _require_factor(record: ScaledRecord) -> None:
    shape, factor, axis = shape_of_record(record.values), record.factor, record.axis
    if not 0 <= axis < len(shape) or factor.shape != (shape[axis],):
        raise ContainerError(f"a factor of shape {factor.shape} does not fit axis {axis} of {shape}")
