"""This file holds axes that are not linear to what an axis is: rising, wide enough, with labels that fit."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwindle.report.figures import error_bars
from dwindle.report.scales import LogAxis, ShareAxis

RATIOS = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=8)
SHARES = st.lists(st.floats(0, 100), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("make", "values"), [(LogAxis.around, [0.5, 3.0, 80.0]), (ShareAxis.around, [9.8, 93.0, 95.1])]
)
def test_rises_from_edge_to_edge(make, values):
    axis = make(values)
    assert axis.at(axis.low) == pytest.approx(0)
    assert axis.at(axis.high) == pytest.approx(100)
    places = [axis.at(value) for value in values]
    assert places == sorted(places)
    assert 0 <= places[0] < places[-1] <= 100


@given(values=RATIOS, n=st.integers(2, 8))
def test_ratios_and_their_labels_lie_on_the_axis(values, n):
    axis = LogAxis.around(values)
    assert all(-1e-6 <= axis.at(value) <= 100 + 1e-6 for value in values)
    ticks = axis.ticks(n)
    assert all(-1e-6 <= tick.at <= 100 + 1e-6 for tick in ticks)
    assert [tick.at for tick in ticks] == sorted(tick.at for tick in ticks)


@given(values=SHARES, n=st.integers(2, 8))
def test_shares_and_their_labels_lie_on_the_axis_without_overlap(values, n):
    axis = ShareAxis.around(values)
    assert all(-1e-6 <= axis.at(value) <= 100 + 1e-6 for value in values)
    places = sorted(tick.at for tick in axis.ticks(n))
    assert all(0 <= place <= 100 for place in places)
    assert all(b - a >= 75 / n - 1e-6 for a, b in itertools.pairwise(places))


@pytest.mark.parametrize("values", [[1.0, math.nextafter(1.0, 2.0)], [7.3], [1.1, 1.4], [1.0, 4.0], [0.001, 1e6]])
def test_every_range_of_ratios_has_labels(values):
    assert len(LogAxis.around(values, margin=0.05).ticks(5)) >= 2


@pytest.mark.parametrize("values", [[], [math.nan], [0.0, -3.0, math.inf]])
def test_nothing_to_show_is_still_an_axis(values):
    assert LogAxis.around(values).at(1.5) == pytest.approx(LogAxis.around([]).at(1.5))
    assert ShareAxis.around([math.nan]) == ShareAxis.around([])


def test_one_point_near_100_is_worth_more_than_far_from_it():
    axis = ShareAxis(0, 99)
    assert axis.at(98) - axis.at(97) > 5 * (axis.at(51) - axis.at(50))


def test_error_bars_that_are_not_finite_are_left_out():
    axes = LogAxis(1, 100), ShareAxis(0, 100)
    path = error_bars([(10, 50, 60), (10, math.nan, 60)], axes)
    assert path.count("M50.00") == 1
    assert "nan" not in path
