"""This file tests the metrics of answers: their values against scikit-learn, their intervals by simulation."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from dwindle.artifact import Artifact
from dwindle.bench.batches import Batch, batches
from dwindle.bench.budget import Budget
from dwindle.bench.measurement import Measurement, Metric, Subject
from dwindle.bench.plan import Plan
from dwindle.bench.probes.accuracy import answer, measure_accuracy, measure_drop
from dwindle.bench.probes.resample import confusion_drop, confusion_interval, means_interval
from dwindle.bench.probes.scores import SCORES, AnyScore, MeansScore, Score, SetScore, drop_of, scores_named
from dwindle.core.statistics import paired_drop_interval
from dwindle.errors import DataError, MeasurementError, SettingError
from dwindle.runtimes.fake import FakeRuntime
from dwindle.runtimes.protocol import Array

SUBJECT = Subject(artifact="f" * 64, runtime="fake", machine="m")
SETS = [name for name, score in SCORES.items() if isinstance(score, SetScore)]
PEERS = {"precision": metrics.precision_score, "recall": metrics.recall_score, "f1": metrics.f1_score}
LABELS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)


def of_sets(name: str) -> SetScore:
    score = SCORES[name]
    assert isinstance(score, SetScore)
    return score


def measured(outputs: Array, targets: Array, names: tuple[str, ...]) -> dict[str, Measurement]:
    return {m.metric.name: m for m in measure_accuracy(SUBJECT, answers_of(outputs, targets, scores_named(names)))}


def answers_of(outputs: Array, targets: Array, scores: tuple[AnyScore, ...]):  # type: ignore[no-untyped-def]
    with FakeRuntime().load(Artifact(path=None, format="dwn", sha256="f", size_bytes=1)) as session:  # type: ignore[arg-type]
        return answer([("m", session)], [Batch(inputs=(outputs,), targets=targets)], scores=scores)[0]


def one_hot(classes: Array, n_classes: int = 5) -> Array:
    return np.eye(n_classes, dtype=np.float32)[classes]


@pytest.mark.parametrize("name", SETS)
@given(pairs=LABELS)
def test_the_values_are_those_of_scikit_learn(name: str, pairs: list[tuple[int, int]]) -> None:
    truth, answers = np.array(pairs).T
    kind, _, average = name.partition("_")
    expected = PEERS[kind](truth, answers, average=average, zero_division=0)
    found = confusion_interval(of_sets(name), truth, answers, n_classes=5)
    assert found.value == pytest.approx(expected)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.n == len(pairs)


@pytest.mark.parametrize("name", SETS)
@given(pairs=LABELS)
def test_the_drop_is_the_difference_of_both_values(name: str, pairs: list[tuple[int, int]]) -> None:
    truth, before = np.array(pairs).T
    after = np.roll(before, 1)
    score = of_sets(name)
    drop = confusion_drop(score, truth, (before, after), n_classes=5)
    values = [confusion_interval(score, truth, side, n_classes=5).value for side in (before, after)]
    assert drop.value == pytest.approx(values[0] - values[1], abs=1e-12)
    assert drop.low <= drop.value <= drop.high


def confused(prior: list[float], right: float) -> Array:
    """Return the probability of each (truth, answer) where each class is answered rightly with `right`."""
    n = len(prior)
    chances = np.full((n, n), (1 - right) / (n - 1))
    np.fill_diagonal(chances, right)
    return chances * np.array(prior)[:, None]


WORLDS = [
    ([0.5, 0.5], 0.9, 50), ([0.9, 0.1], 0.9, 100), ([1 / 3] * 3, 0.98, 100), ([0.4, 0.3, 0.15, 0.1, 0.05], 0.8, 200),
]  # fmt: skip


def share_held(name: str, prior: list[float], right: float, n: int) -> float:
    """Return how often the interval holds the truth, of 120 sets of `n` examples."""
    chances, score = confused(prior, right), of_sets(name)
    truth = float(score.of_counts(1e9 * chances[None])[0])
    generator = np.random.default_rng(3)
    n_trials, n_held = 120, 0
    for _ in range(n_trials):
        cells = generator.choice(chances.size, size=n, p=chances.ravel() / chances.sum())
        rows, columns = np.unravel_index(cells, chances.shape)
        found = confusion_interval(score, rows, columns, n_classes=len(prior))
        n_held += found.low <= truth <= found.high
    return n_held / n_trials


@pytest.mark.parametrize("name", ["f1_macro", "recall_macro", "precision_weighted"])
def test_the_interval_holds_the_truth_as_often_as_it_says(name: str) -> None:
    held = [share_held(name, *world) for world in WORLDS]
    assert np.mean(held) >= 0.93
    assert min(held) >= 0.9  # three standard deviations of 120 sets below 0.96


def test_the_interval_of_a_drop_holds_the_truth_and_is_paired() -> None:
    generator, score = np.random.default_rng(4), of_sets("f1_macro")
    n_trials, n, widths = 150, 300, list[tuple[float, float]]()
    n_held = 0
    for _ in range(n_trials):
        truth = generator.integers(4, size=n)
        before = np.where(generator.random(n) < 0.1, (truth + 1) % 4, truth)
        after = np.where(generator.random(n) < 0.04, (before + 1) % 4, before)
        drop = confusion_drop(score, truth, (before, after), n_classes=4)
        # Of the 90 % right ones 4 % become wrong; of the 10 % wrong ones none becomes right.
        n_held += drop.low <= 0.9 - 0.9 * 0.96 <= drop.high
        alone = confusion_interval(score, truth, before, n_classes=4)
        widths.append((drop.half_width, alone.half_width))
    assert n_held / n_trials >= 0.93
    drop_width, width = np.mean(widths, axis=0)
    assert drop_width < 0.8 * width


def test_no_mistake_and_no_difference_are_not_certainty() -> None:
    truth = np.arange(60) % 3
    perfect = confusion_interval(of_sets("f1_macro"), truth, truth, n_classes=3)
    assert perfect.value == perfect.high == 1
    assert 0.9 < perfect.low < 0.99
    same = confusion_drop(of_sets("f1_macro"), truth, (truth, truth), n_classes=3)
    assert same.value == 0
    assert -0.1 < same.low < 0 < same.high < 0.1


def test_one_class_and_classes_that_never_come_are_no_trouble() -> None:
    truth = np.zeros(10, dtype=np.int64)
    assert confusion_interval(of_sets("f1_macro"), truth, truth, n_classes=1).value == 1
    assert confusion_interval(of_sets("f1_macro"), truth, truth, n_classes=300).value == 1
    never_true = confusion_interval(of_sets("recall_macro"), truth, np.arange(10) % 2, n_classes=3)
    assert never_true.value == pytest.approx(0.25)  # a class that is only answered has recall 0 and counts


def test_the_weighted_recall_is_the_accuracy_and_so_is_its_drop() -> None:
    generator = np.random.default_rng(5)
    truth = generator.integers(3, size=400)
    before, after = (np.where(generator.random(400) < p, (truth + 1) % 3, truth) for p in (0.1, 0.15))
    drop = confusion_drop(of_sets("recall_weighted"), truth, (before, after), n_classes=3)
    newcombe = paired_drop_interval(before == truth, after == truth)
    assert 100 * drop.value == pytest.approx(newcombe.value)
    assert 100 * drop.half_width == pytest.approx(newcombe.half_width, rel=0.15)


def test_the_same_answers_have_the_same_interval() -> None:
    truth, answers = np.arange(30) % 3, np.arange(30) % 4 % 3
    first, second = (confusion_interval(of_sets("f1_macro"), truth, answers, n_classes=3) for _ in range(2))
    assert first == second


# Regression


def test_regression_metrics_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(6)
    truth = generator.normal(5, 2, size=200)
    outputs = truth + generator.normal(0, 0.5, size=200)
    names = ("mean_absolute_error", "mean_squared_error", "root_mean_squared_error", "r2")
    found = measured(outputs[:, None], truth, names)  # (n, 1) against (n,)
    peers = (metrics.mean_absolute_error, metrics.mean_squared_error, metrics.root_mean_squared_error, metrics.r2_score)
    for name, peer in zip(names, peers, strict=True):
        assert found[name].value == pytest.approx(peer(truth, outputs))
        assert found[name].low < found[name].value < found[name].high
    assert found["root_mean_squared_error"].low < 0.5 < found["root_mean_squared_error"].high
    assert found["r2"].protocol == "bootstrap"


def test_r2_of_several_outputs_weights_them_by_their_variance() -> None:
    generator = np.random.default_rng(7)
    truth = generator.normal(size=(100, 3)) * np.array([1.0, 2.0, 3.0])
    outputs = truth + generator.normal(size=(100, 3))
    expected = metrics.r2_score(truth, outputs, multioutput="variance_weighted")
    assert measured(outputs, truth, ("r2",))["r2"].value == pytest.approx(expected)


def test_the_interval_of_r2_holds_the_truth() -> None:
    generator, score = np.random.default_rng(8), SCORES["r2"]
    assert isinstance(score, MeansScore)
    n_trials, n_held = 200, 0
    for _ in range(n_trials):
        truth = generator.normal(size=100)
        outputs = truth + generator.normal(0, 0.5, size=100)
        found = means_interval(score, score.per_example(outputs, truth))
        n_held += found.low <= 0.75 <= found.high
    assert n_held / n_trials >= 0.91  # R2 of few examples is skewed


@pytest.mark.parametrize(
    ("outputs", "targets", "names", "message"),
    [
        (np.zeros((3, 2)), np.zeros(3), ("mean_absolute_error",), r"targets of the shape of the outputs, got \(3,\)"),
        (np.zeros((3, 1)), np.array([1, np.nan, 2]), ("r2",), "targets hold NaN"),
        (np.zeros((3, 1)), np.ones(3), ("r2",), "these targets are all equal"),
        (np.zeros((1, 1)), np.ones(1), ("root_mean_squared_error",), "1 example says nothing about the spread"),
        (np.zeros((3, 4)), np.ones(3), ("f1_macro",), "a class number, 0 to 3, for each example"),
        (np.zeros((3, 4)), np.array([0, 4, 1]), ("f1_macro",), "the label 4 is out of range"),
    ],
)
def test_targets_that_do_not_fit_are_one_clear_error(
    outputs: Array, targets: Array, names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        measured(outputs, targets, names)


# A metric of one's own


def test_a_metric_that_gives_nan_is_refused_and_says_so() -> None:
    own = Score(Metric("distance", "mm", -1), lambda outputs, targets: np.full(len(outputs), np.nan))
    with pytest.raises(MeasurementError, match="distance gives values that are no finite numbers for batch 0 of m"):
        answers_of(np.zeros((3, 1)), np.zeros(3), (own,))


def test_the_drop_of_a_set_metric_is_in_points_and_of_another_in_its_unit() -> None:
    truth = np.arange(40) % 4
    right, worse = one_hot(truth, 4), one_hot(np.where(np.arange(40) < 8, (truth + 1) % 4, truth), 4)
    scores = scores_named(("f1_macro", "accuracy"))
    sides = [answers_of(outputs, truth, scores) for outputs in (right, worse)]
    (drop,) = measure_drop(SUBJECT, sides[0], sides[1], baseline="d")
    assert (drop.metric.name, drop.metric.unit) == ("f1_macro_drop", "points")
    assert drop.value == pytest.approx(100 * (1 - metrics.f1_score(truth, worse.argmax(1), average="macro")))
    assert drop.low > 0
    errors = [
        answers_of(x, np.zeros(4), scores_named(("root_mean_squared_error",)))
        for x in np.array([[1, 2, 1, 2], [2, 3, 3, 2]])[..., None].astype(float)
    ]
    (drop,) = measure_drop(SUBJECT, errors[0], errors[1], baseline="d")
    assert (drop.metric.name, drop.metric.unit) == ("root_mean_squared_error_drop", "target unit")
    assert drop.value == pytest.approx(np.sqrt(6.5) - np.sqrt(2.5))


def test_several_outputs_reach_a_metric_of_ones_own_as_a_tuple() -> None:
    own = Score(Metric("miss", "fraction", -1), lambda outputs, targets: outputs[0][:, 0] != targets)
    with FakeRuntime(outputs=lambda x: (x, x + 1)).load(
        Artifact(path=None, format="dwn", sha256="f", size_bytes=1)
    ) as s:  # type: ignore[arg-type]
        data = batches([(np.array([[1.0], [2.0]]), np.array([1.0, 1.0]))], batch_size=2)
        (found,) = answer([("m", s)], data, scores=(own,))
    assert measure_accuracy(SUBJECT, found)[0].value == 0.5


def test_names_that_are_no_metrics_are_refused() -> None:
    with pytest.raises(SettingError, match="unknown metric 'f1'; the nearest known one is 'f1_"):
        scores_named(("f1",))
    with pytest.raises(SettingError, match="each once"):
        scores_named(("accuracy", "accuracy"))
    with pytest.raises(SettingError, match="same name"):
        Plan(scores=(SCORES["accuracy"], SCORES["accuracy"]))


def test_budgets_bound_these_metrics_and_ones_of_the_user() -> None:
    own = Metric("distance", "mm", -1)
    table = {"min_f1_macro": "90 %", "max_f1_weighted_drop": "0.5pt", "max_distance": 3, "max_distance_drop": 0.1,
             "max_memory_peak": "100MB", "min_throughput": 50, "max_mean_squared_error": 0.2}  # fmt: skip
    budget = Budget.from_plain(table, where="budget", metrics=(own,))
    assert budget.bounds == pytest.approx(
        {"f1_macro": 0.9, "f1_weighted_drop": 0.5, "distance": 3, "distance_drop": 0.1, "memory_peak": 1e8,
         "throughput": 50, "mean_squared_error": 0.2}
    )  # fmt: skip
    assert drop_of(own) == Metric("distance_drop", "mm", -1)
    with pytest.raises(SettingError, match="unknown key 'max_distance'"):
        Budget.from_plain(table, where="budget")


def test_scikit_learn_agrees_without_a_warning_hidden() -> None:
    # The peer warns where it divides by zero unless told what to answer; ours documents the same answer.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = metrics.precision_score([0, 1, 1], [0, 0, 0], average="macro")
    found = confusion_interval(of_sets("precision_macro"), np.array([0, 1, 1]), np.array([0, 0, 0]), n_classes=2)
    assert found.value == pytest.approx(expected)
