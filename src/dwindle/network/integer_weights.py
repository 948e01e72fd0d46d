"""This file turns the floats of one named weight into integer codes and keeps the structure around them."""

from __future__ import annotations

from typing import Final, Literal

import torch
from torch import Tensor

from dwindle.core.affine import quantize, quantize_fixed_point
from dwindle.core.encoding import Affine, Encoding, Scaled, affine_of, decode, rewrite
from dwindle.core.granularity import Granularity, PerChannel, PerTensor
from dwindle.errors import EncodingError, NetworkError, SettingError

ScaleKind = Literal["float", "power_of_two"]
"""What a scale may be: any float32, or a power of two, which makes a symmetric grid fixed point."""
KERNEL_BITS: Final = 8
"""The widest codes that engines compute with."""
KERNEL_GRANULARITIES: Final = (PerTensor(), PerChannel(0))
"""Which weights may share a scale where a layer is to run on integers: all of them, or those of one output."""


def quantize_weight(
    name: str,
    encoding: Encoding,
    *,
    n_bits: int,
    granularity: Granularity,
    symmetric: bool = True,
    scale: ScaleKind = "float",
) -> Encoding:
    """Return `encoding` with its innermost floats as codes; centroids share one scale whatever the granularity.

    With scale "power_of_two" codes are fixed point, which is symmetric.

    Raises:
        NetworkError: the weight is not float32, in which codes are decoded.
        EncodingError: it holds integer codes already; the message names the weight.
        SettingError: the granularity does not fit its shape.
    """
    if (dtype := decode(encoding).dtype) != torch.float32:
        raise NetworkError(f"{name!r} is {dtype}, but codes are decoded in float32; call network.float() first")

    def fit(values: Tensor, support: Tensor, *, is_codebook: bool) -> Affine:
        shared = PerTensor() if is_codebook else granularity
        if scale == "power_of_two":
            return quantize_fixed_point(values, n_bits=n_bits, granularity=shared, support=support)
        return quantize(values, n_bits=n_bits, granularity=shared, symmetric=symmetric, support=support)

    try:
        return rewrite(encoding, fit)
    except (EncodingError, SettingError) as error:
        raise type(error)(f"{name!r}: {error}") from error


def has_kernel(encoding: Encoding) -> bool:
    """Tell whether engines run a layer with this weight on integers: 8 bits or less, scaled whole or by output."""
    codes = affine_of(encoding)
    by_output = not isinstance(encoding, Scaled) or encoding.axis == 0
    return codes is not None and codes.n_bits <= KERNEL_BITS and by_output and codes.granularity in KERNEL_GRANULARITIES
