"""This file turns the floats of one named weight into integer codes and keeps the structure around them."""

from __future__ import annotations

import torch
from torch import Tensor

from dwindle.core.affine import quantize
from dwindle.core.encoding import Affine, Encoding, decode, rewrite
from dwindle.core.granularity import Granularity, PerTensor
from dwindle.errors import EncodingError, NetworkError, SettingError


def quantize_weight(
    name: str, encoding: Encoding, *, n_bits: int, granularity: Granularity, symmetric: bool = True
) -> Encoding:
    """Return `encoding` with its innermost floats as codes; centroids share one scale whatever the granularity.

    Raises:
        NetworkError: the weight is not float32, in which codes are decoded.
        EncodingError: it holds integer codes already; the message names the weight.
        SettingError: the granularity does not fit its shape.
    """
    if (dtype := decode(encoding).dtype) != torch.float32:
        raise NetworkError(f"{name!r} is {dtype}, but codes are decoded in float32; call network.float() first")

    def fit(values: Tensor, support: Tensor, *, is_codebook: bool) -> Affine:
        shared = PerTensor() if is_codebook else granularity
        return quantize(values, n_bits=n_bits, granularity=shared, symmetric=symmetric, support=support)

    try:
        return rewrite(encoding, fit)
    except (EncodingError, SettingError) as error:
        raise type(error)(f"{name!r}: {error}") from error
