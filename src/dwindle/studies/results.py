"""This file puts figures with intervals on the outcomes of a study, from its ledger alone.

Seeds are trainings from scratch: what grew from one seed of one case varies together. Test examples are shared by all
networks on a data set. An interval is over both; `core.statistics.mean_of_trainings` holds the equations.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dwindle.bench.ledger import Entry
from dwindle.core.statistics import Block, mean_of_trainings
from dwindle.errors import StudyError
from dwindle.report.facts import items
from dwindle.studies.outcome import TIMED, Label, Outcome, Place, as_table, read_outcome, read_time
from dwindle.studies.plan import Choice, Node, unfold
from dwindle.studies.run import FAILURE, OUTCOME
from dwindle.studies.shown import Quantity
from dwindle.studies.study import Study

_OF_ANSWERS: Final[Mapping[Quantity, tuple[float, float]]] = {
    "accuracy": (0.0, 100.0),
    "accuracy_drop": (-100.0, 100.0),
}
"""Figures that are means over test examples, and where they can lie."""

BySeed = dict[int, Outcome]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A figure with its interval.

    Attributes:
        value: mean over the seeds (and over whatever else was asked for).
        low: end of the 95 % interval; of exact figures the least.
        high: likewise; the greatest.
        n_seeds: the fewest that a part of it has.
        n_examples: of the test split (of all of them together); 0 for exact figures.
        is_exact: whether each seed's figure is exact (bytes, counts), so that [low, high] is their range. That of times
            holds the intervals of all seeds.
    """

    value: float
    low: float
    high: float
    n_seeds: int
    n_examples: int = 0
    is_exact: bool = False


@dataclass(frozen=True, slots=True)
class _Figure:
    """What one seed has of a quantity, and where it can lie."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, order=True)
class Variant:
    """Which runs belong together: the preset, and whether the published protocol was followed."""

    preset: str
    is_as_published: bool = False


@dataclass(frozen=True, kw_only=True)
class Spot:
    """Which outcome, whatever its seed.

    Attributes:
        at: axis -> value; axes that the outcome does not have are passed over.
        against: the stage that a drop is taken against.
    """

    stage: str
    network: str
    data: str
    at: Mapping[str, str] = field(default_factory=dict[str, str])
    against: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Results:
    """The outcomes of one variant of a study.

    Attributes:
        outcomes: one for each label, in no order that means anything.
        n_outdated: how many of them the plan, if there is one, would make otherwise today.
    """

    variant: Variant
    outcomes: tuple[Outcome, ...]
    n_outdated: int = 0
    _found: Mapping[tuple[str, str, str], Mapping[Place, BySeed]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        found = defaultdict[tuple[str, str, str], dict[Place, BySeed]](lambda: defaultdict(dict))
        for outcome in self.outcomes:
            found[outcome.network, outcome.data, outcome.stage][frozenset(outcome.at.items())][outcome.seed] = outcome
        object.__setattr__(self, "_found", found)
        _check_same_examples(self.outcomes)

    @classmethod
    def of(cls, entries: Sequence[Entry], variant: Variant, *, nodes: Sequence[Node] = ()) -> Results:
        """Return the outcomes of `variant` among `entries`; the newest of those with the same labels.

        Args:
            entries: of a ledger, of whatever kinds.
            variant: what else is in the ledger is left out.
            nodes: the plan; an outcome with the key of one of them counts, whatever variant it was made for.

        Raises:
            StudyError: an outcome that is none, or outcomes on one data set with different numbers of test examples.
        """
        every = _in_order(entries)
        by_key = {outcome.key: outcome for outcome in every}
        by_label = {o.label: o for o in every if Variant(o.preset, o.is_as_published) == variant}
        n_outdated = 0
        for node in nodes:
            label = _label_of(node)
            if node.key in by_key:
                by_label[label] = _relabelled(by_key[node.key], node)
            elif label in by_label:
                n_outdated += 1
        return cls(variant=variant, outcomes=tuple(by_label.values()), n_outdated=n_outdated)

    def figure(
        self,
        quantity: Quantity,
        *,
        stage: str,
        network: str,
        data: str,
        at: Mapping[str, str] | None = None,
        against: str | None = None,
    ) -> Finding | None:
        """Return a figure of one outcome, over its seeds; None where it, or what it is taken against, is missing.

        Raises:
            StudyError: a figure in the ledger is no number.
        """
        return self.mean(quantity, [Spot(stage=stage, network=network, data=data, at=at or {}, against=against)])

    def mean(self, quantity: Quantity, spots: Sequence[Spot]) -> Finding | None:
        """Return the mean of a figure over `spots`; None where one is missing or there is none.

        Raises:
            StudyError: a figure in the ledger is no number.
        """
        if quantity in _OF_ANSWERS:
            return self._sum(quantity, [(spot, 1.0 / len(spots)) for spot in spots], limits=_OF_ANSWERS[quantity])
        figures = [self._exact(quantity, spot) for spot in spots]
        if not figures or not all(figures):
            return None
        ends = [end for of_seeds in figures for figure in of_seeds for end in (figure.low, figure.high)]
        return Finding(
            value=fmean(fmean(figure.value for figure in of_seeds) for of_seeds in figures),
            low=min(ends),
            high=max(ends),
            n_seeds=min(map(len, figures)),
            is_exact=quantity not in TIMED,
        )

    def difference(self, quantity: Quantity, left: Sequence[Spot], right: Sequence[Spot]) -> Finding | None:
        """Return mean(left) - mean(right), paired by seed and example; None where a spot is missing.

        The range of exact figures is that of all differences between one on the left and one on the right.

        Raises:
            StudyError: a figure in the ledger is no number.
        """
        if quantity in _OF_ANSWERS:
            low, high = _OF_ANSWERS[quantity]
            weights = [(s, 1.0 / len(left)) for s in left] + [(s, -1.0 / len(right)) for s in right]
            return self._sum(quantity, weights if left and right else [], limits=(low - high, high - low))
        first, second = self.mean(quantity, left), self.mean(quantity, right)
        if first is None or second is None:
            return None
        return Finding(
            value=first.value - second.value,
            low=first.low - second.high,
            high=first.high - second.low,
            n_seeds=min(first.n_seeds, second.n_seeds),
            is_exact=first.is_exact,
        )

    def recipe(self, spot: Spot) -> list[Mapping[str, Any]] | None:
        """Return the steps of an outcome as the ledger holds them; None where it was not made, or they are none."""
        made = self._at(spot.stage, spot)
        steps = next(iter(made.values())).entry.get("recipe") if made else None
        return None if steps is None else [as_table(step) for step in items({"recipe": steps}, "recipe")]

    def n_missing(self, quantity: Quantity, spots: Iterable[Spot]) -> int:
        """Return how many of `spots` have no figure."""
        find = self._answers if quantity in _OF_ANSWERS else self._exact
        return sum(not find(quantity, spot) for spot in spots)

    def _sum(
        self, quantity: Quantity, weights: Sequence[tuple[Spot, float]], *, limits: tuple[float, float]
    ) -> Finding | None:
        answers = [self._answers(quantity, spot) for spot, _ in weights]
        if not answers or not all(answers):
            return None
        blocks = [
            Block(
                values=np.stack(list(rows.values())),
                seeds=tuple(rows),
                family=(spot.network, spot.data),
                examples=spot.data,
                weight=weight,
            )
            for rows, (spot, weight) in zip(answers, weights, strict=True)
        ]
        interval = mean_of_trainings(blocks, least_step=100.0, limits=limits)
        n_examples = {block.examples: block.values.shape[1] for block in blocks}
        return Finding(
            value=interval.value,
            low=interval.low,
            high=interval.high,
            n_seeds=interval.n,
            n_examples=sum(n_examples.values()),
        )

    def _answers(self, quantity: Quantity, spot: Spot) -> dict[int, npt.NDArray[np.float64]]:
        """Return by seed (n_examples,) figures in points."""
        ours = self._at(spot.stage, spot)
        if quantity == "accuracy":
            return {seed: ours[seed].right for seed in sorted(ours)}
        theirs = {} if spot.against is None else self._at(spot.against, spot)
        return {seed: theirs[seed].right - ours[seed].right for seed in sorted(ours.keys() & theirs.keys())}

    def _exact(self, quantity: Quantity, spot: Spot) -> list[_Figure]:
        ours = self._at(spot.stage, spot)
        return [
            _Figure(value, *(ours[seed].timed(quantity) or (value, value)))
            for seed in sorted(ours)
            if (value := ours[seed].exact(quantity, spot.at)) is not None
        ]

    def _at(self, stage: str, spot: Spot) -> BySeed:
        """Return the outcomes of `stage` at the axes that it has."""
        places = self._found.get((spot.network, spot.data, stage), {})
        fitting = [place for place in places if place <= spot.at.items()]
        return places[max(fitting, key=len)] if fitting else {}


def variants_of(entries: Sequence[Entry]) -> tuple[Variant, ...]:
    """Return the variants that the outcomes among `entries` were made for, in order.

    Raises:
        StudyError: an outcome that is none.
    """
    return tuple(sorted({Variant(o.preset, o.is_as_published) for o in _in_order(entries)}))


def plan_of(study: Study, variant: Variant, entries: Sequence[Entry]) -> tuple[Node, ...]:
    """Return what `variant` asks for, with the seeds that were run beyond those of its preset.

    Raises:
        StudyError: an outcome that is none.
        SettingError: the study lacks the preset of `variant`.
    """
    seeds = study.preset(variant.preset).seeds
    run = {outcome.seed for outcome in Results.of(entries, variant).outcomes}
    choice = Choice(
        preset=variant.preset, as_published=variant.is_as_published, seeds=(*seeds, *sorted(run - set(seeds)))
    )
    return unfold(study, choice)


def planned(results: Results, nodes: Iterable[Node]) -> list[Outcome]:
    """Return the outcomes among `results` that the plan `nodes` holds, made by today's settings or by others."""
    labels = {_label_of(node) for node in nodes}
    return [outcome for outcome in results.outcomes if outcome.label in labels]


def failures_of(entries: Sequence[Entry]) -> tuple[str, ...]:
    """Return in words what failed and was not made since, the oldest first.

    Raises:
        StudyError: an outcome that is none.
    """
    made = {outcome.key for outcome in _in_order(entries)}
    failed = sorted((read_time(e.time), _failure(e)) for e in entries if e.kind == FAILURE)
    return tuple({key: words for _, (key, words) in failed if key not in made}.values())


def _failure(entry: Entry) -> tuple[str, str]:
    label = {"network": "?", "data": "?", "seed": "?", "stage": "?", "error": "?", **as_table(entry.data)}
    places = "".join(f", {value}" for value in as_table(label.get("at")).values())
    words = "{network} on {data}, seed {seed}: {stage}".format_map(label)
    return str(label.get("key")), f"{words}{places}: {label['error']}"


def _in_order(entries: Sequence[Entry]) -> list[Outcome]:
    """Return the outcomes, the oldest first; equally old ones in an order that the ledger's does not decide."""
    outcomes = [read_outcome(entry) for entry in entries if entry.kind == OUTCOME]
    return sorted(outcomes, key=lambda outcome: (outcome.time, outcome.key, repr(outcome.entry)))


def _label_of(node: Node) -> Label:
    """Return the label that the outcome of `node` has."""
    return (node.case.network, node.case.data, node.seed, node.stage.name, frozenset(node.at.items()))


def _relabelled(outcome: Outcome, node: Node) -> Outcome:
    """Return `outcome` under the labels of `node`: what is made alike is the same, whatever it was called."""
    if outcome.label == _label_of(node):
        return outcome
    case = node.case
    return replace(
        outcome, network=case.network, data=case.data, seed=node.seed, stage=node.stage.name, at=dict(node.at)
    )


def _check_same_examples(outcomes: Iterable[Outcome]) -> None:
    first: dict[str, Outcome] = {}
    for outcome in outcomes:
        other = first.setdefault(outcome.data, outcome)
        if outcome.n != other.n:
            raise StudyError(
                f"{outcome.words} answered {outcome.n} test examples, {other.words} {other.n}; figures on "
                f"{outcome.data} need the same test split: keep one of them in a ledger of its own"
            )
