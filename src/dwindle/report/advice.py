"""This file advises: which file for which purpose, in one paragraph, from what was measured and from nothing else.

Nothing is said of what was not measured. "Smaller" and "faster" are said where intervals are apart, "within" a bound
where the whole interval of the drop is; a file that is not shown to keep within the bound is never recommended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from dwindle.core.statistics import Interval
from dwindle.report.literature import Tested, judge_literature
from dwindle.report.methods import Methods
from dwindle.report.weighed import N_TRAININGS_NEEDED, Candidate, Keeps, Learned, Question, is_below
from dwindle.report.words import bare_value, human_bytes, plain_number, significant

Kind = Literal["smallest", "fastest", "untrained", "nothing", "dominated", "undecided", "warning", "about"]
_NONE_FASTER: Final = "No file within that bound is shown to run faster than the dense one in this engine."
MOST_NAMED: Final = 3
"""Files in one sentence; a paragraph is no table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One sentence.

    Attributes:
        subjects: the files that it says something good of (of a warning: something bad), by name.
    """

    kind: Kind
    words: str
    subjects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What to use when.

    Attributes:
        about: whose files they are; empty where there is only one network.
        tested: what the literature advises, held against the same figures.
    """

    statements: tuple[Statement, ...]
    tested: tuple[Tested, ...] = ()
    about: str = ""

    @property
    def paragraph(self) -> str:
        """All sentences."""
        return " ".join(statement.words for statement in self.statements)


def advise(question: Question, *, about: str = "") -> Advice:
    """Return what the figures of `question` say; without statements where nothing was measured that could decide."""
    if question.candidates and question.learned is not None and not question.learned.is_shown:
        return Advice(statements=(_guesses(question.learned),), about=about)
    statements = [*_purposes(question), *_undecided(question), *_dominated(question), *_warnings(question)]
    if statements:
        statements += _caution(question)
    statements = [replace(one, words=one.words[:1].upper() + one.words[1:]) for one in statements]
    return Advice(statements=tuple(statements), tested=judge_literature(question), about=about)


def _guesses(dense: Learned) -> Statement:
    """Return why no advice is given: a network that has learned nothing has nothing to lose."""
    recall = dense.recall
    shares = (recall.value, recall.low, recall.high, dense.guessing)
    value, low, high, guessing = (bare_value(share, "fraction") for share in shares)
    words = (
        f"The dense network is not shown to tell its classes apart: of the examples of a class it recognizes {value} "
        f"[{low}, {high}] % on average, and guessing {guessing} %. So a drop against it says nothing: look at the data "
        "and how they are normalized, or train it longer."
    )
    return Statement(kind="warning", words=words)


def _purposes(question: Question) -> Iterator[Statement]:
    """Yield what is smallest, what is fastest, and what needs no training, of the files within the bound."""
    if not any(candidate.drop for candidate in question.candidates) or question.max_drop is None:
        return
    within = question.within()
    if not within:
        yield Statement(
            kind="nothing", words=f"No file is shown to get worse in {question.metric} by at most {_bound(question)}."
        )
        return
    smallest = _smallest(question, within)
    yield from smallest
    yield from _fastest(question, within)
    yield from _untrained(question, within, said={name for one in smallest for name in one.subjects})


def _smallest(question: Question, within: Sequence[Candidate]) -> list[Statement]:
    if not any(c.smallest for c in within):
        return []
    lead = f"If {question.metric} may get worse by at most {_bound(question)}, "
    best = _least(c for c in within if _is_smaller(c, question))
    if best is None:
        return [Statement(kind="nothing", words=f"{lead}no file is shown to be smaller than the dense one.")]
    winner, name, size = best
    dense_name, dense = _dense_beside(question, name)
    rivals = _no_larger(winner, within)
    ratio = f", {significant(dense.value / size.value)} times smaller than the dense {dense_name}" if dense else ""
    figures = f"{human_bytes(size.value)} as {name}{ratio}; {_drop_words(winner, question)}"
    if len(question.candidates) == 1:
        words = f"{lead}{winner.name} will do ({figures})."
    elif rivals:
        others = _listed(c.name for c in rivals)
        words = (
            f"{lead}{winner.name} is among the smallest ({figures}), and cannot be told apart in size from {others}."
        )
    else:
        words = f"{lead}{winner.name} is the smallest ({figures})."
    return [Statement(kind="smallest", words=words, subjects=(winner.name,))]


def _fastest(question: Question, within: Sequence[Candidate]) -> Iterator[Statement]:
    timed = [c for c in within if c.speedup is not None]
    if not timed:
        return
    faster = sorted((c for c in timed if _speed(c).low > 1.0), key=lambda c: -_speed(c).value)
    if not faster:
        yield Statement(kind="nothing", words=_NONE_FASTER)
        return
    best = faster[0]
    rivals = [c for c in timed if c is not best and not is_below(_speed(c), _speed(best))]
    figures = f"({_speed_words(best)} as the dense one; {_drop_words(best, question)})"
    if len(question.candidates) == 1:
        words = f"It is faster, too ({_speed_words(best)} as the dense one)."
    elif rivals:
        words = f"{best.name} is among the fastest {figures}, and cannot be told apart in speed from "
        words += f"{_listed(c.name for c in rivals)}."
    else:
        words = f"{best.name} is the fastest {figures}."
    yield Statement(kind="fastest", words=words, subjects=(best.name,))


def _untrained(question: Question, within: Sequence[Candidate], *, said: set[str]) -> Iterator[Statement]:
    untrained = [c for c in within if not c.methods.trains]
    best = _least(c for c in untrained if _is_smaller(c, question))
    if best is None:
        return
    winner, name, size = best
    if winner.name in said:
        yield Statement(kind="untrained", words=f"{winner.name} needs no training.", subjects=(winner.name,))
        return
    rivals = _no_larger(winner, untrained)
    words = f"Without any training, {winner.name} is {'among the smallest' if rivals else 'the smallest'} "
    words += f"({human_bytes(size.value)} as {name}; {_drop_words(winner, question)})."
    yield Statement(kind="untrained", words=words, subjects=(winner.name,))


def _undecided(question: Question) -> Iterator[Statement]:
    """Yield what would be smaller than the smallest file within the bound, if its drop were known better."""
    best = _least(question.within())
    open_ones = [c for c in question.candidates if question.keeps(c) is Keeps.UNDECIDED and c.smallest is not None]
    smaller = [c for c in open_ones if best is None or is_below(_size(c), best[2])]
    smaller.sort(key=lambda c: _size(c).value)
    if not smaller:
        return
    named = [f"{c.name} ({human_bytes(_size(c).value)}; {_drop_words(c, question)})" for c in smaller[:MOST_NAMED]]
    verb = "is" if len(named) == 1 else "are"
    still = "" if best is None else f" {verb} smaller, but"
    many = "its interval holds" if len(named) == 1 else "their intervals hold"
    words = f"{_listed(named)}{still} {verb} undecided: {many} drops on both sides of the bound, "
    words += "and more test examples or trainings would tell."
    yield Statement(kind="undecided", words=words, subjects=tuple(c.name for c in smaller[:MOST_NAMED]))


def _dominated(question: Question) -> list[Statement]:
    """Return what is larger and slower than another file that is not shown to lose more."""
    found: list[Statement] = []
    for worse in question.candidates:
        ahead = (better for better in question.within() if _is_ahead(better, worse))
        said = (one for better in ahead if (one := _instead(better, worse, question)) is not None)
        found += [first] if (first := next(said, None)) is not None else []
    return found[:MOST_NAMED]


def _instead(better: Candidate, worse: Candidate, question: Question) -> Statement | None:
    """Return what to take instead of a file; None where the one that is ahead may lose more."""
    between = question.drop_between(better, worse)
    if between is None or between.low > 0.0:
        return None
    quality = "and loses less" if between.high < 0.0 else "and the two cannot be told apart in what they lose"
    figures = f"(difference {_interval(between, question)} {question.unit})"
    words = f"{better.name} is smaller and faster than {worse.name}, {quality} {figures}."
    return Statement(kind="dominated", words=words, subjects=(better.name,))


def _is_ahead(better: Candidate, worse: Candidate) -> bool:
    """Return whether one is shown to be both smaller and faster."""
    if better.smallest is None or worse.smallest is None or better.speedup is None or worse.speedup is None:
        return False
    return is_below(better.smallest[1], worse.smallest[1]) and is_below(worse.speedup, better.speedup)


@dataclass(frozen=True, slots=True)
class _Hope:
    """A kind of compression that people expect to run faster, in words, and which files are of it."""

    words: str
    has: Callable[[Methods], bool]


_HOPES: Final = (
    _Hope("single weights pruned", lambda m: m.is_only("pruning")),
    _Hope("shared weights", lambda m: m.is_only("clustering")),
    _Hope("weights as 16-bit floats", lambda m: m.is_only("half floats")),
    _Hope("8-bit weights and activations", lambda m: m.is_int8 and not m.is_student and not m.is_thinned),
    _Hope("16-bit activations", lambda m: m.activation_bits > 8 and not m.is_student and not m.is_thinned),
    _Hope("a smaller network in its place", lambda m: m.is_student),
    _Hope("channels removed", lambda m: m.is_thinned),
)


def _warnings(question: Question) -> Iterator[Statement]:
    """Yield which kinds of compression make nothing faster here; each by the fastest of its files."""
    slower: list[tuple[str, Candidate]] = []
    no_faster: list[tuple[str, Candidate]] = []
    for hope in _HOPES:
        timed = [c for c in question.candidates if c.speedup is not None and hope.has(c.methods)]
        if not timed:
            continue
        if all(_speed(c).high < 1.0 for c in timed):
            slower.append((hope.words, max(timed, key=lambda c: _speed(c).high)))
        elif all(_speed(c).low <= 1.0 for c in timed):
            no_faster.append((hope.words, max(timed, key=lambda c: _speed(c).high)))
    for verb, found in (("run slower than the dense one", slower), ("are not shown to run faster", no_faster)):
        if found:
            listed = _listed(f"{words} ({c.name}: {_speed_words(c)})" for words, c in found)
            subjects = tuple(c.name for _, c in found)
            yield Statement(kind="warning", words=f"In this engine these {verb}: {listed}.", subjects=subjects)


def _caution(question: Question) -> Iterator[Statement]:
    n = question.n_trainings
    if 0 < n < N_TRAININGS_NEEDED:
        count = "one training" if n == 1 else f"{n} trainings"
        yield Statement(kind="about", words=f"Some of this rests on {count}: another seed may move it.")


def _least(candidates: Iterable[Candidate]) -> tuple[Candidate, str, Interval] | None:
    """Return the candidate with the smallest file, what that is called, and its bytes."""
    found = [(c, *c.smallest) for c in candidates if c.smallest is not None]
    return min(found, key=lambda item: item[2].value, default=None)


def _is_smaller(candidate: Candidate, question: Question) -> bool:
    """Return whether its smallest file is shown to be smaller than the dense one, where there is one."""
    if candidate.smallest is None:
        return False
    name, size = candidate.smallest
    _, dense = _dense_beside(question, name)
    return dense is None or is_below(size, dense)


def _no_larger(winner: Candidate, others: Iterable[Candidate]) -> list[Candidate]:
    """Return which of the others are not shown to be larger."""
    size = _size(winner)
    return [c for c in others if c is not winner and c.smallest is not None and not is_below(size, c.smallest[1])]


def _dense_beside(question: Question, name: str) -> tuple[str, Interval | None]:
    """Return the dense file of the same kind, else the smallest one there is."""
    if name in question.dense:
        return name, question.dense[name]
    return min(question.dense.items(), key=lambda item: item[1].value, default=("", None))


def _size(candidate: Candidate) -> Interval:
    return _known(None if candidate.smallest is None else candidate.smallest[1])


def _speed(candidate: Candidate) -> Interval:
    return _known(candidate.speedup)


def _known(found: Interval | None) -> Interval:
    """Return what a caller has made sure is there."""
    if found is None:
        raise LookupError("a figure was asked for that was not measured")
    return found


def _bound(question: Question) -> str:
    """Return the bound as people say it.

    >>> _bound(Question(dense={}, candidates=(), max_drop=1.0)), _bound(Question(dense={}, candidates=(), max_drop=0.5))
    ('1 point', '0.5 points')
    """
    bound = 0.0 if question.max_drop is None else question.max_drop
    return f"{plain_number(bound)} {question.unit.removesuffix('s') if bound == 1.0 else question.unit}".rstrip()


def _drop_words(candidate: Candidate, question: Question) -> str:
    drop = candidate.drop
    if drop is None:
        return f"its {question.change} was not measured"
    return f"{question.change} {_interval(drop, question)} {question.unit}".rstrip()


def _interval(found: Interval, question: Question) -> str:
    value, low, high = (bare_value(x, question.unit) for x in (found.value, found.low, found.high))
    return f"{value} [{low}, {high}]"


def _speed_words(candidate: Candidate) -> str:
    found = _speed(candidate)
    value, low, high = (significant(x) for x in (found.value, found.low, found.high))
    return f"{value} [{low}, {high}] times as fast"


def _listed(names: Iterable[str]) -> str:
    """Return names as people list them.

    >>> _listed(["a", "b", "c"])
    'a, b and c'
    """
    *first, last = [*names]
    return f"{', '.join(first)} and {last}" if first else last
