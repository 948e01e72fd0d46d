"""This file chooses which weights stay: by rank, by the spread of their layer, or n of every m neighbours.

A support is a bool tensor of the weights' shape, True where a weight stays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dwindle.core.finite import require_finite
from dwindle.errors import SettingError

Magnitudes = NDArray[np.float32]
Scores = NDArray[np.floating[Any]]
"""What weights are ranked by, flat; -1 where a weight is gone already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NOfM:
    """At most `n` weights stay of every `m` that an engine reads one after the other; 2 of 4 is what GPUs compute with.

    Mishra et al. (2021), "Accelerating sparse deep neural networks".
    """

    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        given: tuple[Any, ...] = (self.n, self.m)
        if any(type(number) is not int for number in given) or not 1 <= self.n < self.m:
            raise SettingError(
                f"NOfM: of every m weights n stay, whole numbers with 1 <= n < m, got n={self.n!r}, m={self.m!r}"
            )

    @property
    def sparsity(self) -> float:
        """Share of the weights that go where every group is whole."""
        return 1 - self.n / self.m


def n_pruned(n_weights: int, sparsity: float) -> int:
    """Return floor(sparsity * n_weights), with `sparsity` read as the decimal number that was written.

    The product in binary can end just below a whole number (0.57 * 100 gives 56.99999999999999): rounding away what
    lies beyond a millionth of a weight repairs this.

    Raises:
        SettingError: `sparsity` outside [0, 1].

    >>> n_pruned(100, 0.57), n_pruned(9, 0.5)
    (57, 4)
    """
    if not 0.0 <= sparsity <= 1.0:
        raise SettingError(f"sparsity is the share of weights that become zero, in [0, 1], got {sparsity}")
    return math.floor(round(sparsity * n_weights, 6))


def magnitude_support(values: Tensor, sparsity: float, *, within: Tensor | None = None) -> Tensor:
    """Return the support that drops the `n_pruned` smallest magnitudes of a tensor.

    Args:
        values: finite floats of any shape.
        sparsity: share of all weights of the tensor that become zero, in [0, 1].
        within: the earlier support; what lies outside goes first and counts towards `sparsity`. Earlier zeros never
            come back, so a tensor that is already sparser keeps its support.

    Equal magnitudes go in order of position, so the result never depends on a sort's whims.

    Raises:
        SettingError: `sparsity` out of range, or values that are not finite.

    >>> magnitude_support(torch.tensor([0.1, -3.0, 0.1, 2.0]), 0.25).tolist()
    [False, True, True, True]
    """
    magnitudes = _magnitudes(values, within, "magnitude_support")
    kept = _keep_largest(magnitudes, n_pruned(magnitudes.size, sparsity))
    return torch.from_numpy(kept).reshape(values.shape)


def global_magnitude_supports(
    tensors: Mapping[str, Tensor], sparsity: float, *, within: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return supports that drop the smallest magnitudes of all `tensors` together; `sparsity` counts all their weights.

    Args:
        tensors: finite floats by name.
        sparsity: share of all weights that become zero, in [0, 1].
        within: earlier supports by name; a name that is absent has none.

    Equal magnitudes go in order of name, then of position, so the order of the mapping does not matter.

    Raises:
        SettingError: `sparsity` out of range, or values that are not finite.
    """
    earlier = within or {}
    names = sorted(tensors)
    parts = [_magnitudes(tensors[n], earlier.get(n), f"global_magnitude_supports: {n}") for n in names]
    kept = _together(parts, n_pruned(sum(part.size for part in parts), sparsity))
    by_name = dict(zip(names, kept, strict=True))
    return {n: torch.from_numpy(by_name[n]).reshape(values.shape) for n, values in tensors.items()}


def lamp_supports(
    tensors: Mapping[str, Tensor], sparsity: float, *, within: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return supports that drop the lowest LAMP scores of all `tensors` together (Lee et al. 2021, equation 4).

    The score of a weight is its square over the sum of squares of all weights of its tensor that are not smaller: what
    share of the rest would go with it. The largest weight of a tensor has 1, so no tensor is emptied while another has
    anything else to give, and large tensors give most. Arguments, ties and errors as in `global_magnitude_supports`;
    weights outside `within` count in no sum.

    >>> weights = {"large": torch.full((8,), 2.0), "small": torch.tensor([0.1, 0.3])}
    >>> {name: int(support.sum()) for name, support in lamp_supports(weights, 0.6).items()}
    {'large': 3, 'small': 1}
    """
    earlier = within or {}
    parts = {n: _magnitudes(tensors[n], earlier.get(n), f"lamp_supports: {n}") for n in sorted(tensors)}
    n_gone = {n: int(np.count_nonzero(part < 0.0)) for n, part in parts.items()}
    count = n_pruned(sum(part.size for part in parts.values()), sparsity) - sum(n_gone.values())
    scores = [_lamp_scores(np.sort(part[part >= 0.0])) for part in parts.values()]
    for n, kept in zip(parts, _together(scores, max(count, 0)), strict=True):
        n_gone[n] += int(np.count_nonzero(~kept))
    return {
        n: torch.from_numpy(_keep_largest(parts[n], n_gone[n])).reshape(values.shape) for n, values in tensors.items()
    }


def n_of_m_support(values: Tensor, n: int, m: int, *, within: Tensor | None = None) -> Tensor:
    """Return the support that keeps the n largest magnitudes of every m consecutive inputs of an output.

    The inputs of an output lie as kernels for sparse matrices read them, channels innermost: those of a convolution are
    taken in the order (*kernel, in). Groups never reach over two outputs. The last group of an output may be shorter
    than m; it keeps its n largest, too, as if zeros filled it up.

    Args:
        values: finite floats (out, in, *kernel).
        n: how many stay, from 0 to m.
        m: size of a group, at least 1.
        within: the earlier support; what lies outside goes first and never comes back.

    Equal magnitudes go in order of position.

    Raises:
        SettingError: n or m out of range, fewer than two axes, or values that are not finite.

    >>> n_of_m_support(torch.tensor([[0.1, -3.0, 2.0, 1.0, 0.5, 0.4]]), 2, 4).tolist()
    [[False, True, True, False, True, True]]
    """
    if not (0 <= n <= m and m >= 1):
        raise SettingError(f"n_of_m_support: n weights stay of m, 0 <= n <= m and m >= 1, got n={n}, m={m}")
    if values.ndim < 2:
        raise SettingError(
            f"n_of_m_support: weights of shape {tuple(values.shape)} have no axis of inputs; leave them out of the "
            "selection"
        )
    magnitudes = _magnitudes(values, within, "n_of_m_support").reshape(tuple(values.shape))
    if magnitudes.size == 0:
        return torch.ones(values.shape, dtype=torch.bool)
    rows = np.moveaxis(magnitudes, 1, -1).reshape(len(magnitudes), -1)
    size = min(m, rows.shape[1])
    filled = np.pad(rows, ((0, 0), (0, -rows.shape[1] % size)), constant_values=-2.0)  # it goes before all else
    groups = filled.reshape(-1, size)
    kept = np.ones(groups.shape, np.bool_)
    np.put_along_axis(kept, np.argsort(groups, axis=1, kind="stable")[:, : max(size - n, 0)], values=False, axis=1)
    kept &= groups >= 0.0
    inputs_last = (values.shape[0], *values.shape[2:], values.shape[1])
    kept = kept.reshape(filled.shape)[:, : rows.shape[1]].reshape(inputs_last)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(kept, -1, 1)))


def std_support(values: Tensor, std_multiplier: float, *, within: Tensor | None = None) -> Tensor:
    """Return the support that keeps |w| >= T with T = s * std(W_l), Tian et al. eq. 1 (after Han et al. 2015).

    The spread is the population standard deviation over all weights of the layer, earlier zeros included, as published.

    Args:
        values: the finite weights of one layer.
        std_multiplier: s, not negative; 0 keeps everything.
        within: the earlier support; zeros outside it never come back.

    Raises:
        SettingError: a negative or infinite `std_multiplier`, or values that are not finite.

    >>> std_support(torch.tensor([-1.0, 0.5, 1.0, -0.5]), 1.0).tolist()
    [True, False, True, False]
    """
    if not 0.0 <= std_multiplier < math.inf:
        raise SettingError(f"std_multiplier must be finite and not negative, got {std_multiplier}")
    require_finite(values, "std_support")
    # In float64, so that find_std_multiplier and this comparison agree about every single weight.
    support = values.detach().double().abs() >= std_multiplier * _std(values)
    return support if within is None else support & within


def find_std_multiplier(tensors: Mapping[str, Tensor], sparsity: float) -> float:
    """Return s for which `std_support` leaves all `tensors` together with `sparsity`: the inverse of Tian et al. eq. 1.

    A weight goes as soon as s exceeds |w| / std(W_l), so s is a rank among these ratios: exact to one weight where
    ties allow. Layers of equal weights (no spread) are never pruned by this rule.

    Raises:
        SettingError: `sparsity` out of range, no weights, or values that are not finite.
    """
    ratios = _spread_ratios(tensors)
    if ratios.size == 0:
        raise SettingError("find_std_multiplier: there are no weights to prune; check the selection")
    count = n_pruned(ratios.size, sparsity)
    finite = ratios[np.isfinite(ratios)]
    if count == 0 or finite.size == 0:
        return 0.0
    if count < finite.size:
        pivot = float(np.partition(finite, count)[count])
        below, above = finite[finite < pivot], finite[finite > pivot]
        n_upto = finite.size - above.size
        if count - below.size <= n_upto - count:
            return _between(float(below.max()), pivot) if below.size else pivot
        if above.size:
            return _between(pivot, float(above.min()))
    return float(finite.max()) * (1.0 + 1e-6) or 1.0  # all finite ratios are 0: any positive s takes them


def _between(low: float, high: float) -> float:
    return low + (high - low) / 2.0 if low < low + (high - low) / 2.0 else high


def _std(values: Tensor) -> float:
    return float(values.detach().double().std(correction=0)) if values.numel() else 0.0


def _spread_ratios(tensors: Mapping[str, Tensor]) -> NDArray[np.float64]:
    parts: list[NDArray[np.float64]] = []
    for name, values in tensors.items():
        require_finite(values, f"find_std_multiplier: {name}")
        magnitudes = values.detach().double().abs().flatten().numpy()
        std = _std(values)
        parts.append(magnitudes / std if std > 0.0 else np.full(magnitudes.shape, np.inf))
    return np.concatenate(parts) if parts else np.empty(0)


def _magnitudes(values: Tensor, within: Tensor | None, what: str) -> Magnitudes:
    """Return flat |values| as a fresh float32 array; -1 outside `within`, so that earlier zeros rank first."""
    require_finite(values, what)
    magnitudes = values.detach().to(torch.float32).abs().flatten()
    if within is not None:
        if within.shape != values.shape:
            raise SettingError(f"{what}: within has shape {tuple(within.shape)}, values {tuple(values.shape)}")
        magnitudes = torch.where(within.flatten(), magnitudes, torch.full((), -1.0))
    return magnitudes.numpy()


def _together(parts: Sequence[Scores], count: int) -> list[NDArray[np.bool_]]:
    """Return which scores of each part stay when the `count` lowest of all go."""
    pooled = np.concatenate(parts) if parts else np.empty(0, np.float32)
    kept = _keep_largest(pooled, count)
    ends = np.cumsum([part.size for part in parts])
    return [part.copy() for part in np.split(kept, ends[:-1])] if parts else []


def _lamp_scores(ascending: Magnitudes) -> NDArray[np.float64]:
    """Return the scores of sorted magnitudes, sorted as well."""
    squares = np.square(ascending.astype(np.float64))
    rest = np.cumsum(squares[::-1])[::-1]
    return np.divide(squares, rest, out=np.zeros_like(rest), where=rest > 0.0)


def _keep_largest(magnitudes: Scores, count: int) -> NDArray[np.bool_]:
    """Return which magnitudes stay when `count` go; a partition (quickselect) instead of a sort: O(n)."""
    if count == 0:
        return magnitudes >= 0.0
    threshold = np.partition(magnitudes, count - 1)[count - 1]
    kept = magnitudes > threshold
    ties = np.flatnonzero(magnitudes == threshold)
    n_ties_pruned = count - int(np.count_nonzero(magnitudes < threshold))
    kept[ties[n_ties_pruned:]] = threshold >= 0.0
    return kept
