"""This file quantizes weights to integer codes; a codebook gets integer centroids, zeros stay zero."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dwindle.core.affine import quantize
from dwindle.core.encoding import MAX_BITS, MIN_BITS, Affine, Encoding, decode, rewrite
from dwindle.core.granularity import Granularity, PerTensor
from dwindle.errors import EncodingError, NetworkError, SettingError
from dwindle.network.compressed import CompressedModel
from dwindle.network.select import Select
from dwindle.technique import Context, Effect, Needs, Trait, recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeWeights:
    """Affine quantization of weights: value = (code - zero_point) * scale.

    Attributes:
        n_bits: width of a code, 2 to 16.
        granularity: which weights share a scale. The centroids of a clustered tensor always share one.
        symmetric: zero_point 0 and codes in +-(2^(n_bits-1) - 1); else the range follows the weights.
        select: which weights.
    """

    n_bits: int = 8
    granularity: Granularity = field(default_factory=PerTensor)
    symmetric: bool = True
    select: Select = field(default_factory=Select)

    def __post_init__(self) -> None:
        if not MIN_BITS <= self.n_bits <= MAX_BITS:
            raise SettingError(f"QuantizeWeights: n_bits must be in [{MIN_BITS}, {MAX_BITS}], got {self.n_bits}")

    @property
    def needs(self) -> Needs:
        """Nothing but the weights."""
        return Needs.NOTHING

    @property
    def effect(self) -> Effect:
        """Leaves integer codes; cannot quantize what is quantized."""
        return Effect(
            adds=Trait.INTEGER,
            refuses=Trait.INTEGER | Trait.QUANTIZED_ACTIVATIONS,
            because="integer codes have no float values left to quantize",
        )

    def apply(self, model: CompressedModel, context: Context) -> CompressedModel:
        """Return `model` with the selected weights as integer codes.

        Raises:
            SelectionError: a pattern matches nothing.
            SettingError: the granularity does not fit the shape of a selected weight.
            EncodingError: a selected weight is quantized already.
            NetworkError: a selected weight is not float32, in which codes are decoded.
        """
        names = self.select.resolve(model.network)
        changed = {name: self._quantized(name, model.encodings[name]) for name in names}
        decisions = {"tensors": {name: _error(model.encodings[name], after) for name, after in changed.items()}}
        return recorded(self, model.with_encodings(changed), context, decisions=decisions)

    def _quantized(self, name: str, encoding: Encoding) -> Encoding:
        if (dtype := decode(encoding).dtype) != torch.float32:
            raise NetworkError(f"{name!r} is {dtype}, but codes are decoded in float32; call network.float() first")
        try:
            return rewrite(encoding, self._fit)
        except (EncodingError, SettingError) as error:
            raise type(error)(f"{name!r}: {error}") from error

    def _fit(self, values: Tensor, support: Tensor, *, is_codebook: bool) -> Affine:
        granularity = PerTensor() if is_codebook else self.granularity
        return quantize(values, n_bits=self.n_bits, granularity=granularity, symmetric=self.symmetric, support=support)


def _error(before: Encoding, after: Encoding) -> dict[str, float]:
    difference = decode(after).double() - decode(before).double()
    return {"root_mean_square_error": float(difference.square().mean().sqrt()) if difference.numel() else 0.0}
