"""This file holds the NumPy twins of the encodings: what a `.dwn` file stores and what a device decodes, without torch."""

from __future__ import annotations

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
class AffineRecord:
    """Integer codes: (code - zero_point) * scale. `granularity` is ("tensor",), ("channel", axis) or ("group", size)."""

    codes: Array
    scale: Array
    zero_point: Array
    granularity: tuple[str] | tuple[str, int]
    n_bits: int
    signed: bool


@dataclass(frozen=True, slots=True, eq=False)
class CodebookRecord:
    """Indices (uint8 or int32) into centroids."""

    indices: Array
    centroids: DenseRecord | AffineRecord


@dataclass(frozen=True, slots=True, eq=False)
class SparseRecord:
    """`values` where `support` (bool) is True, exactly zero elsewhere."""

    support: Array
    values: DenseRecord | AffineRecord | CodebookRecord


@dataclass(frozen=True, slots=True, eq=False)
class ScaledRecord:
    """`values` times one float32 factor for each index along `axis`."""

    values: AffineRecord | CodebookRecord | SparseRecord
    factor: Array
    axis: int


Record = DenseRecord | AffineRecord | CodebookRecord | SparseRecord | ScaledRecord


def decode_record(record: Record) -> Array:
    """Return the array that `record` stands for; the same bits as `dwindle.core.encoding.decode` gives."""
    match record:
        case DenseRecord(values):
            return values
        case AffineRecord(codes, scale, zero_point, granularity, _, _):
            centred = codes - _expand(zero_point, granularity, codes.shape)
            return centred.astype(np.float32) * _expand(scale, granularity, codes.shape)
        case CodebookRecord(indices, centroids):
            return decode_record(centroids)[indices]
        case SparseRecord(support, values):
            decoded = decode_record(values)
            return np.where(support, decoded, decoded.dtype.type(0))
        case ScaledRecord(values, factor, axis):
            decoded = decode_record(values)
            return decoded * factor.reshape([-1 if i == axis else 1 for i in range(decoded.ndim)])
        case _:
            assert_never(record)


def _expand(scales: Array, granularity: tuple[str] | tuple[str, int], shape: tuple[int, ...]) -> Array:
    match granularity:
        case ("channel", int(axis)):
            return scales.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        case ("group", int(size)):
            n_rows = shape[0] if len(shape) >= 2 else 1
            n_columns = int(np.prod(shape[1:])) if len(shape) >= 2 else int(np.prod(shape))
            return np.repeat(scales.reshape(n_rows, -1), size, axis=1)[:, :n_columns].reshape(shape)
        case _:
            return scales.reshape(())
