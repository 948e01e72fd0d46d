"""This file decodes tensors piece by piece, straight into their arrays: besides a result only its pieces are in memory.

`array` gives the numbers that a record stands for, the same bits as `records.decode_record`; `record` gives the record
itself. Both run over the weights in pieces; with a support, over the places that it keeps in each piece.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from dwindle.container.bits import symbol_type
from dwindle.container.payload import check_zero_points, lowest_code
from dwindle.container.plan import (
    AffinePlan,
    CodebookPlan,
    DensePlan,
    HalfPlan,
    Plan,
    ScaledPlan,
    SparsePlan,
    StreamPlan,
    dtype_of,
)
from dwindle.container.records import (
    AffineRecord,
    CodebookRecord,
    DenseRecord,
    HalfRecord,
    Record,
    ScaledRecord,
    SparseRecord,
)
from dwindle.container.scales import ScaleMap
from dwindle.container.symbols import PIECE, SymbolStream, open_symbols, take_places
from dwindle.container.values import NumberStream, open_numbers
from dwindle.container.window import Payload, part_of
from dwindle.errors import ContainerError

Array = npt.NDArray[Any]
Places = slice | Array
"""Which weights a piece holds: a range of flat positions, or the positions that a support keeps."""
_InnerPlan = DensePlan | HalfPlan | AffinePlan | CodebookPlan
_Values = Callable[[Array, Places], Array]
"""Turns symbols or numbers of a stream, and their places, into values of the array."""


class Decoder:
    """Decodes one tensor, whose streams start at `start` of the section; use it once."""

    def __init__(self, section: Payload, start: int) -> None:
        self._section, self._position = section, start

    def array(self, plan: Plan) -> Array:
        """Return the decoded tensor; the same bits as `decode_record(self.record(plan))`.

        Raises:
            ContainerError: a stream is not what its coder writes, or contradicts the plan.
        """
        with np.errstate(all="ignore"):  # infinities are values here, as they are in torch
            found = np.zeros(math.prod(plan.shape), dtype=dtype_of(plan))
            self._fill(plan, found)
            return found.reshape(plan.shape)

    def record(self, plan: Plan) -> Record:
        """Return the record of a tensor.

        Raises:
            ContainerError: as `array`.
        """
        match plan:
            case SparsePlan(shape, n_kept, _, values):
                mask = np.zeros(math.prod(shape), dtype=np.bool_)
                support = self._support(plan, mask)
                return SparseRecord(mask.reshape(shape), self._inner_record(values, n_kept, support))
            case ScaledPlan(shape, axis, values, factor):
                inner: Any = self.record(values)
                return ScaledRecord(inner, self._numbers(factor, shape[axis], "float32"), axis)
            case DensePlan() | HalfPlan() | AffinePlan() | CodebookPlan():
                return self._inner_record(plan, math.prod(plan.shape), None)
            case _:
                assert_never(plan)

    def _fill(self, plan: Plan, found: Array) -> None:
        match plan:
            case SparsePlan(n_kept=n_kept, values=values):
                support = self._support(plan, None)
                _run(found, *self._source(values, n_kept), support)
            case ScaledPlan(shape, axis, values, factor):
                self._fill(values, found)
                factors = self._numbers(factor, shape[axis], "float32")
                scaled = found.reshape(shape)
                scaled *= factors.reshape([-1 if i == axis else 1 for i in range(len(shape))])
            case DensePlan() | HalfPlan() | AffinePlan() | CodebookPlan():
                _run(found, *self._source(plan, found.size), None)
            case _:
                assert_never(plan)

    def _source(self, plan: _InnerPlan, n_stored: int) -> tuple[SymbolStream | NumberStream, _Values]:
        """Return the stream of the `n_stored` weights of `plan`, and what turns its symbols into values."""
        match plan:
            case DensePlan(dtype=dtype):
                return self._open_numbers(plan.values, n_stored, dtype), _as_they_are
            case HalfPlan():
                return self._open_numbers(plan.values, n_stored, "float16"), _as_they_are
            case AffinePlan():
                codes = self._open_symbols(plan.codes, n_stored, 1 << plan.n_bits)
                return codes, _affine_values(plan, *self._scales(plan))
            case CodebookPlan(centroids=centroids):
                indices = self._open_symbols(plan.indices, n_stored, centroids.shape[0])
                levels = self.array(centroids)
                return indices, lambda symbols, _: np.take(levels, symbols)
            case _:
                assert_never(plan)

    def _inner_record(self, plan: _InnerPlan, n_stored: int, support: _Support | None) -> Any:
        n_weights = math.prod(plan.shape)
        match plan:
            case DensePlan(shape, dtype, values):
                numbers = self._open_numbers(values, n_stored, dtype)
                return DenseRecord(_run(np.zeros(n_weights, dtype), numbers, _as_they_are, support).reshape(shape))
            case HalfPlan(shape, values):
                numbers = self._open_numbers(values, n_stored, "float16")
                return HalfRecord(_run(np.zeros(n_weights, "float16"), numbers, _as_they_are, support).reshape(shape))
            case CodebookPlan(shape, indices, centroids):
                size = centroids.shape[0]
                symbols = self._open_symbols(indices, n_stored, size)
                found = np.zeros(n_weights, np.uint8 if symbol_type(size) is np.uint8 else np.int32)
                _run(found, symbols, _as_they_are, support)
                return CodebookRecord(found.reshape(shape), self._inner_record(centroids, size, None))
            case AffinePlan():
                return self._affine_record(plan, n_stored, support)
            case _:
                assert_never(plan)

    def _affine_record(self, plan: AffinePlan, n_stored: int, support: _Support | None) -> AffineRecord:
        symbols = self._open_symbols(plan.codes, n_stored, 1 << plan.n_bits)
        scale, zero_point = self._scales(plan)
        codes = np.zeros(plan.shape, dtype=np.int32)
        record = AffineRecord(codes, scale, zero_point, plan.granularity, plan.n_bits, plan.signed)
        if support is not None and zero_point.any():
            codes[...] = record.spread_zero_point()
        low = lowest_code(plan.n_bits, signed=plan.signed)
        _run(codes.reshape(-1), symbols, lambda symbols, _: symbols + np.int32(low), support)
        return record

    def _scales(self, plan: AffinePlan) -> tuple[Array, Array]:
        scale = self._numbers(plan.scale, plan.n_scales, "float32")
        zero_point = self._numbers(plan.zero_point, plan.n_scales, "int32")
        check_zero_points(zero_point, plan.n_bits, signed=plan.signed)
        return scale, zero_point

    def _support(self, plan: SparsePlan, mask: Array | None) -> _Support:
        n_weights = math.prod(plan.shape)
        return _Support(self._open_symbols(plan.support, n_weights, 2), n_weights, n_kept=plan.n_kept, mask=mask)

    def _open_symbols(self, plan: StreamPlan, n: int, alphabet_size: int) -> SymbolStream:
        return open_symbols(plan.coder, self._next(plan), n, alphabet_size)

    def _open_numbers(self, plan: StreamPlan, n: int, dtype: str) -> NumberStream:
        return open_numbers(plan.coder, self._next(plan), n, dtype)

    def _numbers(self, plan: StreamPlan, n: int, dtype: str) -> Array:
        return _run(np.zeros(n, dtype), self._open_numbers(plan, n, dtype), _as_they_are, None)

    def _next(self, plan: StreamPlan) -> Payload:
        start, self._position = self._position, self._position + plan.n_bytes
        return part_of(self._section, start, plan.n_bytes)


class _Support:
    """The places that a support keeps, piece by piece; `mask`, if there is one, becomes True there."""

    def __init__(self, symbols: SymbolStream, n_weights: int, *, n_kept: int, mask: Array | None) -> None:
        self._symbols, self._n_weights = symbols, n_weights
        self._n_kept, self._mask = n_kept, mask

    def pieces(self) -> Iterator[Array]:
        """Yield flat positions, ascending; those of one piece of weights at a time.

        Raises:
            ContainerError: the support keeps another number of weights than the header says.
        """
        n_found = 0
        for start in range(0, self._n_weights, PIECE):
            places = take_places(self._symbols, min(PIECE, self._n_weights - start)) + start
            n_found += places.size
            if n_found > self._n_kept:
                raise ContainerError(f"a support keeps {n_found} weights or more, its header says {self._n_kept}")
            if self._mask is not None:
                self._mask[places] = True
            yield places
        self._symbols.finish()
        if n_found != self._n_kept:
            raise ContainerError(f"a support keeps {n_found} weights, its header says {self._n_kept}")


def _run(found: Array, stream: SymbolStream | NumberStream, values: _Values, support: _Support | None) -> Array:  # ruff: ignore[too-many-positional-arguments] (the loop of this file)
    """Write the values of `stream` into `found` (flat), piece by piece, and return it."""
    if support is None:
        for start in range(0, found.size, PIECE):
            piece = slice(start, min(start + PIECE, found.size))
            found[piece] = values(stream.take(piece.stop - start), piece)
    else:
        for places in support.pieces():
            found[places] = values(stream.take(places.size), places)
    stream.finish()
    return found


def _as_they_are(symbols: Array, _places: Places) -> Array:
    return symbols


def _affine_values(plan: AffinePlan, scale: Array, zero_point: Array) -> _Values:
    """Return what turns symbols into (code - zero_point) * scale.

    Symbols, codes and zero points are whole numbers below 2^17, so their float32 differences are exact.
    """
    scales = ScaleMap.of(plan.shape, plan.granularity)
    offset = (lowest_code(plan.n_bits, signed=plan.signed) - zero_point).astype(np.float32)
    if offset.size and (offset == offset[0]).all():
        offset = offset[:1]

    def values(symbols: Array, places: Places) -> Array:
        found = symbols.astype(np.float32)
        found += offset if offset.size == 1 else scales.at(offset, places)
        found *= scales.at(scale, places)
        return found

    return values
