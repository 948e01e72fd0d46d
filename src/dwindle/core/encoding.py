"""This file says how one weight tensor is stored: a closed union of nested values, and the four laws over it.

Size, container, exporters, training and tests all read these values; nothing is re-discovered from floats.

```
Encoding = Dense                                plain values, of any dtype
         | Half                                 float16 numbers, computed with as float32
         | Affine                               integer codes: (code - zero_point) * scale
         | Codebook(_, Dense | Half | Affine)   indices into shared centroids
         | Sparse(_, any of the above)          exactly zero outside a support
         | Scaled(any but Dense)                outermost: one float factor for each channel
```
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, assert_never

import torch
from torch import Tensor

from dwindle.core.granularity import Granularity, PerTensor, expand, n_scales
from dwindle.errors import EncodingError

MIN_BITS = 2
MAX_BITS = 16


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """Plain values of any dtype and shape."""

    values: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Half:
    """float16 numbers that stand for the same float32 numbers; `core/half.py` makes them."""

    values: Tensor

    def __post_init__(self) -> None:
        if self.values.dtype != torch.float16:
            raise EncodingError(f"Half: values must be float16, got {self.values.dtype}")


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """Integer codes: value = (code - zero_point) * scale, computed in float32.

    Attributes:
        codes: int32, the tensor's shape; in [-2^(n_bits-1), 2^(n_bits-1)) if signed, else in [0, 2^n_bits).
        scale: float32 (n_scales,), positive.
        zero_point: int32 (n_scales,), inside the range of the codes.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    granularity: Granularity
    n_bits: int
    signed: bool

    def __post_init__(self) -> None:
        if not MIN_BITS <= self.n_bits <= MAX_BITS:
            raise EncodingError(f"Affine: n_bits must be in [{MIN_BITS}, {MAX_BITS}], got {self.n_bits}")
        expected = n_scales(tuple(self.codes.shape), self.granularity)
        if self.scale.numel() != expected or self.zero_point.numel() != expected:
            raise EncodingError(
                f"Affine: {self.granularity} of shape {tuple(self.codes.shape)} has {expected} scales, "
                f"got {self.scale.numel()} scales and {self.zero_point.numel()} zero points"
            )
        low, high = code_range(self.n_bits, signed=self.signed)
        _require_range("Affine: codes", self.codes, low=low, high=high)
        _require_range("Affine: zero points", self.zero_point, low=low, high=high)
        _require_float32("Affine: scale", self.scale)


@dataclass(frozen=True, slots=True, eq=False)
class Codebook:
    """Indices into shared centroids.

    Attributes:
        indices: uint8 (up to 256 centroids) or int32, the tensor's shape.
        centroids: (codebook_size,) floats, or their integer codes with one scale.
    """

    indices: Tensor
    centroids: Dense | Half | Affine

    def __post_init__(self) -> None:
        if isinstance(self.centroids, Affine) and self.centroids.granularity != PerTensor():
            raise EncodingError(f"Codebook: centroids share one scale, got {self.centroids.granularity}")
        if self.codebook_size < 1 and self.indices.numel():
            raise EncodingError("Codebook: a tensor with weights needs at least one centroid")
        _require_range("Codebook: indices", self.indices, low=0, high=max(self.codebook_size - 1, 0))

    @property
    def codebook_size(self) -> int:
        """Number of centroids."""
        return (self.centroids.codes if isinstance(self.centroids, Affine) else self.centroids.values).numel()


@dataclass(frozen=True, slots=True, eq=False)
class Sparse:
    """`values` where `support` (bool) is True, exactly zero elsewhere."""

    support: Tensor
    values: Dense | Half | Affine | Codebook

    def __post_init__(self) -> None:
        if self.support.dtype != torch.bool or self.support.shape != shape_of(self.values):
            raise EncodingError(
                f"Sparse: support must be bool of shape {tuple(shape_of(self.values))}, "
                f"got {self.support.dtype} of shape {tuple(self.support.shape)}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Scaled:
    """`values` times one float32 `factor` for each index along `axis`; batch norm folding may make it negative."""

    values: Half | Affine | Codebook | Sparse
    factor: Tensor
    axis: int

    def __post_init__(self) -> None:
        shape = tuple(shape_of(self.values))
        if not 0 <= self.axis < len(shape) or self.factor.shape != (shape[self.axis],):
            raise EncodingError(
                f"Scaled: factor of shape {tuple(self.factor.shape)} does not fit axis {self.axis} of {shape}"
            )
        _require_float32("Scaled: factor", self.factor)


Encoding = Dense | Half | Affine | Codebook | Sparse | Scaled


class Stream(NamedTuple):
    """Symbols that reach the file: flat, whole numbers below `alphabet_size`, or raw values where that is None."""

    name: str
    symbols: Tensor
    alphabet_size: int | None


class Fit(Protocol):
    """How a technique encodes floats: `values`, of which only those inside `support` will be used.

    `is_codebook` is True where `values` are the centroids of a codebook, which must share one scale.
    """

    def __call__(self, values: Tensor, support: Tensor, *, is_codebook: bool) -> Dense | Half | Affine | Codebook:
        """Return an encoding of the same shape as `values`."""
        ...


def code_range(n_bits: int, *, signed: bool) -> tuple[int, int]:
    """Return the smallest and the largest code of `n_bits`.

    >>> code_range(8, signed=True), code_range(4, signed=False)
    ((-128, 127), (0, 15))
    """
    return (-(1 << (n_bits - 1)), (1 << (n_bits - 1)) - 1) if signed else (0, (1 << n_bits) - 1)


def index_dtype(codebook_size: int) -> torch.dtype:
    """Return what indices into so many centroids are stored as."""
    return torch.uint8 if codebook_size <= 256 else torch.int32


def shape_of(encoding: Encoding) -> torch.Size:
    """Return the shape of the tensor that `encoding` stands for."""
    match encoding:
        case Dense(values) | Half(values):
            return values.shape
        case Affine(codes=codes):
            return codes.shape
        case Codebook(indices, _):
            return indices.shape
        case Sparse(support, _):
            return support.shape
        case Scaled(values, _, _):
            return shape_of(values)


def decode(encoding: Encoding) -> Tensor:
    """Return the tensor that `encoding` stands for; for `Dense` this is the stored tensor itself, not a copy.

    >>> decode(Codebook(torch.tensor([1, 0], dtype=torch.uint8), Dense(torch.tensor([0.5, 2.0])))).tolist()
    [2.0, 0.5]
    """
    match encoding:
        case Dense(values):
            return values
        case Half(values):
            return values.to(torch.float32)
        case Affine(codes, scale, zero_point, granularity, _, _):
            shape = tuple(codes.shape)
            centred = codes - expand(zero_point, granularity, shape)
            return centred.to(torch.float32) * expand(scale, granularity, shape)
        case Codebook(indices, centroids):
            return decode(centroids).index_select(0, indices.flatten().to(torch.int32)).reshape(indices.shape)
        case Sparse(support, values):
            decoded = decode(values)
            return torch.where(support, decoded, torch.zeros((), dtype=decoded.dtype))
        case Scaled(values, factor, axis):
            decoded = decode(values)
            return decoded * factor.reshape([-1 if i == axis else 1 for i in range(decoded.ndim)])
        case _:
            assert_never(encoding)


def rewrite(encoding: Encoding, fit: Fit) -> Encoding:
    """Re-encode the innermost floats with `fit` and keep every structure found on the way down.

    This one law is why techniques compose without pairwise variants: clustering a pruned tensor, quantizing a codebook.
    Centroids that come to share a code become one.

    Raises:
        EncodingError: integer codes have no floats left to re-encode.
    """
    match encoding:
        case Dense() | Half():
            values = decode(encoding)
            return fit(values, torch.ones_like(values, dtype=torch.bool), is_codebook=False)
        case Codebook(_, Dense() | Half()):
            return _rewrite_codebook(encoding, fit)
        case Sparse(support, (Dense() | Half()) as values):
            return Sparse(support, fit(decode(values), support, is_codebook=False))
        case Sparse(support, Codebook(_, Dense() | Half()) as values):
            return Sparse(support, _rewrite_codebook(values, fit))
        case Scaled(values, factor, axis):
            inner = rewrite(values, fit)
            if isinstance(inner, Dense | Scaled):
                raise EncodingError(
                    f"a structured tensor was rewritten as {type(inner).__name__}, which forgets its structure"
                )
            return Scaled(inner, factor, axis)
        case _:
            raise EncodingError(
                f"{describe(encoding)} has no float values left to re-encode; put this step before the quantizer"
            )


def _rewrite_codebook(codebook: Codebook, fit: Fit) -> Codebook:
    centroids, indices = decode(codebook.centroids), codebook.indices
    inner = fit(centroids, torch.ones_like(centroids, dtype=torch.bool), is_codebook=True)
    if isinstance(inner, Affine):
        codes, places = inner.codes.unique(return_inverse=True)
        if codes.numel() < inner.codes.numel():
            inner = Codebook(places.to(index_dtype(codes.numel())), replace(inner, codes=codes))
    if isinstance(inner, Codebook):  # clusters of clusters
        merged = inner.indices.index_select(0, indices.flatten().to(torch.int32)).reshape(indices.shape)
        return Codebook(merged, inner.centroids)
    return Codebook(indices, inner)


def restrict(encoding: Encoding, support: Tensor) -> Sparse | Scaled:
    """Prune: keep the values inside `support` (bool, the tensor's shape); earlier zeros stay zero."""
    match encoding:
        case Sparse(earlier, values):
            return Sparse(earlier & support, values)
        case Scaled(values, factor, axis):
            restricted = restrict(values, support)
            if isinstance(restricted, Scaled):
                raise EncodingError("Scaled is outermost and cannot be nested")
            return Scaled(restricted, factor, axis)
        case Dense() | Half() | Affine() | Codebook():
            return Sparse(support, encoding)
        case _:
            assert_never(encoding)


def support_of(encoding: Encoding) -> Tensor | None:
    """Return the support that `encoding` carries, or None where nothing was pruned."""
    match encoding:
        case Sparse(support, _):
            return support
        case Scaled(values, _, _):
            return support_of(values)
        case Dense() | Half() | Affine() | Codebook():
            return None
        case _:
            assert_never(encoding)


def codebook_of(encoding: Encoding) -> Codebook | None:
    """Return the codebook inside `encoding`, or None where weights are not shared."""
    match encoding:
        case Codebook():
            return encoding
        case Sparse(_, values) | Scaled(values, _, _):
            return codebook_of(values)
        case Dense() | Half() | Affine():
            return None
        case _:
            assert_never(encoding)


def affine_of(encoding: Encoding) -> Affine | None:
    """Return the integer codes inside `encoding` (of weights or of centroids), or None where all is float."""
    match encoding:
        case Affine():
            return encoding
        case Codebook(_, centroids):
            return affine_of(centroids)
        case Sparse(_, values) | Scaled(values, _, _):
            return affine_of(values)
        case Dense() | Half():
            return None
        case _:
            assert_never(encoding)


def is_half(encoding: Encoding) -> bool:
    """Return whether the innermost values of `encoding` are float16 numbers."""
    match encoding:
        case Half():
            return True
        case Codebook(_, inner) | Sparse(_, inner) | Scaled(inner, _, _):
            return is_half(inner)
        case Dense() | Affine():
            return False
        case _:
            assert_never(encoding)


def describe(encoding: Encoding) -> str:
    """Return the structure in one line, for a table or a message.

    >>> describe(Sparse(torch.ones(2, dtype=torch.bool), Dense(torch.ones(2))))
    'Sparse(Dense)'
    """
    match encoding:
        case Dense():
            return "Dense"
        case Half():
            return "Half"
        case Affine(n_bits=n_bits):
            return f"Affine({n_bits} bit)"
        case Codebook(_, centroids):
            return f"Codebook({encoding.codebook_size}, {describe(centroids)})"
        case Sparse(_, values):
            return f"Sparse({describe(values)})"
        case Scaled(values, _, _):
            return f"Scaled({describe(values)})"
        case _:
            assert_never(encoding)


def streams(encoding: Encoding) -> Iterator[Stream]:
    """Yield the symbols that reach the file; the size estimate and the coder read these and nothing else.

    Codes are shifted to start at zero; what lies outside a support is left out.
    """
    match encoding:
        case Dense(values) | Half(values):
            yield Stream("values", values.flatten(), None)
        case Affine(codes, scale, zero_point, _, n_bits, signed):
            low, high = code_range(n_bits, signed=signed)
            yield Stream("codes", (codes - low).flatten(), high - low + 1)
            yield Stream("scale", scale.flatten(), None)
            yield Stream("zero_point", zero_point.flatten(), None)
        case Codebook(indices, centroids):
            yield Stream("indices", indices.flatten(), encoding.codebook_size)
            for stream in streams(centroids):
                yield stream._replace(name=f"centroids.{stream.name}")
        case Sparse(support, values):
            yield Stream("support", support.flatten(), 2)
            yield from (_kept(stream, support.flatten()) for stream in streams(values))
        case Scaled(values, factor, _):
            for stream in streams(values):
                yield stream._replace(name=f"scaled.{stream.name}")
            yield Stream("factor", factor, None)
        case _:
            assert_never(encoding)


def _kept(stream: Stream, inside: Tensor) -> Stream:
    """Leave out what lies outside the support, in the streams that hold one symbol for each weight."""
    has_all = stream.name in {"values", "codes", "indices"}
    return Stream(f"values.{stream.name}", stream.symbols[inside] if has_all else stream.symbols, stream.alphabet_size)


def _require_range(what: str, symbols: Tensor, *, low: int, high: int) -> None:
    if symbols.numel() == 0:
        return
    smallest, largest = (int(v) for v in symbols.aminmax())
    if smallest < low or largest > high:
        raise EncodingError(f"{what} must lie in [{low}, {high}], got [{smallest}, {largest}]")


def _require_float32(what: str, values: Tensor) -> None:
    """The file holds float32; another type would decode to other bits here than there."""
    if values.dtype != torch.float32:
        raise EncodingError(f"{what} must be float32, got {values.dtype}")
