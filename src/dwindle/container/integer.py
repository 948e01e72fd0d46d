"""This file finds the integer weights that an engine computes with: int8 codes, scales and zero points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

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

PARTS: Final = ("codes", "scale", "zero_point")
"""Names of the arrays that an engine computes with; a graph refers to them behind the weight's name and a slash."""
_LOW, _HIGH = -128, 127


@dataclass(frozen=True, slots=True, eq=False)
class IntegerForm:
    """Weights as integers: value = (code - zero_point) * scale, up to float rounding where factors are merged.

    Attributes:
        codes: int8, the tensor's shape.
        scale: float32, () or (channels,) along `axis`; positive wherever the record's scales are.
        zero_point: int8, the shape of `scale`.
        axis: the axis that scales run along; None for one scale.
    """

    codes: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.int8]
    axis: int | None


@dataclass(frozen=True, slots=True, eq=False)
class _Wide:
    """An integer form before it is known to fit int8; scale and zero point as in `IntegerForm`."""

    codes: npt.NDArray[Any]
    scale: npt.NDArray[Any]
    zero_point: npt.NDArray[Any]
    axis: int | None

    def along(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return one value for each channel in a form that broadcasts against the codes."""
        return values if self.axis is None else _along(values, self.axis, self.codes.ndim)


def integer_form(record: Record) -> IntegerForm | None:
    """Return the integers of `record`, or None where it has floats inside, needs more than 8 bits, or scales by group.

    Unsigned codes are shifted by half their range. A negative factor becomes a positive scale with the channel's codes
    mirrored about the zero point; None if a mirrored code leaves int8.
    """
    wide = _wide(record)
    if wide is None or not (_fits(wide.codes) and _fits(wide.zero_point)):
        return None
    return IntegerForm(
        wide.codes.astype(np.int8), wide.scale.astype(np.float32), wide.zero_point.astype(np.int8), wide.axis
    )


def _wide(record: Record) -> _Wide | None:
    match record:
        case DenseRecord() | HalfRecord():
            return None
        case AffineRecord():
            return _affine(record)
        case CodebookRecord(indices, centroids):
            inner = _wide(centroids)
            return None if inner is None else _Wide(inner.codes[indices], inner.scale, inner.zero_point, None)
        case SparseRecord(support, values):
            inner = _wide(values)
            if inner is None:
                return None
            codes = np.where(support, inner.codes, inner.along(inner.zero_point))
            return _Wide(codes, inner.scale, inner.zero_point, inner.axis)
        case ScaledRecord(values, factor, axis):
            inner = _wide(values)
            return None if inner is None or inner.axis not in {None, axis} else _scaled(inner, factor, axis)


def _affine(record: AffineRecord) -> _Wide | None:
    if record.n_bits > 8 or record.granularity[0] == "group":
        return None
    axis = record.granularity[1] if len(record.granularity) == 2 else None
    shift = 0 if record.signed else 1 << (record.n_bits - 1)
    shape = () if axis is None else (-1,)
    zero_point = record.zero_point.reshape(shape).astype(np.int32) - shift
    codes = record.codes.astype(np.int32, copy=False)
    return _Wide(codes - shift if shift else codes, record.scale.reshape(shape), np.asarray(zero_point), axis)


def _scaled(inner: _Wide, factor: npt.NDArray[Any], axis: int) -> _Wide:
    zero_point = np.broadcast_to(inner.zero_point, factor.shape)
    rank = inner.codes.ndim
    mirrored = 2 * _along(zero_point, axis, rank) - inner.codes
    codes = np.where(_along(factor, axis, rank) < 0, mirrored, inner.codes)
    return _Wide(codes, np.abs(factor) * inner.scale, zero_point.copy(), axis)


def _along(values: npt.NDArray[Any], axis: int, rank: int) -> npt.NDArray[Any]:
    return values.reshape([-1 if i == axis else 1 for i in range(rank)])


def _fits(codes: npt.NDArray[Any]) -> bool:
    return codes.size == 0 or (int(codes.min()) >= _LOW and int(codes.max()) <= _HIGH)


def bytes_in_runtime(record: Record, *, is_integer: bool) -> int:
    """Return the bytes that a runtime holds for `record`: int8 with scales and zero points, or decoded numbers."""
    form = integer_form(record) if is_integer else None
    if form is not None:
        return form.codes.nbytes + form.scale.nbytes + form.zero_point.nbytes
    n_weights = int(np.prod(shape_of_record(record), dtype=np.int64))
    return n_weights * (record.values.itemsize if isinstance(record, DenseRecord) else 4)
