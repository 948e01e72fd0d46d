"""This file writes a record as JSON plus streams, and reads it back from a plan plus streams."""

from __future__ import annotations

import math
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from dwindle.container import coders
from dwindle.container.coders import Coded
from dwindle.container.limits import MAX_ALPHABET, MAX_RANK
from dwindle.container.plan import (
    AffinePlan,
    CodebookPlan,
    DensePlan,
    Plan,
    ScaledPlan,
    SparsePlan,
    StreamPlan,
    n_scales,
)
from dwindle.container.records import (
    AffineRecord,
    CodebookRecord,
    DenseRecord,
    Record,
    ScaledRecord,
    SparseRecord,
    shape_of_record,
)
from dwindle.container.values import decode_values, encode_values
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
                flat = values.reshape(-1)
                stream = self._append(encode_values(flat if inside is None else flat[inside]))
                return {"kind": "dense", "dtype": values.dtype.name, "values": stream}
            case AffineRecord():
                return self._affine(record, inside)
            case CodebookRecord(indices, centroids):
                size = math.prod(shape_of_record(centroids))
                stream = self._symbols(indices, inside, alphabet_size=size)
                inner = self._record(centroids, None)
                return {"kind": "codebook", "size": size, "indices": stream, "centroids": inner}
            case SparseRecord(support, values):
                if support.dtype != np.bool_ or support.shape != shape_of_record(values):
                    raise ContainerError(
                        f"a support must be bool of shape {shape_of_record(values)}, "
                        f"not {support.dtype} of shape {support.shape}"
                    )
                stream = self._append(coders.encode(support.reshape(-1).view(np.uint8), 2))
                kept = np.flatnonzero(support)
                return {"kind": "sparse", "n_kept": kept.size, "support": stream, "record": self._record(values, kept)}
            case ScaledRecord(values, factor, axis):
                shape = shape_of_record(values)
                if not 0 <= axis < len(shape) or factor.shape != (shape[axis],):
                    raise ContainerError(f"a factor of shape {factor.shape} does not fit axis {axis} of {shape}")
                inner = self._record(values, inside)
                stream = self._append(encode_values(factor.astype(np.float32, copy=False)))
                return {"kind": "scaled", "axis": axis, "factor": stream, "record": inner}
            case _:
                assert_never(record)

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


class StreamReader:
    """Decodes the streams section from front to back."""

    def __init__(self, section: bytes) -> None:
        self._section = memoryview(section)
        self._position = 0

    def record(self, plan: Plan) -> Record:
        """Return the record behind `plan`; the streams of all earlier plans must have been read.

        Raises:
            ContainerError: a stream is not what its coder writes, or contradicts the plan.
        """
        return self._record(plan, None)

    def _record(self, plan: Plan, inside: Array | None) -> Any:
        n_weights = math.prod(plan.shape)
        n_stored = n_weights if inside is None else inside.size
        match plan:
            case DensePlan(shape, dtype, values):
                kept = self._values(values, n_stored, dtype=dtype)
                return DenseRecord(_spread(kept, inside, n_weights).reshape(shape))
            case AffinePlan():
                return self._affine(plan, inside, n_stored)
            case CodebookPlan(shape, indices, centroids):
                (size,) = centroids.shape
                kept = coders.decode(self._next(indices), n_stored, size)
                kept = kept if kept.dtype == np.uint8 else kept.astype(np.int32)
                return CodebookRecord(_spread(kept, inside, n_weights).reshape(shape), self._record(centroids, None))
            case SparsePlan(shape, n_kept, support, values):
                mask, kept = coders.decode_support(self._next(support), n_weights)
                if kept.size != n_kept:
                    raise ContainerError(f"a support keeps {kept.size} weights, its header says {n_kept}")
                return SparseRecord(mask.reshape(shape), self._record(values, kept))
            case ScaledPlan(shape, axis, values, factor):
                inner = self._record(values, inside)
                return ScaledRecord(inner, self._values(factor, shape[axis], dtype="float32"), axis)
            case _:
                assert_never(plan)

    def _affine(self, plan: AffinePlan, inside: Array | None, n_stored: int) -> AffineRecord:
        symbols = coders.decode(self._next(plan.codes), n_stored, 1 << plan.n_bits)
        kept = symbols.astype(np.int32) + lowest_code(plan.n_bits, signed=plan.signed)
        scale = self._values(plan.scale, plan.n_scales, dtype="float32")
        zero_point = self._values(plan.zero_point, plan.n_scales, dtype="int32")
        check_zero_points(zero_point, plan.n_bits, signed=plan.signed)
        codes = kept.reshape(plan.shape) if inside is None else np.empty(plan.shape, dtype=np.int32)
        record = AffineRecord(codes, scale, zero_point, plan.granularity, plan.n_bits, plan.signed)
        if inside is not None:
            codes[...] = record.spread_zero_point()
            codes.reshape(-1)[inside] = kept
        return record

    def _values(self, plan: StreamPlan, n_values: int, *, dtype: str) -> Array:
        return decode_values(self._next(plan), n_values, dtype)

    def _next(self, plan: StreamPlan) -> Coded:
        start, self._position = self._position, self._position + plan.n_bytes
        return Coded(plan.coder, bytes(self._section[start : self._position]))


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


def _spread(kept: Array, inside: Array | None, n_weights: int) -> Array:
    """Return `kept` at its positions and zero elsewhere."""
    if inside is None:
        return kept
    full = np.zeros(n_weights, dtype=kept.dtype)
    full[inside] = kept
    return full
