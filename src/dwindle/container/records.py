"""This file holds the NumPy twins of the encodings: what a `.dwn` file stores and a device decodes, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class DenseRecord:
    """Plain values of any dtype that the format knows."""

    values: Array


@dataclass(frozen=True, slots=True, eq=False)
class HalfRecord:
    """float16 numbers that stand for the same float32 numbers."""

    values: Array


@dataclass(frozen=True, slots=True, eq=False)
class AffineRecord:
    """Integer codes: (code - zero_point) * scale; `granularity`: ("tensor",), ("channel", axis) or ("group", size)."""

    codes: Array
    scale: Array
    zero_point: Array
    granularity: tuple[str] | tuple[str, int]
    n_bits: int
    signed: bool

    def spread_zero_point(self) -> Array:
        """Return the zero point of each code, in a form that broadcasts against `codes`."""
        return _expand(self.zero_point, self.granularity, self.codes.shape)

    def spread_scale(self) -> Array:
        """Return the scale of each code, in a form that broadcasts against `codes`."""
        return _expand(self.scale, self.granularity, self.codes.shape)


@dataclass(frozen=True, slots=True, eq=False)
class CodebookRecord:
    """Indices (uint8 or int32) into centroids."""

    indices: Array
    centroids: DenseRecord | HalfRecord | AffineRecord


@dataclass(frozen=True, slots=True, eq=False)
class SparseRecord:
    """`values` where `support` (bool) is True, exactly zero elsewhere."""

    support: Array
    values: DenseRecord | HalfRecord | AffineRecord | CodebookRecord


@dataclass(frozen=True, slots=True, eq=False)
class ScaledRecord:
    """`values` times one float32 factor for each index along `axis`."""

    values: HalfRecord | AffineRecord | CodebookRecord | SparseRecord
    factor: Array
    axis: int


Record = DenseRecord | HalfRecord | AffineRecord | CodebookRecord | SparseRecord | ScaledRecord


def shape_of_record(record: Record) -> tuple[int, ...]:
    """Return the shape of the array that `record` stands for."""
    match record:
        case DenseRecord(array) | HalfRecord(array) | AffineRecord(codes=array):
            return array.shape
        case CodebookRecord(array, _) | SparseRecord(array, _):
            return array.shape
        case ScaledRecord(values, _, _):
            return shape_of_record(values)
        case _:
            assert_never(record)


def row_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return (rows, weights in a row) of a tensor of `shape`, as groups count them.

    >>> row_shape((2, 3, 4)), row_shape((7,))
    ((2, 12), (1, 7))
    """
    return (shape[0], math.prod(shape[1:])) if len(shape) >= 2 else (1, math.prod(shape))


def describe_record(record: Record) -> str:
    """Return the structure in one line, in the words of `dwindle.core.encoding.describe`.

    >>> describe_record(SparseRecord(np.ones(2, dtype=np.bool_), DenseRecord(np.ones(2))))
    'Sparse(Dense)'
    """
    match record:
        case DenseRecord():
            return "Dense"
        case HalfRecord():
            return "Half"
        case AffineRecord(n_bits=n_bits):
            return f"Affine({n_bits} bit)"
        case CodebookRecord(_, centroids):
            return f"Codebook({shape_of_record(centroids)[0]}, {describe_record(centroids)})"
        case SparseRecord(_, values):
            return f"Sparse({describe_record(values)})"
        case ScaledRecord(values, _, _):
            return f"Scaled({describe_record(values)})"
        case _:
            assert_never(record)


def holds_half(record: Record) -> bool:
    """Return whether the innermost values of `record` are float16 numbers."""
    match record:
        case HalfRecord():
            return True
        case CodebookRecord(_, inner) | SparseRecord(_, inner) | ScaledRecord(inner, _, _):
            return holds_half(inner)
        case DenseRecord() | AffineRecord():
            return False
        case _:
            assert_never(record)


def decode_record(record: Record) -> Array:
    """Return the array that `record` stands for; the same bits as `dwindle.core.encoding.decode` gives."""
    with np.errstate(all="ignore"):  # infinities are values here, as they are in torch
        return _decode(record)


def _decode(record: Record) -> Array:
    match record:
        case DenseRecord(values):
            return values
        case HalfRecord(values):
            return values.astype(np.float32)
        case AffineRecord(codes=codes):
            return np.asarray((codes - record.spread_zero_point()).astype(np.float32) * record.spread_scale())
        case CodebookRecord(indices, centroids):
            return _decode(centroids)[indices]
        case SparseRecord():
            return _decode_sparse(record)
        case ScaledRecord(values, factor, axis):
            decoded = _decode(values)
            return decoded * factor.reshape([-1 if i == axis else 1 for i in range(decoded.ndim)])
        case _:
            assert_never(record)


def _decode_sparse(record: SparseRecord) -> Array:
    support, values = record.support, record.values
    if isinstance(values, CodebookRecord) and values.indices.dtype == np.uint8:
        centroids = _decode(values.centroids)
        if centroids.size < 256:
            # One look-up for both, with zero as entry 0: half the time of a look-up followed by a choice.
            entries = np.concatenate([np.zeros(1, dtype=centroids.dtype), centroids])
            places = values.indices + np.uint8(1)
            places *= support.view(np.uint8)
            return np.take(entries, places)
    decoded = _decode(values)
    return np.where(support, decoded, decoded.dtype.type(0))


def _expand(scales: Array, granularity: tuple[str] | tuple[str, int], shape: tuple[int, ...]) -> Array:
    match granularity:
        case ("channel", int(axis)):
            return scales.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        case ("group", int(size)):
            n_rows, n_columns = row_shape(shape)
            size = min(size, max(n_columns, 1))  # a header may promise groups of 2^30 in a row of three
            spread = np.repeat(scales.reshape(n_rows, math.ceil(n_columns / size)), size, axis=1)
            return spread[:, :n_columns].reshape(shape)
        case _:
            return scales.reshape(())
