"""This file quantizes weights to integer codes; a codebook gets integer centroids, zeros stay zero."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from dwindle.core.encoding import MAX_BITS, MIN_BITS, Encoding, decode
from dwindle.core.granularity import Granularity, PerTensor
from dwindle.errors import SettingError
from dwindle.network.compressed import CompressedModel
from dwindle.network.integer_weights import KERNEL_BITS, KERNEL_GRANULARITIES, ScaleKind, quantize_weight
from dwindle.network.select import Select
from dwindle.settings import require_kinds
from dwindle.technique import RANGES_WOULD_NOT_FIT, Context, Effect, Needs, Trait, recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeWeights:
    """Affine quantization of weights: value = (code - zero_point) * scale.

    Attributes:
        n_bits: width of a code, 2 to 16.
        granularity: which weights share a scale. The centroids of a clustered tensor always share one.
        symmetric: zero_point 0 and codes in +-(2^(n_bits-1) - 1); else the range follows the weights.
        scale: "float", or "power_of_two": fixed point, as Qin et al. 2018 compare it at 6, 8 and 16 bits. The scale is
            the smallest power of two with which no weight saturates; the factors that folding a batch norm into a
            clustered weight leaves behind stay floats.
        select: which weights.
    """

    n_bits: int = 8
    granularity: Granularity = field(default_factory=PerTensor)
    symmetric: bool = True
    scale: ScaleKind = "float"
    select: Select = field(default_factory=Select)

    def __post_init__(self) -> None:
        require_kinds(self)
        if not MIN_BITS <= self.n_bits <= MAX_BITS:
            raise SettingError(f"QuantizeWeights: n_bits must be in [{MIN_BITS}, {MAX_BITS}], got {self.n_bits}")
        if self.scale == "power_of_two" and not self.symmetric:
            raise SettingError(
                "QuantizeWeights: fixed point (scale='power_of_two') has no zero point; keep symmetric=True"
            )

    @property
    def needs(self) -> Needs:
        """Nothing but the weights."""
        return Needs.NOTHING

    @property
    def effect(self) -> Effect:
        """Leaves integer codes, if they are narrow those of engines; cannot quantize what is quantized."""
        is_narrow = self.n_bits <= KERNEL_BITS and self.granularity in KERNEL_GRANULARITIES
        return Effect(
            adds=Trait.INTEGER | Trait.KERNEL if is_narrow else Trait.INTEGER,
            refuses={
                Trait.INTEGER: "integer codes have no float values left to quantize",
                Trait.QUANTIZED_ACTIVATIONS: RANGES_WOULD_NOT_FIT,
            },
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
        quantize = functools.partial(
            quantize_weight,
            n_bits=self.n_bits,
            granularity=self.granularity,
            symmetric=self.symmetric,
            scale=self.scale,
        )
        changed = {name: quantize(name, model.encodings[name]) for name in names}
        decisions = {"tensors": {name: _error(model.encodings[name], after) for name, after in changed.items()}}
        return recorded(self, model.with_encodings(changed), context, decisions=decisions)


def _error(before: Encoding, after: Encoding) -> dict[str, float]:
    difference = decode(after).double() - decode(before).double()
    return {"root_mean_square_error": float(difference.square().mean().sqrt()) if difference.numel() else 0.0}
