"""This file tests when and how far a schedule prunes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwindle.core.schedule import Constant, Polynomial, Schedule, is_due, next_sparsity, sparsity_at
from dwindle.errors import SettingError

FRACTIONS = st.floats(0, 1)
POLYNOMIALS = st.builds(
    Polynomial,
    power=st.floats(0.2, 5),
    begin=st.floats(0, 0.4),
    end=st.floats(0.5, 1),
    frequency=st.integers(1, 50),
    initial_sparsity=st.floats(0, 0.9),
)
SCHEDULES = POLYNOMIALS | st.builds(Constant, begin=st.floats(0, 0.9))


@given(schedule=SCHEDULES, a=FRACTIONS, b=FRACTIONS, target=st.floats(0, 0.99))
def test_sparsity_never_falls_nor_overshoots_and_ends_at_its_target(
    schedule: Schedule, a: float, b: float, target: float
):
    earlier, later = sorted((a, b))
    assert sparsity_at(schedule, earlier, target=target) >= 0
    assert sparsity_at(schedule, earlier, target=target) <= sparsity_at(schedule, later, target=target) + 1e-12
    assert sparsity_at(schedule, later, target=target) <= target + 1e-12
    assert sparsity_at(schedule, 1.0, target=target) == target


@given(schedule=SCHEDULES, n_steps=st.integers(1, 300))
def test_the_last_pruning_reaches_the_target_however_short_the_training(schedule: Schedule, n_steps: int):
    due = [step for step in range(n_steps + 1) if is_due(schedule, step, n_steps=n_steps)]
    assert due
    assert sparsity_at(schedule, due[-1] / n_steps, target=0.9) == 0.9


def test_the_cubic_curve_of_zhu_and_gupta():
    schedule = Polynomial(power=3, begin=0.2, end=0.6, initial_sparsity=0.1)
    assert sparsity_at(schedule, 0.1, target=0.9) == 0
    assert sparsity_at(schedule, 0.2, target=0.9) == pytest.approx(0.1)
    assert sparsity_at(schedule, 0.4, target=0.9) == pytest.approx(0.9 - 0.8 * 0.5**3)
    assert sparsity_at(schedule, 0.6, target=0.9) == 0.9


@given(current=st.floats(0, 0.99), target=st.floats(0, 0.99), n_rounds=st.integers(1, 8))
def test_rounds_take_the_same_share_of_what_is_left_and_end_at_the_target(current, target, n_rounds):
    left = [1 - current]
    for to_come in range(n_rounds, 0, -1):
        left.append(1 - next_sparsity(1 - left[-1], target=target, n_rounds=to_come))
    assert left[-1] == 1 - target
    if current < target:
        shares = [later / earlier for earlier, later in pairwise(left)]
        assert shares == pytest.approx([shares[0]] * n_rounds, rel=1e-6)


def test_a_constant_schedule_prunes_once():
    assert [s for s in range(101) if is_due(Constant(begin=0.25), s, n_steps=100)] == [25]
    assert [s for s in range(101) if is_due(Constant(), s, n_steps=100)] == [0]


def test_a_polynomial_prunes_at_its_frequency_between_begin_and_end():
    due = [s for s in range(101) if is_due(Polynomial(begin=0.1, end=0.5, frequency=20), s, n_steps=100)]
    assert due == [10, 20, 40, 50]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Constant(begin=1.0), r"begin is a fraction.*got 1\.0"),
        (lambda: Constant(begin=-0.1), r"begin is a fraction.*got -0\.1"),
        (lambda: Polynomial(begin=0.5, end=0.5), r"begin=0\.5, end=0\.5"),
        (lambda: Polynomial(end=1.5), r"end=1\.5"),
        (lambda: Polynomial(power=0), r"power must be positive, got 0"),
        (lambda: Polynomial(power=float("nan")), r"power must be positive, got nan"),
        (lambda: Polynomial(frequency=0), r"frequency counts.*got 0"),
        (lambda: Polynomial(initial_sparsity=1), r"initial_sparsity must be in \[0, 1\), got 1"),
    ],
)
def test_what_cannot_be_a_schedule_is_said(build, message):
    with pytest.raises(SettingError, match=message):
        build()
