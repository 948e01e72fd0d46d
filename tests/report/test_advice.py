"""Advice never says more than the intervals do, and never recommends what is not shown to keep within the bound."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwindle.core.statistics import Interval
from dwindle.report.advice import advise
from dwindle.report.methods import Methods
from dwindle.report.weighed import Candidate, Keeps, Question, is_below

METHODS = [
    Methods(is_pruned=True, trains=True),
    Methods(is_clustered=True),
    Methods(is_half=True),
    Methods(weight_bits=8, activation_bits=8),
    Methods(weight_bits=8, activation_bits=8, is_pruned=True, trains=True),
    Methods(is_student=True, is_taught=True, trains=True),
    Methods(is_thinned=True, trains=True),
]


def exactly(value: float) -> Interval:
    return Interval(value, value, value, 1)


def value_of(interval: Interval) -> float:
    return interval.value


def intervals(low: float, high: float) -> st.SearchStrategy[Interval]:
    """Return intervals on a coarse grid, so that ends meet often."""
    steps = st.integers(0, 20)
    scaled = st.tuples(steps, steps, steps).map(lambda ends: [low + (high - low) * end / 20 for end in sorted(ends)])
    return scaled.map(lambda ends: Interval(ends[1], ends[0], ends[2], 3))


SIZES = st.dictionaries(st.sampled_from([".dwn", ".onnx"]), intervals(1e3, 1e6), max_size=2)


@st.composite
def questions(draw: st.DrawFn) -> Question:
    names = [f"file-{letter}" for letter in "abcd"[: draw(st.integers(0, 4))]]
    drops = {name: draw(st.none() | intervals(-2.0, 4.0)) for name in names}
    candidates = tuple(
        Candidate(
            name=name,
            methods=draw(st.sampled_from(METHODS)),
            sizes=draw(SIZES),
            drop=drops[name],
            speedup=draw(st.none() | intervals(0.2, 4.0)),
        )
        for name in names
    )

    def between(first: Candidate, second: Candidate) -> Interval | None:
        ours, theirs = drops[first.name], drops[second.name]
        if ours is None or theirs is None:
            return None
        return Interval(ours.value - theirs.value, ours.low - theirs.high, ours.high - theirs.low, 3)

    return Question(
        dense=draw(SIZES), candidates=candidates, max_drop=draw(st.floats(0.0, 3.0)), drop_between=between,
        n_trainings=draw(st.integers(0, 4)),
    )  # fmt: skip


@given(questions())
def test_what_is_recommended_keeps_within_the_bound(question):
    known = {c.name: c for c in question.candidates}
    for statement in advise(question).statements:
        if statement.kind in {"smallest", "fastest", "untrained", "dominated"}:
            assert statement.subjects
            assert all(question.keeps(known[name]) is Keeps.WITHIN for name in statement.subjects)


@given(questions())
def test_files_beyond_the_bound_are_named_only_as_what_not_to_take(question):
    beyond = [c.name for c in question.candidates if question.keeps(c) is Keeps.BEYOND]
    for statement in advise(question).statements:
        words = statement.words
        if statement.kind == "dominated":
            words = words.split(" than ")[0]
        if statement.kind != "warning":
            assert not any(name.lower() in words.lower() for name in beyond)


@given(questions())
def test_smaller_is_said_where_sizes_are_apart(question):
    known = {c.name: c for c in question.candidates}
    for statement in advise(question).statements:
        if statement.kind == "smallest":
            (name,) = statement.subjects
            file, size = known[name].smallest
            dense = question.dense.get(file) or min(question.dense.values(), key=value_of, default=None)
            assert dense is None or is_below(size, dense)
            others = [c for c in question.within() if c.name != name and c.smallest]
            if "is the smallest" in statement.words:
                assert all(is_below(size, other.smallest[1]) for other in others)
            elif "among" in statement.words:
                assert not all(is_below(size, other.smallest[1]) for other in others)
        elif statement.kind == "nothing" and "smaller" in statement.words:
            for candidate in (c for c in question.within() if c.smallest):
                file, size = candidate.smallest
                assert not is_below(size, question.dense.get(file) or min(question.dense.values(), key=value_of))
        elif statement.kind == "undecided" and "smaller" in statement.words:
            least = min((c.smallest[1] for c in question.within() if c.smallest), key=lambda s: s.value)
            assert all(is_below(known[name].smallest[1], least) for name in statement.subjects)


@given(questions())
def test_faster_is_said_where_speeds_are_apart(question):
    known = {c.name: c for c in question.candidates}
    for statement in advise(question).statements:
        if statement.kind == "fastest":
            best = known[statement.subjects[0]].speedup
            assert best.low > 1.0
            others = [c.speedup for c in question.within() if c.speedup and c.name != statement.subjects[0]]
            if "is the fastest" in statement.words:
                assert all(is_below(other, best) for other in others)
        elif statement.kind == "nothing" and "faster" in statement.words:
            assert all(c.speedup.low <= 1.0 for c in question.within() if c.speedup)
        elif statement.kind == "warning":
            speeds = [known[name].speedup for name in statement.subjects]
            assert all(speed.high < 1.0 if "run slower" in statement.words else speed.low <= 1.0 for speed in speeds)


@given(questions())
def test_what_to_take_instead_is_smaller_and_faster_and_not_shown_to_lose_more(question):
    known = {c.name: c for c in question.candidates}
    for statement in advise(question).statements:
        if statement.kind != "dominated":
            continue
        better = known[statement.subjects[0]]
        worse = next(c for c in question.candidates if f" than {c.name}," in statement.words)
        between = question.drop_between(better, worse)
        assert is_below(better.smallest[1], worse.smallest[1])
        assert is_below(worse.speedup, better.speedup)
        assert between.low <= 0.0
        assert ("loses less" in statement.words) == (between.high < 0.0)


@given(questions())
def test_nothing_is_said_of_what_was_not_measured(question):
    silent = replace(question, candidates=tuple(replace(c, speedup=None) for c in question.candidates))
    assert "fast" not in advise(silent).paragraph
    blind = replace(question, candidates=tuple(replace(c, drop=None) for c in question.candidates))
    assert {one.kind for one in advise(blind).statements} <= {"warning", "about"}
    nothing = replace(question, candidates=tuple(Candidate(name=c.name) for c in question.candidates))
    assert not advise(nothing).statements


SMALL = Candidate(
    name="PCQAT", methods=METHODS[4], sizes={".dwn": exactly(50e3)}, drop=Interval(0.3, 0.1, 0.5, 3),
    speedup=Interval(0.7, 0.6, 0.8, 3),
)  # fmt: skip
FAST = Candidate(
    name="student", methods=METHODS[5], sizes={".dwn": exactly(300e3)}, drop=Interval(0.8, 0.6, 0.9, 3),
    speedup=Interval(2.1, 2.0, 2.2, 3),
)  # fmt: skip
DENSE = {".dwn": exactly(600e3)}


def test_the_paragraph_names_a_file_for_each_purpose():
    said = advise(Question(dense=DENSE, candidates=(SMALL, FAST), n_trainings=3))
    assert said.paragraph == (
        "If accuracy may get worse by at most 1 point, PCQAT is the smallest (50.0 KB as .dwn, 12.0 times smaller than "
        "the dense .dwn; drop 0.30 [0.10, 0.50] points). Student is the fastest (2.10 [2.00, 2.20] times as fast as "
        "the dense one; drop 0.80 [0.60, 0.90] points). In this engine these run slower than the dense one: 8-bit "
        "weights and activations (PCQAT: 0.700 [0.600, 0.800] times as fast)."
    )


def test_a_tighter_bound_changes_the_advice():
    question = Question(dense=DENSE, candidates=(SMALL, FAST), max_drop=0.05)
    assert "No file is shown to get worse in accuracy by at most 0.05 points" in advise(question).paragraph
    question = Question(dense=DENSE, candidates=(SMALL, FAST), max_drop=0.4)
    assert "PCQAT (50.0 KB; drop 0.30 [0.10, 0.50] points) is undecided" in advise(question).paragraph


def test_one_file_alone_is_no_superlative():
    words = advise(Question(dense=DENSE, candidates=(FAST,))).paragraph
    assert "student will do (300 KB as .dwn, 2.00 times smaller" in words
    assert "It is faster, too" in words
    assert "fastest" not in words


def test_few_trainings_are_said():
    assert "rests on one training" in advise(Question(dense=DENSE, candidates=(SMALL,), n_trainings=1)).paragraph
    assert "rests on" not in advise(Question(dense=DENSE, candidates=(SMALL,), n_trainings=3)).paragraph


@pytest.mark.parametrize("max_drop", [None, 1.0])
def test_a_file_that_is_larger_than_the_dense_one_is_not_called_smaller(max_drop):
    question = Question(dense={".dwn": exactly(10e3)}, candidates=(SMALL,), max_drop=max_drop)
    assert all(one.kind != "smallest" for one in advise(question).statements)
