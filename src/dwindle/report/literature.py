"""This file holds guidelines of the literature as hypotheses: the figures of a user confirm, refute or leave them open.

Sources: Predic et al., Axioms 2022, section 4.5; Qin et al., "To Compress, or Not to Compress", 2018, section VI; Tian
et al., BROADNETS 2022, section 5. A guideline that nothing measured here bears on is passed over in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from dwindle.core.statistics import Interval
from dwindle.report.methods import Methods
from dwindle.report.weighed import N_TRAININGS_NEEDED, Candidate, Keeps, Question, is_below
from dwindle.report.words import bare_value, human_bytes, significant

PREDIC: Final = "Predić et al. 2022"
QIN: Final = "Qin et al. 2018"
TIAN: Final = "Tian et al. 2022"
LEAST_HALF, MOST_HALF = 1.8, 2.2
"""Times smaller that are read as half the size."""
_TENTH: Final = 0.9
_FLOATS: Final = frozenset({"clustering", "pruning"})


class Verdict(StrEnum):
    """What the figures say of a guideline."""

    CONFIRMED = "confirmed"
    REFUTED = "refuted"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """A guideline, and what the figures say of it.

    Attributes:
        figures: those that decide, in words.
    """

    source: str
    text: str
    verdict: Verdict
    figures: str


Judgement = tuple[Verdict, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Guideline:
    """A sentence of the literature; `judge` returns None where nothing was measured that bears on it.

    Attributes:
        is_of_sizes: whether bytes decide it; anything else is undecided where it is known to rest on fewer than three
            trainings.
    """

    source: str
    text: str
    judge: Callable[[Question], Judgement | None]
    is_of_sizes: bool = False

    def verdict_on(self, question: Question) -> Judgement | None:
        """Return what the figures of `question` say, and which these are."""
        judged = self.judge(question)
        if judged is None or self.is_of_sizes or not 0 < question.n_trainings < N_TRAININGS_NEEDED:
            return judged
        return Verdict.UNDECIDED, f"{judged[1]}; n = {question.n_trainings}"


def judge_literature(question: Question) -> tuple[Tested, ...]:
    """Return every guideline that the figures of `question` bear on."""
    found = ((guideline, guideline.verdict_on(question)) for guideline in GUIDELINES)
    return tuple(
        Tested(source=guideline.source, text=guideline.text, verdict=judged[0], figures=judged[1])
        for guideline, judged in found
        if judged is not None
    )


def _together(verdicts: Sequence[Verdict]) -> Verdict:
    """Return what several files say together: one that refutes is enough, confirming takes all."""
    if Verdict.REFUTED in verdicts:
        return Verdict.REFUTED
    return verdicts[0] if len(set(verdicts)) == 1 else Verdict.UNDECIDED


def _side(found: Interval, bound: float) -> int:
    """Return -1 where the whole interval is below the bound, +1 where it is above, else 0."""
    return -1 if found.high < bound else 1 if found.low > bound else 0


def _verdict(side: int, *, wanted: int) -> Verdict:
    return Verdict.UNDECIDED if side == 0 else Verdict.CONFIRMED if side == wanted else Verdict.REFUTED


def _chosen(question: Question, has: Callable[[Methods], bool]) -> list[Candidate]:
    return [candidate for candidate in question.candidates if has(candidate.methods)]


def _speed(has: Callable[[Methods], bool], *, wanted: int) -> Callable[[Question], Judgement | None]:
    """Return what judges whether all files of a kind are faster (+1) or slower (-1) than the dense one."""

    def judge(question: Question) -> Judgement | None:
        timed = [(c, c.speedup) for c in _chosen(question, has) if c.speedup is not None]
        if not timed:
            return None
        verdict = _together([_verdict(_side(speed, 1.0), wanted=wanted) for _, speed in timed])
        return verdict, _listed(f"{c.name} {_plain(speed)} times as fast" for c, speed in timed)

    return judge


def _halves(question: Question) -> Judgement | None:
    found = [
        (c, name, Interval(dense.value / size.value, dense.low / size.high, dense.high / size.low, size.n))
        for c in _chosen(question, lambda m: m.is_only("half floats") and not m.trains)
        for name, size in c.sizes.items()
        if (dense := question.dense.get(name)) is not None
    ]
    if not found:
        return None
    verdicts = [
        _together([_verdict(_side(r, LEAST_HALF), wanted=1), _verdict(_side(r, MOST_HALF), wanted=-1)])
        for _, _, r in found
    ]
    return _together(verdicts), _listed(
        f"{c.name}, {name}: {significant(r.value)} times smaller" for c, name, r in found
    )


def _needs_training(question: Question) -> Judgement | None:
    """Judge whether integers that were not trained with lose more than the bound."""
    found = [
        (c, c.drop)
        for c in _chosen(question, lambda m: m.is_only("integers") and m.is_int8 and not m.is_aware)
        if c.drop is not None
    ]
    if not found or question.max_drop is None:
        return None
    meant = {Keeps.BEYOND: Verdict.CONFIRMED, Keeps.WITHIN: Verdict.REFUTED}
    verdict = _together([meant.get(question.keeps(c), Verdict.UNDECIDED) for c, _ in found])
    return verdict, _listed(f"{c.name} loses {_drop(drop, question)}" for c, drop in found)


def _combination_is_smallest(question: Question) -> Judgement | None:
    sized = [(c, *c.smallest) for c in question.candidates if c.smallest is not None]
    several = [item for item in sized if len(item[0].methods.kinds) > 1]
    single = [item for item in sized if len(item[0].methods.kinds) == 1]
    if not several or not single:
        return None
    ours, theirs = (min(group, key=lambda item: item[2].value) for group in (several, single))
    side = 1 if is_below(ours[2], theirs[2]) else -1 if is_below(theirs[2], ours[2]) else 0
    return _verdict(side, wanted=1), _sizes(ours, theirs)


def _integers_smaller_than_pruning(question: Question) -> Judgement | None:
    """Judge for each kind of file whether the largest on integers is smaller than the smallest that is pruned."""
    integers = _chosen(question, lambda m: m.is_only("integers") and m.weight_bits == 8)
    pruned = _chosen(question, lambda m: m.is_only("pruning"))
    found: list[tuple[Verdict, str]] = []
    for name in dict.fromkeys(name for c in integers for name in c.sizes):
        ours = [(c, name, c.sizes[name]) for c in integers if name in c.sizes]
        theirs = [(c, name, c.sizes[name]) for c in pruned if name in c.sizes]
        if theirs:
            most, least = max(ours, key=lambda item: item[2].value), min(theirs, key=lambda item: item[2].value)
            side = 1 if is_below(most[2], least[2]) else -1 if is_below(least[2], most[2]) else 0
            found.append((_verdict(side, wanted=1), _sizes(most, least)))
    return _of_pairs(found)


def _sixteen_keeps_more(question: Question) -> Judgement | None:
    found: list[tuple[Verdict, str]] = []
    for eight in _chosen(question, lambda m: m.is_only("integers") and m.is_int8 and not m.is_aware):
        for sixteen in _chosen(question, lambda m: not m.trains and (m.activation_bits == 16 or m.is_half)):
            if len(sixteen.methods.kinds) == 1 and (between := question.drop_between(eight, sixteen)) is not None:
                figures = f"{eight.name} loses {_drop(between, question)} more than {sixteen.name}"
                found.append((_verdict(_side(between, 0.0), wanted=1), figures))
    return _of_pairs(found)


def _distilled_is_better(question: Question) -> Judgement | None:
    found: list[tuple[Verdict, str]] = []
    for taught in _chosen(question, lambda m: m.is_only("another network") and m.is_taught):
        for plain in _chosen(question, lambda m: m.is_only("another network") and not m.is_taught):
            if (between := question.drop_between(plain, taught)) is not None:
                figures = f"{plain.name} loses {_drop(between, question)} more than {taught.name}"
                found.append((_verdict(_side(between, 0.0), wanted=1), figures))
    return _of_pairs(found)


def _costs_less(has: Callable[[Methods], bool], bound: float) -> Callable[[Question], Judgement | None]:
    """Return what judges whether all files of a kind lose less than `bound` points."""

    def judge(question: Question) -> Judgement | None:
        found = [(c, c.drop) for c in _chosen(question, has) if c.drop is not None]
        if not found or question.unit != "points":
            return None
        verdict = _together([_verdict(_side(drop, bound), wanted=-1) for _, drop in found])
        return verdict, _listed(f"{c.name} loses {_drop(drop, question)}" for c, drop in found)

    return judge


def _of_pairs(found: Sequence[tuple[Verdict, str]]) -> Judgement | None:
    """Return what pairs say together; where they disagree, those that say what the whole says stand for it."""
    if not found:
        return None
    verdict = _together([one for one, _ in found])
    return verdict, _listed([words for one, words in found if one is verdict] or [words for _, words in found])


def _sizes(ours: tuple[Candidate, str, Interval], theirs: tuple[Candidate, str, Interval]) -> str:
    first, second = (f"{c.name} {human_bytes(size.value)} as {name}" for c, name, size in (ours, theirs))
    return f"{first} against {second}"


def _drop(found: Interval, question: Question) -> str:
    value, low, high = (bare_value(x, question.unit) for x in (found.value, found.low, found.high))
    return f"{value} [{low}, {high}] {question.unit}".rstrip()


def _plain(found: Interval) -> str:
    value, low, high = (significant(x) for x in (found.value, found.low, found.high))
    return f"{value} [{low}, {high}]"


_MOST_LISTED: Final = 3


def _listed(words: Iterable[str]) -> str:
    """Return the first few, and how many more there are."""
    every = [*words]
    more = [f"and {len(every) - _MOST_LISTED} more"] if len(every) > _MOST_LISTED else []
    return "; ".join([*every[:_MOST_LISTED], *more])


GUIDELINES: Final = (
    Guideline(
        source=PREDIC,
        text="16-bit floats need no training and halve the file.",
        judge=_halves,
        is_of_sizes=True,
    ),
    Guideline(
        source=PREDIC,
        text="8-bit integers make a network faster.",
        judge=_speed(lambda m: m.is_only("integers") and m.is_int8, wanted=1),
    ),
    Guideline(
        source=PREDIC,
        text="8-bit integers almost always call for training with them: without it, too much is lost.",
        judge=_needs_training,
    ),
    Guideline(
        source=PREDIC,
        text="The smallest file takes several methods together.",
        judge=_combination_is_smallest,
        is_of_sizes=True,
    ),
    Guideline(
        source=PREDIC,
        text="A distilled student is faster.",
        judge=_speed(lambda m: m.is_only("another network") and m.is_taught, wanted=1),
    ),
    Guideline(
        source=PREDIC,
        text="A student that was taught is better than one that was trained plainly.",
        judge=_distilled_is_better,
    ),
    Guideline(
        source=QIN,
        text="Quantization makes a smaller file than pruning.",
        judge=_integers_smaller_than_pruning,
        is_of_sizes=True,
    ),
    Guideline(
        source=QIN,
        text="Quantization makes inference slower, because weights are decoded again.",
        judge=_speed(lambda m: m.is_only("integers"), wanted=-1),
    ),
    Guideline(
        source=QIN,
        text="Pruned weights make inference faster.",
        judge=_speed(lambda m: m.is_only("pruning"), wanted=1),
    ),
    Guideline(
        source=QIN,
        text="16 bits keep more of what a network knows than 8.",
        judge=_sixteen_keeps_more,
    ),
    Guideline(
        source=TIAN,
        text="Nine weights of ten can go for less than 0.7 points, if the others train on.",
        judge=_costs_less(lambda m: m.is_only("pruning") and m.sparsity >= _TENTH and m.trains, 0.7),
    ),
    Guideline(
        source=TIAN,
        text="Sixteen shared values a layer cost less than 1 point.",
        judge=_costs_less(lambda m: m.kinds <= _FLOATS and m.codebook_size == 16, 1.0),
    ),
)
