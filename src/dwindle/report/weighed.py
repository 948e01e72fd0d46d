"""This file holds what advice weighs: files with what was measured of them, and what a user may lose at most.

Every comparison is one of intervals: a file is smaller or faster than another where no value of the one reaches any
of the other, and within a bound where its whole interval is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from dwindle.core.statistics import Interval
from dwindle.report.methods import Methods

N_TRAININGS_NEEDED: Final = 3
"""Fewer say too little about the spread between trainings; only bytes hardly depend on it."""


class Keeps(StrEnum):
    """Whether a drop keeps within a bound."""

    WITHIN = "within"
    BEYOND = "beyond"
    UNDECIDED = "undecided"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A compressed network, its files, and what was measured of them.

    Attributes:
        name: as people know it.
        methods: what made it.
        sizes: bytes of its files by what they are called, such as ".dwn"; of several seeds the range.
        drop: what it lost against the dense network, in the unit of the question; None where it was not measured.
        speedup: how many times faster than the dense network; None where it was not measured.
    """

    name: str
    methods: Methods = field(default_factory=Methods)
    sizes: Mapping[str, Interval] = field(default_factory=dict[str, Interval])
    drop: Interval | None = None
    speedup: Interval | None = None

    @property
    def smallest(self) -> tuple[str, Interval] | None:
        """The name and the bytes of its smallest file; None where no size was measured."""
        return min(self.sizes.items(), key=lambda item: item[1].value, default=None)


Between = Callable[[Candidate, Candidate], Interval | None]


def no_pairs(first: Candidate, second: Candidate) -> Interval | None:
    """Return None: the two never answered the same examples, or nobody kept what they answered."""
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What a network has learned of its classes.

    Attributes:
        recall: the mean over classes of the share of their examples that it recognizes.
        n_classes: how many there are.
    """

    recall: Interval
    n_classes: int

    @property
    def guessing(self) -> float:
        """The recall of any answer that does not look at the example, such as always the most frequent class."""
        return 1.0 / self.n_classes

    @property
    def is_shown(self) -> bool:
        """Whether it recognizes more than by guessing, with its whole interval."""
        return self.recall.low > self.guessing


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a user asks: which of these, if so much may be lost?

    Attributes:
        dense: bytes of the dense network's files, by what they are called.
        max_drop: the drop that is still good enough; None: nobody said.
        metric: what drops, in words.
        unit: of the drop.
        change: what getting worse is called: a drop, or a rise where less is better.
        drop_between: drop of the first minus drop of the second, paired by example; None where it is not known.
        n_trainings: the fewest trainings that a figure rests on; 0 where that is not known.
        learned: what the dense network has learned; None where that is not known.
    """

    dense: Mapping[str, Interval]
    candidates: tuple[Candidate, ...]
    max_drop: float | None = 1.0
    metric: str = "accuracy"
    unit: str = "points"
    change: str = "drop"
    drop_between: Between = no_pairs
    n_trainings: int = 0
    learned: Learned | None = None

    def keeps(self, candidate: Candidate) -> Keeps:
        """Return whether the whole interval of its drop is within the bound, beyond it, or neither."""
        if candidate.drop is None or self.max_drop is None:
            return Keeps.UNKNOWN
        if candidate.drop.high <= self.max_drop:
            return Keeps.WITHIN
        return Keeps.BEYOND if candidate.drop.low > self.max_drop else Keeps.UNDECIDED

    def within(self) -> list[Candidate]:
        """Return those that keep within the bound."""
        return [candidate for candidate in self.candidates if self.keeps(candidate) is Keeps.WITHIN]


def is_below(first: Interval, second: Interval) -> bool:
    """Return whether every value of the first is below every value of the second.

    >>> is_below(Interval(1.0, 0.9, 1.1, 3), Interval(2.0, 1.2, 3.0, 3))
    True
    >>> is_below(Interval(1.0, 0.9, 1.3, 3), Interval(2.0, 1.2, 3.0, 3))
    False
    """
    return first.high < second.low
