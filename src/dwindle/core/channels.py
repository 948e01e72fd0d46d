"""This file scores coupled channels and chooses which of them stay: pure functions of weights and numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

Scope = Literal["layer", "global"]


def sum_by_channel(values: Tensor, axis: int, channels: Tensor, *, n_channels: int) -> Tensor:
    """Return the sum of `values` over everything that belongs to each channel, (n_channels,) float64.

    Args:
        values: of any shape.
        axis: along which the channels lie.
        channels: int64 (size of the axis,): the channel of each index; -1 for an index of none.
        n_channels: how many there are.

    >>> sum_by_channel(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), 0, torch.tensor([0, -1, 0]), n_channels=2)
    tensor([14.,  0.], dtype=torch.float64)
    """
    rows = values.double().movedim(axis, 0).reshape(values.shape[axis], -1).sum(dim=1)
    inside = channels >= 0
    return torch.zeros(n_channels, dtype=torch.float64).index_add_(0, channels[inside], rows[inside])


def choose_kept(
    scores: Mapping[str, Tensor], pruning_ratio: float, *, scope: Scope, round_to: int, max_pruning_ratio: float
) -> dict[str, Tensor]:
    """Return which channels of each group stay (bool); of equal scores the earlier channel stays.

    Args:
        scores: (n_channels,) for each group; large ones stay. With scope "global" they are divided by the mean of
            their group first, since layers of other sizes have other norms.
        pruning_ratio: fraction of the channels that goes, [0, 1).
        scope: rank within each group ("layer"), or all channels together ("global").
        round_to: the number that stays in a group is rounded up to a multiple of this.
        max_pruning_ratio: no group loses a larger fraction than this; matters for "global".

    >>> kept = choose_kept({"a": torch.tensor([1.0, 3.0, 2.0])}, 0.5, scope="layer", round_to=1, max_pruning_ratio=1.0)
    >>> kept["a"].tolist()
    [False, True, True]
    """
    if scope == "layer":
        wanted = {name: math.ceil(one.numel() * (1 - pruning_ratio) - 1e-9) for name, one in scores.items()}
    else:
        wanted = _global_counts(scores, pruning_ratio)
    kept: dict[str, Tensor] = {}
    for name, one in scores.items():
        least = math.ceil(one.numel() * (1 - max_pruning_ratio) - 1e-9)
        n_kept = _rounded(max(wanted[name], least, 1), round_to, one.numel())
        order = torch.argsort(one, descending=True, stable=True)
        kept[name] = torch.zeros(one.numel(), dtype=torch.bool)
        kept[name][order[:n_kept]] = True
    return kept


def _global_counts(scores: Mapping[str, Tensor], pruning_ratio: float) -> dict[str, int]:
    """Return how many channels of each group are among the best of all."""
    names = list(scores)
    parts = [scores[name] / scores[name].mean().clamp(min=torch.finfo(torch.float64).tiny) for name in names]
    everything = torch.cat(parts) if parts else torch.zeros(0)
    n_kept = math.ceil(everything.numel() * (1 - pruning_ratio) - 1e-9)
    best = torch.zeros(everything.numel(), dtype=torch.bool)
    best[torch.argsort(everything, descending=True, stable=True)[:n_kept]] = True
    counts = [int(part.sum()) for part in best.split([part.numel() for part in parts])] if parts else []
    return dict(zip(names, counts, strict=True))


def _rounded(n_kept: int, round_to: int, n_channels: int) -> int:
    return min(n_channels, math.ceil(n_kept / round_to) * round_to)
