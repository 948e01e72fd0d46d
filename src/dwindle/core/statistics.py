"""This file puts intervals around what was measured: a proportion, a drop on the same examples, a mean."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dwindle.errors import SettingError


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its confidence interval [low, high] from `n` observations."""

    value: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        """Half the distance between the ends."""
        return (self.high - self.low) / 2.0


def wilson_interval(n_right: int, n: int, *, level: float = 0.95) -> Interval:
    """Return the score interval of a proportion, in [0, 1].

    Reference: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927.

    Raises:
        SettingError: no observations, or more right than there are.

    >>> interval = wilson_interval(8, 10)
    >>> round(interval.low, 3), round(interval.high, 3)
    (0.49, 0.943)
    """
    if n < 1 or not 0 <= n_right <= n:
        raise SettingError(f"wilson_interval: needs 0 <= n_right <= n and n >= 1, got n_right={n_right}, n={n}")
    z = _normal_quantile(level)
    share, weight = n_right / n, z * z / n
    centre = (share + weight / 2.0) / (1.0 + weight)
    half = z * math.sqrt(share * (1.0 - share) / n + weight / (4.0 * n)) / (1.0 + weight)
    # The exact ends at 0 and n are 0 and 1: rounding must not move them past the proportion itself.
    low = 0.0 if n_right == 0 else max(centre - half, 0.0)
    high = 1.0 if n_right == n else min(centre + half, 1.0)
    return Interval(share, low, high, n)


def paired_drop_interval(
    dense_right: NDArray[np.bool_], compressed_right: NDArray[np.bool_], *, level: float = 0.95
) -> Interval:
    """Return the accuracy lost by compression in percentage points (positive = loss), paired by example.

    Answers on the same examples are correlated, so the interval is much narrower than that of two separate samples.
    Method 10 of R. G. Newcombe, "Improved confidence intervals for the difference between binomial proportions based
    on paired data", Statistics in Medicine 17, 1998: both Wilson intervals, combined with their correlation.

    Args:
        dense_right: (n,) whether the dense model was right on each example.
        compressed_right: (n,) the same for the compressed model, same order.
        level: confidence level in (0, 1).

    Raises:
        SettingError: no examples, or two different numbers of them.
    """
    dense, compressed = np.asarray(dense_right, dtype=bool), np.asarray(compressed_right, dtype=bool)
    if dense.ndim != 1 or dense.shape != compressed.shape:
        raise SettingError(
            f"paired_drop_interval: both sides must hold the same examples in one axis, "
            f"got shapes {dense.shape} and {compressed.shape}"
        )
    n = dense.size
    before = wilson_interval(int(dense.sum()), n, level=level)
    after = wilson_interval(int(compressed.sum()), n, level=level)
    phi = _phi(dense, compressed)
    drop = before.value - after.value
    below = _combine(before.value - before.low, after.high - after.value, phi)
    above = _combine(before.high - before.value, after.value - after.low, phi)
    return Interval(100.0 * drop, 100.0 * max(drop - below, -1.0), 100.0 * min(drop + above, 1.0), n)


def mean_interval(samples: Sequence[float] | NDArray[np.float64], *, level: float = 0.95) -> Interval:
    """Return the mean of independent `samples` with its t-interval (Student, Biometrika 6, 1908).

    Raises:
        SettingError: fewer than two samples, which say nothing about their spread, or samples that are not finite.

    >>> mean_interval([1.0, 1.0, 1.0])
    Interval(value=1.0, low=1.0, high=1.0, n=3)
    """
    from scipy.special import stdtrit  # imported late: scipy costs a tenth of a second that `import dwindle` saves

    values = np.asarray(samples, dtype=np.float64).ravel()
    if values.size < 2:
        raise SettingError(f"mean_interval: needs at least 2 samples, got {values.size}; measure more often")
    if not np.isfinite(values).all():
        raise SettingError("mean_interval: samples must be finite; drop the failed runs before averaging")
    quantile = float(stdtrit(values.size - 1, 0.5 + _checked(level) / 2.0))
    mean = float(values.mean())
    half = quantile * float(values.std(ddof=1)) / math.sqrt(values.size)
    return Interval(mean, mean - half, mean + half, values.size)


def _phi(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Return the correlation of two paired answers, continuity corrected where positive (Newcombe 1998, method 10)."""
    n = first.size
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    margins = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    if margins == 0:
        return 0.0
    cross = float(both * neither - only_first * only_second)
    return (max(cross - n / 2.0, 0.0) if cross > 0.0 else cross) / math.sqrt(margins)


def _combine(first: float, second: float, phi: float) -> float:
    return math.sqrt(max(first * first - 2.0 * phi * first * second + second * second, 0.0))


def _normal_quantile(level: float) -> float:
    return NormalDist().inv_cdf(0.5 + _checked(level) / 2.0)


def _checked(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise SettingError(f"level is a confidence level in (0, 1), such as 0.95, got {level}")
    return level


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """What one kind of training answers on one set of examples: a part of a weighted sum of means.

    Attributes:
        values: (n_seeds, n_examples) a figure for each example.
        seeds: of the rows.
        family: blocks of one family grew from the same trainings; their rows of one seed vary together.
        examples: names the set of examples; blocks with the same name answer the same ones in the same order.
        weight: of this block's mean in the sum.
    """

    values: NDArray[np.float64]
    seeds: tuple[int, ...]
    family: Hashable = ""
    examples: str = ""
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or not self.values.size or len(set(self.seeds)) != len(self.values):
            raise SettingError(
                f"a block needs a row of at least one example for each of its seeds, "
                f"got shape {self.values.shape} and seeds {self.seeds}"
            )
        if not np.isfinite(self.values).all() or not math.isfinite(self.weight):
            raise SettingError("a block's values must be finite; drop the failed runs before averaging")


_CAUTION: Final = 2.0
"""How much more the spread between seeds counts among the degrees of freedom than Satterthwaite lets it.

A spread that comes out small by chance would lend the sum freedom that it does not have: with three seeds his intervals
hold the truth 92 times in 100 where seeds matter more than examples; with a factor of 2 it is 94.5 or more everywhere.
"""


def mean_of_trainings(
    blocks: Sequence[Block], *, least_step: float, limits: tuple[float, float], level: float = 0.95
) -> Interval:
    """Return the weighted sum of the means of `blocks`, with an interval over trainings and over examples.

    The variance has one part for each family, the spread between its seeds (all blocks of a seed taken together), and
    one for each set of examples, the spread between examples of the sum over all blocks on them. The interval is
    Student's, its degrees of freedom those of F. E. Satterthwaite, "An approximate distribution of estimates of
    variance components", Biometrics Bulletin 2, 1946, with `_CAUTION`. With one seed the spread between trainings is
    not in it.

    Args:
        blocks: parts of the sum.
        least_step: by how much the figure of an example differs if it differs at all. Examples that all agree are
            taken as if two of them differed by it, or nothing would be left of the interval; see the rule of three.
        limits: the sum cannot lie outside.
        level: confidence level in (0, 1).

    Raises:
        SettingError: no blocks, or blocks on the same examples that hold different numbers of them.

    >>> interval = mean_of_trainings(
    ...     [Block(values=np.array([[0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0]]), seeds=(0, 1))],
    ...     least_step=1.0,
    ...     limits=(0.0, 1.0),
    ... )
    >>> interval.value, interval.n
    (0.625, 2)
    """
    from scipy.special import stdtrit  # imported late, as above

    if not blocks:
        raise SettingError("mean_of_trainings: needs at least one block")
    value = sum(block.weight * float(block.values.mean()) for block in blocks)
    seeds, examples = list(_between_seeds(blocks)), list(_between_examples(blocks, least_step))
    parts = [*seeds, *examples]
    variance = sum(part for part, _ in parts)
    n = min(len(block.values) for block in blocks)
    if variance == 0.0:
        return Interval(value, value, value, n)
    if any(freedom == 0 for _, freedom in parts):  # one example says nothing about others
        return Interval(value, *limits, n)
    # Shares, not squares of tiny variances, which would underflow.
    spent = [_CAUTION * (part / variance) ** 2 / freedom for part, freedom in seeds]
    spent += [(part / variance) ** 2 / freedom for part, freedom in examples]
    freedom = max(1.0 / sum(spent), min(freedom for _, freedom in parts))
    half = float(stdtrit(freedom, 0.5 + _checked(level) / 2.0)) * math.sqrt(variance)
    return Interval(value, min(value, max(value - half, limits[0])), max(value, min(value + half, limits[1])), n)


def _between_seeds(blocks: Sequence[Block]) -> Iterator[tuple[float, int]]:
    """Yield (variance of the sum, degrees of freedom) by family; of none that has a single seed."""
    deviations = defaultdict[Hashable, dict[int, float]](lambda: defaultdict(float))
    for block in blocks:
        means = block.values.mean(axis=1)
        for seed, deviation in zip(block.seeds, means - means.mean(), strict=True):
            deviations[block.family][seed] += block.weight * float(deviation) / len(means)
    for by_seed in deviations.values():
        n = len(by_seed)
        if n > 1:
            yield n / (n - 1) * sum(deviation**2 for deviation in by_seed.values()), n - 1


def _between_examples(blocks: Sequence[Block], least_step: float) -> Iterator[tuple[float, int]]:
    """Yield (variance of the sum, degrees of freedom) by set of examples."""
    sums: dict[str, NDArray[np.float64]] = {}
    weights = defaultdict[str, float](float)
    for block in blocks:
        part = block.weight * block.values.mean(axis=0)
        before = sums.get(block.examples)
        if before is not None and before.shape != part.shape:
            raise SettingError(
                f"mean_of_trainings: {block.examples!r} was answered on {before.size} and on {part.size} examples; "
                "give answers on the same ones"
            )
        sums[block.examples] = part if before is None else before + part
        weights[block.examples] += abs(block.weight)
    for name, total in sums.items():
        squares = max(float(((total - total.mean()) ** 2).sum()), 2.0 * (weights[name] * least_step) ** 2)
        n = total.size
        yield squares / max(n - 1, 1) / n, n - 1
