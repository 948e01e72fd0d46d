"""This file tests intervals against published values and by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, ttest_1samp

from dwindle.core.statistics import mean_interval, paired_drop_interval, wilson_interval
from dwindle.errors import SettingError


def answers(both, only_dense, only_compressed, neither):
    """Return (dense_right, compressed_right) with the given numbers of examples."""
    counts = [both, only_dense, only_compressed, neither]
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


@given(st.integers(1, 500), st.data(), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_agrees_with_scipy(n, data, level):
    n_right = data.draw(st.integers(0, n))
    interval = wilson_interval(n_right, n, level=level)
    expected = binomtest(n_right, n).proportion_ci(level, method="wilson")
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert interval.low <= interval.value <= interval.high
    assert interval.n == n


def test_wilson_at_the_ends():
    assert wilson_interval(0, 10).low == 0.0
    assert wilson_interval(10, 10).high == 1.0
    assert wilson_interval(10, 10).low < 1.0


@pytest.mark.parametrize(
    ("cells", "low", "high"),
    [  # Newcombe 1998, table II, method 10
        ((36, 12, 2, 0), 0.0569, 0.3404),
        ((0, 12, 2, 36), 0.0569, 0.3404),
    ],
)
def test_paired_interval_is_published_method_10(cells, low, high):
    interval = paired_drop_interval(*answers(*cells))
    b, c, n = cells[1], cells[2], sum(cells)
    assert interval.value == pytest.approx(100 * (b - c) / n)
    assert (interval.low, interval.high) == pytest.approx((100 * low, 100 * high), abs=0.011)


@pytest.mark.parametrize(("cells", "phi"), [((3, 1, 1, 3), 0.25), ((2, 1, 1, 2), 0.0), ((5, 2, 2, 1), 0.0)])
def test_positive_correlation_is_corrected_for_continuity(cells, phi):
    interval = paired_drop_interval(*answers(*cells))
    n = sum(cells)
    wilson = wilson_interval(cells[0] + cells[1], n)  # the margins are alike, so both sides have this interval
    below, above = wilson.value - wilson.low, wilson.high - wilson.value
    half = math.sqrt(below**2 - 2 * phi * below * above + above**2)
    assert (interval.low, interval.high) == pytest.approx((-100 * half, 100 * half))


@given(st.tuples(*[st.integers(0, 40)] * 4).filter(lambda cells: sum(cells) > 0))
def test_paired_interval_holds_its_value_and_mirrors(cells):
    dense, compressed = answers(*cells)
    drop, gain = paired_drop_interval(dense, compressed), paired_drop_interval(compressed, dense)
    assert -100.0 <= drop.low <= drop.value <= drop.high <= 100.0
    assert (gain.low, gain.high) == pytest.approx((-drop.high, -drop.low))


def test_pairing_narrows_the_interval():
    paired = paired_drop_interval(*answers(900, 20, 10, 70))
    shuffled = answers(900, 20, 10, 70)
    unpaired = paired_drop_interval(shuffled[0], np.random.default_rng(0).permutation(shuffled[1]))
    assert paired.half_width < 0.6 * unpaired.half_width


@pytest.mark.parametrize("right", [True, False])
def test_all_alike_is_no_drop_with_some_doubt(right):
    same = np.full(50, right)
    interval = paired_drop_interval(same, same)
    assert interval.value == 0.0
    assert interval.low < 0.0 < interval.high


def test_paired_coverage_by_simulation():
    generator = np.random.default_rng(7)
    covered = 0
    for _ in range(1000):
        dense = generator.random(400) < 0.9
        flips = generator.random(400)
        compressed = np.where(dense, flips > 0.05, flips < 0.2)  # P(right) = 0.9 * 0.95 + 0.1 * 0.2 = 0.875
        interval = paired_drop_interval(dense, compressed)
        covered += interval.low <= 2.5 <= interval.high
    assert 930 <= covered <= 975


def test_wilson_coverage_by_simulation():
    n_right = np.random.default_rng(8).binomial(300, 0.93, 2000)
    intervals = [wilson_interval(int(count), 300) for count in n_right]
    assert 1870 <= sum(i.low <= 0.93 <= i.high for i in intervals) <= 1940


def test_mean_coverage_by_simulation():
    samples = np.random.default_rng(9).normal(3.0, 2.0, (2000, 5))
    assert 1870 <= sum(i.low <= 3.0 <= i.high for i in map(mean_interval, samples)) <= 1930


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20).filter(lambda v: np.std(v) > 1e-6))
def test_mean_interval_agrees_with_scipy(samples):
    interval = mean_interval(samples, level=0.9)
    expected = ttest_1samp(samples, 0.0).confidence_interval(0.9)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-9)
    assert interval.value == pytest.approx(math.fsum(samples) / len(samples), abs=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wilson_interval(0, 0), "n=0"),
        (lambda: wilson_interval(3, 2), "n_right=3, n=2"),
        (lambda: wilson_interval(-1, 2), "n_right=-1"),
        (lambda: wilson_interval(1, 2, level=1.0), r"level .*got 1.0"),
        (lambda: wilson_interval(1, 2, level=0.0), r"level .*got 0.0"),
        (lambda: paired_drop_interval(np.empty(0, bool), np.empty(0, bool)), "n=0"),
        (lambda: paired_drop_interval(np.ones(3, bool), np.ones(2, bool)), r"\(3,\) and \(2,\)"),
        (lambda: paired_drop_interval(np.ones((2, 2), bool), np.ones((2, 2), bool)), "one axis"),
        (lambda: mean_interval([]), "at least 2 samples, got 0"),
        (lambda: mean_interval([1.0]), "at least 2 samples, got 1"),
        (lambda: mean_interval([1.0, math.inf]), "finite"),
        (lambda: mean_interval([1.0, 2.0], level=2.0), "level"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(SettingError, match=message):
        call()
