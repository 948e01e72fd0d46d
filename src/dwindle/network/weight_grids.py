"""This file holds the grids that weights are rounded to while they are trained, and the codes that come out."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from dwindle.core.affine import choose_qparams, quantize_with, value_ranges
from dwindle.core.encoding import Affine, Encoding, codebook_of, rewrite, support_of
from dwindle.core.few_bits import stand_in
from dwindle.core.granularity import Granularity, PerTensor, expand
from dwindle.core.learned_step import TINY, highest_code, least_error_step, round_to_step
from dwindle.network.structure import floats_of

WeightScale = Literal["learned", "extremes"]
"""Where the step of a weight's grid comes from.

"learned": by gradient (Esser et al. 2020), from the step of least squared error on. "extremes": the largest magnitude
is the highest code, at every step of the training (Jacob et al. 2018).
"""


class UniformGrid(nn.Module):
    """Signed codes symmetric about zero, one step for all weights or for each output; zero stays zero.

    Centroids share one step whatever the granularity.
    """

    step: Tensor | None

    def __init__(self, encoding: Encoding, *, n_bits: int, granularity: Granularity, scale: WeightScale) -> None:
        super().__init__()
        self.n_bits = n_bits
        self.granularity = granularity if codebook_of(encoding) is None else PerTensor()
        self.step = None
        if scale == "learned":
            support = support_of(encoding) if codebook_of(encoding) is None else None
            start = least_error_step(floats_of(encoding), granularity=self.granularity, n_bits=n_bits, support=support)
            self.step = nn.Parameter(start)

    def forward(self, floats: Tensor, support: Tensor | None) -> Tensor:
        """Return `floats` as their codes say it."""
        if self.step is not None:  # what lies outside the support moves no step: its gradient is zero
            step = self._positive(self.step)
            return round_to_step(floats, step, granularity=self.granularity, n_bits=self.n_bits)
        kept = floats if support is None else floats * support
        spread = expand(self._extreme_step(kept), self.granularity, tuple(kept.shape))
        return stand_in(torch.round(kept.detach() / spread) * spread, kept)

    def encode(self, encoding: Encoding) -> Encoding:
        """Return `encoding` with its innermost floats as codes."""

        def fit(values: Tensor, support: Tensor, *, is_codebook: bool) -> Affine:
            del support, is_codebook
            step = self._extreme_step(values) if self.step is None else self._positive(self.step.detach())
            step = step.to(values.device, copy=True)
            ends = expand(step, self.granularity, tuple(values.shape)) * highest_code(self.n_bits)
            inside = torch.maximum(torch.minimum(values, ends), -ends)  # the lowest code of all is never used
            return quantize_with(
                inside, step, torch.zeros_like(step, dtype=torch.int32),
                granularity=self.granularity, n_bits=self.n_bits, signed=True,
            )  # fmt: skip

        return rewrite(encoding, fit)

    def _positive(self, step: Tensor) -> Tensor:
        return step.abs().clamp(min=TINY)

    def _extreme_step(self, values: Tensor) -> Tensor:
        ends = value_ranges(values.detach(), self.granularity)
        return choose_qparams(*ends, n_bits=self.n_bits, symmetric=True, signed=True)[0]
