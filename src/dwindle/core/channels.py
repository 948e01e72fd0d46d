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
    scores: Mapping[str, Tensor],
    pruning_ratio: float,
    *,
    sizes: Mapping[str, int],
    scope: Scope = "layer",
    round_to: int = 1,
    max_pruning_ratio: float = 1.0,
) -> dict[str, Tensor]:
    """Return which channels of each group stay (bool); of equal scores the earlier channel stays.

    Args:
        scores: (n_channels,) for each group; large ones stay. With scope "global" they are divided by the mean of
            their group first, since layers of other sizes have other norms.
        pruning_ratio: fraction of `sizes` that is gone afterwards, [0, 1).
        sizes: how many channels each group had before anything was pruned.
        scope: rank within each group ("layer"), or all channels together ("global").
        round_to: the number that stays in a group is rounded up to a multiple of this.
        max_pruning_ratio: no group loses a larger fraction of its size than this.

    >>> choose_kept({"a": torch.tensor([1.0, 3.0, 2.0])}, 0.5, sizes={"a": 4})["a"].tolist()
    [False, True, True]
    """
    if scope == "layer":
        wanted = {name: _at_least(sizes[name] * (1 - pruning_ratio)) for name in scores}
    else:
        wanted = _global_counts(scores, _at_least(sum(sizes[name] for name in scores) * (1 - pruning_ratio)))
    kept: dict[str, Tensor] = {}
    for name, one in scores.items():
        least = max(wanted[name], _at_least(sizes[name] * (1 - max_pruning_ratio)), 1)
        n_kept = min(one.numel(), math.ceil(least / round_to) * round_to)
        kept[name] = _best(one, n_kept)
    return kept


def keep_equally_many(
    kept: Mapping[str, Tensor], scores: Mapping[str, Tensor], together: Mapping[str, str], *, round_to: int = 1
) -> dict[str, Tensor]:
    """Return `kept` with as many channels in each of the groups that go together: their mean, rounded up.

    Args:
        kept: which channels of each group stay (bool), as `choose_kept` returned it.
        scores: what they were ranked by.
        together: group -> a name that groups of equal size share; an empty name stands for itself.
        round_to: the number that stays is rounded up to a multiple of this.

    >>> kept = {"a": torch.tensor([True, False, False]), "b": torch.tensor([True, True, True])}
    >>> scores = {"a": torch.tensor([3.0, 1.0, 2.0]), "b": torch.tensor([1.0, 2.0, 3.0])}
    >>> {name: one.tolist() for name, one in keep_equally_many(kept, scores, {"a": "lstm", "b": "lstm"}).items()}
    {'a': [True, False, True], 'b': [False, True, True]}
    """
    counts: dict[str, list[int]] = {}
    for name, stays in kept.items():
        counts.setdefault(together.get(name) or name, []).append(int(stays.sum()))
    equal: dict[str, Tensor] = {}
    for name, one in scores.items():
        own = counts[together.get(name) or name]
        n_kept = kept[name].sum() if len(own) == 1 else math.ceil(sum(own) / len(own) / round_to) * round_to
        equal[name] = _best(one, int(n_kept))
    return equal


def _best(scores: Tensor, n_kept: int) -> Tensor:
    """Return the `n_kept` highest scores (bool); of equal ones the earlier stays."""
    kept = torch.zeros(scores.numel(), dtype=torch.bool)
    kept[torch.argsort(scores, descending=True, stable=True)[:n_kept]] = True
    return kept


def _global_counts(scores: Mapping[str, Tensor], n_kept: int) -> dict[str, int]:
    """Return how many channels of each group are among the best `n_kept` of all."""
    tiny = torch.finfo(torch.float64).tiny
    parts = [one.double() / one.double().mean().clamp(min=tiny) for one in scores.values()]
    everything = torch.cat(parts)
    best = torch.zeros(everything.numel(), dtype=torch.bool)
    best[torch.argsort(everything, descending=True, stable=True)[:n_kept]] = True
    counts = [int(part.sum()) for part in best.split([part.numel() for part in parts])]
    return dict(zip(scores, counts, strict=True))


def _at_least(count: float) -> int:
    return math.ceil(count - 1e-9)  # 10 * (1 - 0.9) is a little more than 1
