"""This file stores floats as float16 numbers, two bytes each; what is computed with them stays float32."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dwindle.core.encoding import Encoding, Half, decode, rewrite
from dwindle.core.half import HalfLoss, half_loss, to_half
from dwindle.errors import EncodingError, NetworkError
from dwindle.network.compressed import CompressedModel
from dwindle.network.select import Select
from dwindle.technique import RANGES_WOULD_NOT_FIT, Context, Effect, Needs, Trait, recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class CastHalf:
    """Store floats as float16: 11 significant bits, magnitudes from 6e-8 to 65504, half the bytes of float32.

    A codebook gets float16 centroids, a pruned weight float16 values; zeros stay zero. Every value beyond the range is
    an error, because a saturated weight is another model. Steps that train later train float32 copies and round again
    when they finish; steps that re-encode (`Cluster`, `QuantizeWeights`) replace the float16 numbers by their own form.

    Buffers stay as they are. Those of a batch norm are why: a `running_var` may exceed 65504, and one below 6e-8 would
    become zero, whose square root is divided by; they are a fraction of a percent of a network.

    Attributes:
        select: which weights.
        biases: whether the parameters of fewer than two axes are stored as float16, too, whatever `select` says:
            biases, and scale and shift of normalizations.
    """

    select: Select = field(default_factory=Select)
    biases: bool = True

    @property
    def needs(self) -> Needs:
        """Nothing but the weights."""
        return Needs.NOTHING

    @property
    def effect(self) -> Effect:
        """Leaves no structure; cannot cast integer codes, nor change weights that ranges were calibrated with."""
        return Effect(
            refuses={
                Trait.INTEGER: "integer codes are smaller than float16",
                Trait.QUANTIZED_ACTIVATIONS: RANGES_WOULD_NOT_FIT,
            },
        )

    def apply(self, model: CompressedModel, context: Context) -> CompressedModel:
        """Return `model` with the selected parameters as float16 numbers; what that cost is in its history.

        Raises:
            SelectionError: a pattern matches nothing.
            EncodingError: a value is beyond the range of float16, or a selected weight holds integer codes.
            NetworkError: a selected weight is not float32, as which float16 numbers are decoded.
        """
        chosen = dict.fromkeys(self.select.resolve(model.network))
        if self.biases:
            vectors = {n: p for n, p in model.network.named_parameters() if p.ndim < 2 and p.is_floating_point()}
            chosen.update(dict.fromkeys(vectors))
        losses: dict[str, HalfLoss] = {}
        changed = {name: _cast(name, model.encodings[name], losses) for name in chosen}
        decisions = {"tensors": {name: loss._asdict() for name, loss in losses.items()}}
        return recorded(self, model.with_encodings(changed), context, decisions=decisions)


def _cast(name: str, encoding: Encoding, losses: dict[str, HalfLoss]) -> Encoding:
    if (dtype := decode(encoding).dtype) != torch.float32:
        raise NetworkError(f"{name!r} is {dtype}, but float16 numbers decode to float32; call network.float() first")

    def fit(values: Tensor, support: Tensor, *, is_codebook: bool) -> Half:
        del is_codebook
        kept = torch.where(support, values, torch.zeros((), dtype=values.dtype))
        rounded = to_half(kept)
        losses[name] = half_loss(kept, rounded)
        return rounded

    try:
        return rewrite(encoding, fit)
    except EncodingError as error:
        raise EncodingError(f"{name!r}: {error}") from error
