"""This file holds the grid of weights with 1 to 4 bits: centred, clipped, rounded to levels, times one factor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dwindle.core.encoding import MIN_BITS, Affine, Codebook, Dense, Encoding, Scaled, codebook_of, rewrite
from dwindle.core.few_bits import HIGHEST_LEVEL, FactorGradient, FactorRule, Levels, Spread, round_activation, stand_in
from dwindle.core.granularity import Granularity, PerTensor, expand
from dwindle.network.activations import LevelQuantizer

SMALLEST_FACTOR = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, slots=True, kw_only=True)
class FewBits:
    """How weights are rounded to few bits; `core/few_bits.py` says what the fields mean.

    Attributes:
        levels: what they are rounded to.
        factor: how the factor follows from the weights.
        gradient: what a weight's gradient knows of the factor.
        granularity: which weights share a mean and a factor: PerTensor() or PerChannel(0).
        is_centred: whether the mean is taken off first.
        spread: what they are divided by before they are clipped.
    """

    levels: Levels
    factor: FactorRule = "l1"
    gradient: FactorGradient = "exact"
    granularity: Granularity = PerTensor()  # ruff: ignore[function-call-in-dataclass-default-argument] (frozen)
    is_centred: bool = True
    spread: Spread = "deviation"


class RoundedInput(nn.Module):
    """Rounds what a layer reads to levels in [-1, 1]."""

    def __init__(self, quantizer: LevelQuantizer) -> None:
        super().__init__()
        self.levels = quantizer.levels

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, any shape, on the levels."""
        return round_activation(x, self.levels)


@dataclass(frozen=True, slots=True, eq=False)
class _Rounded:
    """Codes and factors of weights; `centred` carries the gradient."""

    centred: Tensor
    codes: Tensor
    factor: Tensor
    width: Tensor


class FewBitGrid(nn.Module):
    """Weights as codes of few bits times one factor; centroids share one factor whatever the granularity."""

    def __init__(self, encoding: Encoding, settings: FewBits) -> None:
        super().__init__()
        self.settings = settings
        self.granularity = settings.granularity if codebook_of(encoding) is None else PerTensor()

    def forward(self, floats: Tensor, support: Tensor | None) -> Tensor:
        """Return `floats` as the grid holds them; what lies outside `support` neither counts nor matters."""
        rounded = self._round(floats, support)
        levels, shape = self.settings.levels, tuple(floats.shape)
        factor = expand(rounded.factor, self.granularity, shape)
        straight = stand_in(rounded.codes * levels.unit, rounded.centred)
        if self.settings.gradient == "exact":
            surrogate = factor * straight
        else:
            n = self._counts(floats, support)
            surrogate = factor.detach() * straight + rounded.centred * expand(
                rounded.width / n, self.granularity, shape
            )
        return stand_in(self._values(rounded), surrogate)

    def encode(self, encoding: Encoding) -> Encoding:
        """Return `encoding` with its innermost floats as a codebook of the levels that occur."""
        factors: list[Tensor] = []

        def fit(values: Tensor, support: Tensor, *, is_codebook: bool) -> Codebook:
            del is_codebook
            rounded = self._round(values, None if bool(support.all()) else support)
            factors.append(rounded.factor)
            codes = torch.where(support, rounded.codes, float(self.settings.levels.highest))
            found, indices = codes.unique(return_inverse=True)
            if not found.numel():
                found = torch.tensor([float(self.settings.levels.highest)])
            return Codebook(indices.to(torch.uint8), self._table(found, rounded.factor))

        coded = rewrite(encoding, fit)
        if self.granularity == PerTensor() or isinstance(coded, Dense | Scaled):
            return coded
        return Scaled(coded, factors[0], 0)

    def _table(self, codes: Tensor, factor: Tensor) -> Affine:
        unit = torch.tensor([self.settings.levels.unit], dtype=torch.float32)
        scale = factor.cpu() * unit if self.granularity == PerTensor() else unit
        n_bits = max(MIN_BITS, self.settings.levels.highest.bit_length() + 1)
        return Affine(
            codes.to(torch.int32), scale.to(codes.device), torch.zeros(1, dtype=torch.int32, device=codes.device),
            PerTensor(), n_bits, signed=True,
        )  # fmt: skip

    def _values(self, rounded: _Rounded) -> Tensor:
        """Return what `decode` makes of the encoding, with the same arithmetic."""
        unit = torch.tensor([self.settings.levels.unit], dtype=torch.float32, device=rounded.codes.device)
        factor = rounded.factor.detach()
        if self.granularity == PerTensor():
            return rounded.codes * (factor * unit)
        return rounded.codes * unit * expand(factor, self.granularity, tuple(rounded.codes.shape))

    def _round(self, floats: Tensor, support: Tensor | None) -> _Rounded:
        settings, shape = self.settings, tuple(floats.shape)
        inside = torch.ones_like(floats) if support is None else support.to(floats.dtype)
        n = self._counts(floats, support)
        kept = floats * inside
        if settings.is_centred:  # but for a weight alone, of which nothing would be left
            mean = torch.where(n > 1, self._sum(kept) / n, 0.0)
            kept = (kept - expand(mean, self.granularity, shape)) * inside
        width = self._width(kept.detach(), n)
        c = (kept / expand(width, self.granularity, shape)).clamp(-1.0, 1.0)
        codes = settings.levels.codes(c.detach())
        if settings.factor == "l1":
            factor = self._sum(c.abs()) / n
        else:
            m = codes * settings.levels.unit * inside
            factor = self._sum(c * m) / self._sum(m.square()).clamp(min=SMALLEST_FACTOR)
        return _Rounded(c, codes, (factor * width).clamp(min=SMALLEST_FACTOR), width)

    def _width(self, kept: Tensor, n: Tensor) -> Tensor:
        """Return what comes to lie at 1."""
        if self.settings.spread == "none":
            return torch.ones_like(n)
        highest = torch.where(n > 1, HIGHEST_LEVEL[self.settings.levels.n_bits], 1.0)  # a weight alone is the highest
        deviation = (self._sum(kept.square()) / n).sqrt() * highest
        return torch.where(deviation > SMALLEST_FACTOR, deviation, torch.ones_like(deviation))

    def _counts(self, floats: Tensor, support: Tensor | None) -> Tensor:
        inside = torch.ones_like(floats) if support is None else support.to(floats.dtype)
        return self._sum(inside).detach().clamp(min=1.0)

    def _sum(self, values: Tensor) -> Tensor:
        if self.granularity == PerTensor():
            return values.sum().reshape(1)
        return values.flatten(1).sum(1)
