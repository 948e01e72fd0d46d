"""The interval over trainings and examples is the stated formula, is never narrower than it may be, and covers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import ndtri, stdtrit

from dwindle.core.statistics import Block, Interval, mean_of_trainings
from dwindle.errors import SettingError

POINTS = st.sampled_from([-100.0, 0.0, 100.0])


def block(values: object, **settings: object) -> Block:
    rows = np.atleast_2d(np.asarray(values, dtype=np.float64))
    return Block(**{"values": rows, "seeds": tuple(range(len(rows))), **settings})  # type: ignore[arg-type]


def interval(*blocks: Block) -> Interval:
    return mean_of_trainings(blocks, least_step=100.0, limits=(-100.0, 100.0))


def drops(n_seeds: int, n_examples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice([-100.0, 0.0, 100.0], size=(n_seeds, n_examples), p=[0.04, 0.86, 0.1])


def test_one_block_is_the_formula_by_hand() -> None:
    values = drops(3, 400)
    of_seeds = values.mean(axis=1).var(ddof=1) / 3
    of_examples = values.mean(axis=0).var(ddof=1) / 400
    variance = of_seeds + of_examples
    freedom = max(variance**2 / (2 * of_seeds**2 / 2 + of_examples**2 / 399), 2)
    half = stdtrit(freedom, 0.975) * math.sqrt(variance)
    found = interval(block(values))
    assert (found.value, found.n) == (pytest.approx(values.mean()), 3)
    assert (found.low, found.high) == (pytest.approx(values.mean() - half), pytest.approx(values.mean() + half))


def test_networks_on_one_data_set_share_its_examples() -> None:
    first, second = drops(3, 400, 1), drops(3, 400, 2)
    found = interval(block(first, family="a", weight=0.5), block(second, family="b", weight=0.5))
    of_seeds = [v.mean(axis=1).var(ddof=1) / 3 / 4 for v in (first, second)]
    of_examples = ((first.mean(axis=0) + second.mean(axis=0)) / 2).var(ddof=1) / 400
    variance = sum(of_seeds) + of_examples
    freedom = max(variance**2 / (sum(2 * part**2 / 2 for part in of_seeds) + of_examples**2 / 399), 2)
    assert found.half_width == pytest.approx(stdtrit(freedom, 0.975) * math.sqrt(variance))


def test_data_sets_have_examples_of_their_own() -> None:
    first, second = drops(1, 400, 1), drops(1, 900, 2)
    found = interval(block(first, examples="x", weight=0.5), block(second, examples="y", weight=0.5, family="b"))
    parts = [first[0].var(ddof=1) / 400 / 4, second[0].var(ddof=1) / 900 / 4]
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 399 + parts[1] ** 2 / 899)
    assert found.half_width == pytest.approx(stdtrit(freedom, 0.975) * math.sqrt(sum(parts)))


def test_what_grew_from_the_same_trainings_is_not_counted_twice() -> None:
    values = drops(3, 400)
    twice = [block(values, weight=0.5), block(values, weight=0.5)]
    assert interval(*twice).half_width == pytest.approx(interval(block(values)).half_width)
    others = [block(values, weight=0.5), block(values, weight=0.5, family="other")]
    assert interval(*others).half_width < interval(*twice).half_width


def test_a_difference_is_paired_by_seed_and_example() -> None:
    values = drops(3, 400)
    same = interval(block(values), block(values, weight=-1.0))
    apart = interval(block(values), block(values, weight=-1.0, family="b", examples="b"))
    assert same.value == apart.value == 0.0
    assert 0.0 < same.half_width < apart.half_width


def test_seeds_that_only_some_blocks_have_are_taken_by_name() -> None:
    first, second = drops(3, 400, 1), drops(2, 400, 2)
    whole = interval(block(first, weight=0.5), Block(values=second, seeds=(2, 0), weight=0.5))
    turned = interval(block(first, weight=0.5), Block(values=second[::-1], seeds=(0, 2), weight=0.5))
    assert whole == turned
    assert whole.n == 2


@pytest.mark.parametrize("value", [-100.0, 0.0, 100.0])
@pytest.mark.parametrize("n_seeds", [1, 3])
def test_examples_that_all_agree_leave_room(value: float, n_seeds: int) -> None:
    found = interval(block(np.full((n_seeds, 1000), value)))
    assert found.value == value
    assert found.low <= value <= found.high
    assert 0.2 < found.high - found.low < 0.6  # the rule of three says 0.3 on one side


def test_one_example_says_nothing() -> None:
    found = interval(block([[100.0], [0.0]]))
    assert (found.value, found.low, found.high) == (50.0, -100.0, 100.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: block([[math.nan, 0.0]]), "finite"),
        (lambda: block([[0.0, 1.0]], weight=math.inf), "finite"),
        (lambda: block(np.zeros((2, 0))), "at least one example"),
        (lambda: Block(values=np.zeros(3), seeds=(0,)), "a row"),
        (lambda: Block(values=np.zeros((2, 3)), seeds=(0, 0)), "each of its seeds"),
        (lambda: interval(), "at least one block"),
        (lambda: interval(block(drops(1, 5)), block(drops(1, 6))), "5 and on 6 examples"),
        (lambda: mean_of_trainings([block(drops(1, 5))], least_step=1.0, limits=(0, 1), level=1.0), "level"),
    ],
)
def test_what_cannot_be_averaged_is_one_clear_error(make: object, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        make()  # type: ignore[operator]


@given(
    values=arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 30)), elements=POINTS),
    other=arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 30)), elements=POINTS),
    weight=st.sampled_from([-1.0, -0.25, 0.5, 1.0]),
    is_related=st.booleans(),
)
def test_an_interval_holds_its_value_whatever_the_order(
    values: np.ndarray, other: np.ndarray, weight: float, is_related: bool
) -> None:
    blocks = [
        block(values, weight=0.5, examples="a"),
        block(other, weight=weight / 2, examples="b", family="" if is_related else "b"),
    ]
    found = interval(*blocks)
    assert found.low <= found.value <= found.high
    assert found.low < found.high
    turned = interval(*blocks[::-1])
    assert (turned.low, turned.high) == (pytest.approx(found.low), pytest.approx(found.high))


@given(values=arrays(np.float64, (3, 40), elements=POINTS), factor=st.sampled_from([1e-9, 0.01, 1e6]))
def test_units_do_not_matter(values: np.ndarray, factor: float) -> None:
    found = mean_of_trainings([block(values)], least_step=100.0, limits=(-math.inf, math.inf))
    scaled = mean_of_trainings([block(values * factor)], least_step=100.0 * factor, limits=(-math.inf, math.inf))
    assert scaled.half_width == pytest.approx(found.half_width * factor)


SETTINGS = [  # n_examples, n_seeds, spread between seeds in points, n_networks, n_data, correlation of answers
    (2947, 3, 0.0, 1, 1, 0.9),
    (2947, 3, 0.5, 1, 1, 0.5),
    (2947, 3, 1.5, 1, 1, 0.5),
    (2947, 3, 0.5, 4, 1, 0.8),
    (2947, 3, 1.5, 4, 1, 0.5),
    (1000, 3, 0.5, 4, 2, 0.5),
    (300, 5, 0.5, 2, 1, 0.5),
    (10_000, 3, 0.7, 2, 2, 0.5),
]


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_nineteen_of_twenty_intervals_hold_the_truth(setting: tuple[int, int, float, int, int, float]) -> None:
    n_examples, n_seeds, spread, n_networks, n_data, correlation = setting
    generator = np.random.default_rng(11)
    n_hit, n_drawn, true_drop, gained = 0, 500, 2.0, 0.02
    for _ in range(n_drawn):
        hard = {data: generator.normal(size=n_examples) for data in range(n_data)}
        blocks = []
        for network in range(n_networks):
            data = network % n_data
            noise = generator.normal(size=(n_seeds, n_examples))
            latent = math.sqrt(correlation) * hard[data] + math.sqrt(1 - correlation) * noise
            lost = gained + (true_drop + spread * generator.normal(size=(n_seeds, 1))) / 100.0
            rows = 100.0 * (latent < ndtri(np.clip(lost, 0, 1))) - 100.0 * (latent > ndtri(1 - gained))
            blocks.append(block(rows, family=network, examples=str(data), weight=1 / n_networks))
        found = interval(*blocks)
        n_hit += found.low <= true_drop <= found.high
    assert n_hit / n_drawn >= 0.93
