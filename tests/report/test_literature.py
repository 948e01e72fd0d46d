"""Intervals confirm, refute or leave open what the literature advises; what nothing bears on is passed over."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dwindle.core.statistics import Interval
from dwindle.report.literature import GUIDELINES, Verdict, judge_literature
from dwindle.report.methods import Methods, methods_of
from dwindle.report.weighed import Candidate, Question


def around(value: float, half: float = 0.1) -> Interval:
    return Interval(value, value - half, value + half, 3)


def exactly(value: float) -> Interval:
    return around(value, 0.0)


INT8 = Candidate(name="INT8", methods=methods_of([{"type": "QuantizeStatic"}]), sizes={".dwn": exactly(150)})
QAT = Candidate(name="QAT", methods=methods_of([{"type": "QuantizeAware"}]), sizes={".dwn": exactly(160)})
HALF = Candidate(name="FP16", methods=methods_of([{"type": "CastHalf"}]), sizes={".dwn": exactly(300)})
PRUNED = Candidate(
    name="pruned",
    methods=methods_of([{"type": "PruneWeights", "sparsity": 0.9}, {"type": "FineTune", "epochs": 1}]),
    sizes={".dwn": exactly(200)},
)
BOTH = Candidate(
    name="both",
    methods=methods_of([{"type": "PruneWeights", "sparsity": 0.5}, {"type": "QuantizeStatic"}]),
    sizes={".dwn": exactly(100)},
)
TAUGHT = Candidate(name="taught", methods=methods_of([{"type": "Distill", "student": "s"}]))
PLAIN = Candidate(
    name="plain", methods=methods_of([{"type": "Distill", "student": "s", "distillation": {"alpha": 1.0}}])
)
SHARED = Candidate(name="shared", methods=methods_of([{"type": "Cluster", "codebook_size": 16}]))


def asked(*candidates: Candidate, **more) -> Question:
    return Question(dense={".dwn": exactly(600)}, candidates=candidates, **more)


def verdict(text: str, question: Question) -> Verdict | None:
    (known,) = (guideline.text for guideline in GUIDELINES if text in guideline.text)
    return next((one.verdict for one in judge_literature(question) if one.text == known), None)


def test_nothing_bears_on_no_files():
    assert judge_literature(asked()) == ()
    assert judge_literature(asked(Candidate(name="x"))) == ()


@pytest.mark.parametrize(
    ("speed", "expected"),
    [(around(2.0), Verdict.CONFIRMED), (around(0.5), Verdict.REFUTED), (around(1.0), Verdict.UNDECIDED)],
)
@pytest.mark.parametrize(
    ("text", "candidate"),
    [("8-bit integers make", INT8), ("distilled student is faster", TAUGHT), ("Pruned weights make", PRUNED)],
)
def test_what_is_said_to_be_faster_is_judged_by_its_speed(text, candidate, speed, expected):
    assert verdict(text, asked(replace(candidate, speedup=speed))) is expected
    assert verdict(text, asked(candidate)) is None


def test_one_slow_file_refutes_what_all_are_said_to_be():
    fast, slow = replace(INT8, speedup=around(2.0)), replace(QAT, speedup=around(0.5))
    assert verdict("8-bit integers make", asked(fast, slow)) is Verdict.REFUTED
    assert verdict("Quantization makes inference slower", asked(slow)) is Verdict.CONFIRMED


@pytest.mark.parametrize(
    ("n_bytes", "expected"),
    [(exactly(300), Verdict.CONFIRMED), (exactly(400), Verdict.REFUTED), (around(300, 60), Verdict.UNDECIDED)],
)
def test_half_floats_halve(n_bytes, expected):
    assert verdict("halve the file", asked(replace(HALF, sizes={".dwn": n_bytes}))) is expected
    assert verdict("halve the file", asked(replace(HALF, sizes={".other": n_bytes}))) is None


@pytest.mark.parametrize(
    ("drop", "expected"),
    [(around(3.0), Verdict.CONFIRMED), (around(0.2), Verdict.REFUTED), (around(1.0), Verdict.UNDECIDED)],
)
def test_integers_call_for_training_where_they_lose_more_than_the_bound(drop, expected):
    assert verdict("call for training", asked(replace(INT8, drop=drop))) is expected
    assert verdict("call for training", asked(replace(QAT, drop=drop))) is None
    assert verdict("call for training", asked(replace(INT8, drop=drop), max_drop=None)) is None


def test_combinations_are_held_against_single_methods():
    assert verdict("several methods together", asked(INT8, BOTH)) is Verdict.CONFIRMED
    assert (
        verdict("several methods together", asked(replace(INT8, sizes={".dwn": exactly(50)}), BOTH)) is Verdict.REFUTED
    )
    assert (
        verdict("several methods together", asked(replace(INT8, sizes={".dwn": exactly(100)}), BOTH))
        is Verdict.UNDECIDED
    )
    assert verdict("several methods together", asked(BOTH)) is None


def test_the_largest_file_on_integers_is_held_against_the_smallest_pruned_one():
    assert verdict("smaller file than pruning", asked(INT8, QAT, PRUNED)) is Verdict.CONFIRMED
    least = replace(PRUNED, name="least", sizes={".dwn": exactly(155)})
    assert verdict("smaller file than pruning", asked(INT8, QAT, PRUNED, least)) is Verdict.REFUTED


@pytest.mark.parametrize(
    ("difference", "expected"),
    [(around(2.0), Verdict.CONFIRMED), (around(-2.0), Verdict.REFUTED), (around(0.0), Verdict.UNDECIDED)],
)
def test_students_and_widths_are_compared_in_pairs(difference, expected):
    question = asked(TAUGHT, PLAIN, INT8, HALF, drop_between=lambda first, second: difference)
    assert verdict("student that was taught", question) is expected
    assert verdict("16 bits keep more", question) is expected
    assert verdict("student that was taught", asked(TAUGHT, PLAIN)) is None


def test_what_few_values_and_few_weights_cost():
    assert verdict("Sixteen shared", asked(replace(SHARED, drop=around(0.3)))) is Verdict.CONFIRMED
    assert verdict("Sixteen shared", asked(replace(SHARED, drop=around(3.0)))) is Verdict.REFUTED
    assert verdict("Nine weights of ten", asked(replace(PRUNED, drop=around(0.3)))) is Verdict.CONFIRMED
    assert verdict("Nine weights of ten", asked(replace(PRUNED, drop=around(0.7)))) is Verdict.UNDECIDED
    assert verdict("Nine weights of ten", asked(replace(PRUNED, drop=around(0.3)), unit="")) is None


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([{"type": "QuantizeStatic", "activations": 16}], Methods(weight_bits=8, activation_bits=16)),
        ([{"type": "QuantizeDynamic"}], Methods(weight_bits=8, is_dynamic=True)),
        (
            [{"type": "QuantizeWeights", "n_bits": 4}, {"type": "QuantizeDynamic", "weights": "none"}],
            Methods(weight_bits=4, is_dynamic=True),
        ),
        (
            [{"type": "PruneWeights", "sparsity": 0.8, "epochs": 2}, {"type": "Distill", "student": "s"}],
            Methods(is_student=True, is_taught=True, trains=True),
        ),
        ([{"type": "Cluster"}, {"type": "Densify"}], Methods()),
        ([{"type": "Cluster", "codebook_size": 8, "epochs": None}], Methods(is_clustered=True, codebook_size=8)),
        ([{"type": 3}, {}, {"type": ["Cluster"]}, {"type": "FineTune"}], Methods(trains=True)),
        ([{"type": "PruneWeights", "sparsity": "much", "epochs": True}], Methods(is_pruned=True)),
        ([{"type": "FineTune", "epochs": 0}], Methods()),
        ([{"type": "Binarize"}], Methods(weight_bits=1, is_aware=True, trains=True)),
        (
            [{"type": "MixedPrecision", "bits": {"a.weight": 2, "b.weight": 3}}],
            Methods(weight_bits=2, is_aware=True, trains=True),
        ),
        (
            [{"type": "PruneWeights", "sparsity": None, "pattern": {"type": "NOfM", "n": 1, "m": 16}}],
            Methods(is_pruned=True, sparsity=0.9375),
        ),
        ([{"type": "PruneWeights", "pattern": {}}], Methods(is_pruned=True, sparsity=0.5)),
        ([{"type": "PruneWeights", "pattern": {"m": 0}}], Methods(is_pruned=True)),
        (
            [{"type": "Distill", "student": "s", "distillation": {"alpha": 1.0, "hints": [["a", "b"]]}}],
            Methods(is_student=True, is_taught=True, trains=True),
        ),
        (
            [
                {
                    "type": "Distill",
                    "student": "s",
                    "distillation": {"alpha": 1.0, "hints": [["a", "b"]], "hint_weight": 0.0},
                }
            ],
            Methods(is_student=True, trains=True),
        ),
    ],
)
def test_methods_are_read_from_steps(steps, expected):
    assert methods_of(steps) == expected


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_few_trainings_decide_nothing_but_bytes(n):
    slow = replace(INT8, sizes={".dwn": exactly(300)}, speedup=around(0.5))
    question = asked(slow, replace(PRUNED, sizes={".dwn": exactly(400)}), n_trainings=n)
    found = {tested.text: tested for tested in judge_literature(question)}
    faster = found["8-bit integers make a network faster."]
    assert faster.verdict is (Verdict.UNDECIDED if n in {1, 2} else Verdict.REFUTED)
    assert faster.figures.endswith(f"; n = {n}") is (n in {1, 2})
    assert found["Quantization makes a smaller file than pruning."].verdict is Verdict.CONFIRMED
