"""This file reads the outcomes of a study from its ledger and puts figures with intervals on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dwindle.bench.ledger import Entry
from dwindle.studies.plan import Node
from dwindle.studies.study import Quantity


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A figure with its interval.

    Attributes:
        value: mean over the seeds (and over whatever else was asked for).
        low: end of the 95 % interval; of exact figures the least.
        high: likewise; the greatest.
        n_seeds: the fewest that a part of it has.
        n_examples: of the test split (of all of them together); 0 for exact figures.
        is_exact: whether each seed's figure is exact (bytes, counts), so that [low, high] is their range.
    """

    value: float
    low: float
    high: float
    n_seeds: int
    n_examples: int = 0
    is_exact: bool = False


@dataclass(frozen=True, order=True)
class Variant:
    """Which runs belong together: the preset, and whether the published protocol was followed."""

    preset: str
    is_as_published: bool


def variants_of(entries: Sequence[Entry]) -> tuple[Variant, ...]:
    """Return the variants that the outcomes among `entries` belong to, in order."""
    raise NotImplementedError


class Results:
    """The outcomes of one variant of a study."""

    @classmethod
    def of(cls, entries: Sequence[Entry], variant: Variant, *, nodes: Sequence[Node] = ()) -> Results:
        """Return the outcomes of `variant` among `entries`; the newest of those with the same labels.

        Args:
            entries: of a ledger, of whatever kinds.
            nodes: the plan; an outcome with the key of one of them counts, under whatever variant it was made first.
        """
        raise NotImplementedError

    def figure(
        self,
        quantity: Quantity,
        *,
        stage: str,
        network: str,
        data: str,
        at: Mapping[str, Any],
        against: str | None = None,
    ) -> Finding | None:
        """Return a figure of one outcome, over its seeds; None where it is missing."""
        raise NotImplementedError
