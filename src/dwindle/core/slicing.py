"""This file cuts indices out of an encoding along one axis; every structure that is there stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

import torch
from torch import Tensor

from dwindle.core.affine import quantize
from dwindle.core.encoding import Affine, Codebook, Dense, Encoding, Half, Scaled, Sparse, decode, shape_of
from dwindle.core.granularity import PerChannel, PerGroup
from dwindle.errors import EncodingError


def cut(encoding: Encoding, axis: int, indices: Sequence[int]) -> Encoding:
    """Return `encoding` without `indices` along `axis`; what stays decodes to the same values.

    Codes with one scale for each group of weights are the exception: their groups shift, so they are rounded anew, to
    a grid of as many bits. A codebook keeps all its centroids.

    Raises:
        EncodingError: an axis or index that does not exist, or nothing would be left.

    >>> cut(Sparse(torch.tensor([True, False, True]), Dense(torch.tensor([1.0, 0.0, 3.0]))), 0, [0])
    Sparse(support=tensor([False,  True]), values=Dense(values=tensor([0., 3.])))
    """
    shape = tuple(shape_of(encoding))
    if not 0 <= axis < len(shape):
        raise EncodingError(f"a tensor of shape {shape} has no axis {axis}")
    outside = [index for index in indices if not 0 <= index < shape[axis]]
    if outside:
        raise EncodingError(f"axis {axis} of shape {shape} has no index {outside[0]}")
    gone = set(indices)
    if len(gone) == shape[axis]:
        raise EncodingError(f"all {shape[axis]} indices of axis {axis} would go; keep at least one")
    kept = torch.tensor([index for index in range(shape[axis]) if index not in gone])
    return _take(encoding, axis, kept)


def _take(encoding: Encoding, axis: int, kept: Tensor) -> Encoding:
    match encoding:
        case Dense(values):
            return Dense(_select(values, axis, kept))
        case Half(values):
            return Half(_select(values, axis, kept))
        case Affine():
            return _take_affine(encoding, axis, kept)
        case Codebook(indices, centroids):
            return Codebook(_select(indices, axis, kept), centroids)
        case Sparse():
            return _take_sparse(encoding, axis, kept)
        case Scaled(values, factor, scaled_axis):
            inner = _take(values, axis, kept)
            if isinstance(inner, Dense | Scaled):
                raise EncodingError(f"{type(inner).__name__} cannot be scaled")
            return Scaled(inner, _select(factor, 0, kept) if axis == scaled_axis else factor, scaled_axis)
        case _:
            assert_never(encoding)


def _take_sparse(encoding: Sparse, axis: int, kept: Tensor) -> Sparse:
    kept_support, values = _select(encoding.support, axis, kept), encoding.values
    if isinstance(values, Affine) and isinstance(values.granularity, PerGroup):
        return Sparse(kept_support, _requantize(values, _select(decode(values), axis, kept), kept_support))
    inner = _take(values, axis, kept)
    if isinstance(inner, Sparse | Scaled):
        raise EncodingError(f"{type(inner).__name__} cannot stand inside a support")
    return Sparse(kept_support, inner)


def _take_affine(encoding: Affine, axis: int, kept: Tensor) -> Affine:
    match encoding.granularity:
        case PerGroup():
            return _requantize(encoding, _select(decode(encoding), axis, kept), None)
        case PerChannel(channel_axis) if channel_axis == axis:
            scale, zero_point = _select(encoding.scale, 0, kept), _select(encoding.zero_point, 0, kept)
        case _:
            scale, zero_point = encoding.scale, encoding.zero_point
    return replace(encoding, codes=_select(encoding.codes, axis, kept), scale=scale, zero_point=zero_point)


def _requantize(encoding: Affine, values: Tensor, support: Tensor | None) -> Affine:
    """Return `values` on grids like those of `encoding`: as many bits, as large groups."""
    middle = 0 if encoding.signed else 1 << (encoding.n_bits - 1)
    is_symmetric = bool((encoding.zero_point == middle).all())
    return quantize(
        values,
        n_bits=encoding.n_bits,
        granularity=encoding.granularity,
        symmetric=is_symmetric,
        signed=encoding.signed,
        support=support,
    )


def _select(tensor: Tensor, axis: int, kept: Tensor) -> Tensor:
    return tensor.index_select(axis, kept.to(tensor.device))
