"""This file compares two orders of the same things by their ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dwindle.errors import DataError

LEAST = 3
"""Of two things, any two orders agree or disagree completely."""


def ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value, from 1 for the smallest; equal values share the mean of their ranks.

    >>> ranks([30.0, 10.0, 30.0])
    [2.5, 1.0, 2.5]
    """
    order = sorted(range(len(values)), key=lambda i: values[i])
    found = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for i in order[start : end + 1]:
            found[i] = (start + end) / 2 + 1
        start = end + 1
    return found


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation in [-1, 1]: 1 where both order alike.

    None where it says nothing: fewer than three pairs, or one of the two is constant.

    Raises:
        DataError: the two differ in length, or hold NaN.

    >>> rank_correlation([1.0, 2.0, 3.0], [10.0, 100.0, 1000.0])
    1.0
    """
    if len(first) != len(second) or any(map(math.isnan, (*first, *second))):
        raise DataError(f"ranks need two equally long sequences without NaN, got {len(first)} and {len(second)} values")
    a, b = ranks(first), ranks(second)
    mean = (len(a) + 1) / 2
    spread = math.sqrt(math.fsum((x - mean) ** 2 for x in a) * math.fsum((y - mean) ** 2 for y in b))
    if len(a) < LEAST or spread == 0:
        return None
    found = math.fsum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True)) / spread
    return min(1.0, max(-1.0, found))
