"""This file tests levels of few bits against the list of them, and what passes backward."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dwindle.core.few_bits import HIGHEST_LEVEL, LevelRange, Levels, round_activation, stand_in
from dwindle.errors import SettingError

EVERY = [Levels(n, kind) for n in (1, 2, 3, 4) for kind in ("full", "restricted") if (n, kind) != (1, "restricted")]
LEVELS = st.sampled_from(EVERY)
VALUES = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=9)


def values_of(levels: Levels) -> list[float]:
    codes = range(-levels.highest, levels.highest + 1, 2 if levels.kind == "full" else 1)
    return [code / levels.highest for code in codes]


@pytest.mark.parametrize(
    ("levels", "values"),
    [
        (Levels(1), [-1, 1]),
        (Levels(2), [-1, -1 / 3, 1 / 3, 1]),
        (Levels(2, "restricted"), [-1, 0, 1]),
        (Levels(3, "restricted"), [-1, -2 / 3, -1 / 3, 0, 1 / 3, 2 / 3, 1]),
    ],
    ids=str,
)
def test_the_levels_by_hand(levels: Levels, values: list[float]):
    assert values_of(levels) == pytest.approx(values)
    assert levels.unit == 1 / levels.highest


@pytest.mark.parametrize("levels", EVERY, ids=str)
def test_all_codes_of_the_width_are_used_or_all_but_one(levels: Levels):
    found = set(levels.codes(torch.linspace(-1, 1, 1001)).tolist())
    assert found == {v * levels.highest for v in values_of(levels)} or len(found) == len(values_of(levels))
    assert len(found) == 2**levels.n_bits - (levels.kind == "restricted")
    assert set(levels.codes(torch.tensor(values_of(levels))).tolist()) == found


@given(LEVELS, VALUES)
def test_a_value_goes_to_a_level_that_none_is_nearer_than(levels: Levels, values: list[float]):
    codes = levels.codes(torch.tensor(values))
    assert codes.dtype == torch.float32
    for value, code in zip(values, codes.tolist(), strict=True):
        nearest = min(abs(value - level) for level in values_of(levels))
        assert abs(value - code / levels.highest) <= nearest + 1e-6
        assert abs(code) <= levels.highest


@pytest.mark.parametrize("levels", EVERY, ids=str)
def test_in_the_middle_the_higher_level_wins(levels: Levels):
    values = values_of(levels)
    middles = [(a + b) / 2 for a, b in pairwise(values)]
    exact = [m for m in middles if (m * 2**20).is_integer()]
    wanted = [values[middles.index(m) + 1] * levels.highest for m in exact]
    assert levels.codes(torch.tensor(exact)).tolist() == pytest.approx(wanted)
    assert len(exact) > 0 or levels.kind == "restricted"


@given(LEVELS, st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=9))
def test_activations_are_clipped_and_rounded_and_pass_gradients_inside(levels: Levels, values: list[float]):
    x = torch.tensor(values, requires_grad=True)
    found = round_activation(x, levels)
    found.sum().backward()
    for value, level in zip(values, found.tolist(), strict=True):
        if levels.n_bits == 1:
            assert level == (value > 0) - (value < 0)
        else:
            clipped = min(max(value, -1.0), 1.0)
            assert abs(level - clipped) <= min(abs(clipped - one) for one in values_of(levels)) + 1e-6
    assert x.grad is not None
    assert x.grad.tolist() == [float(abs(value) <= 1) for value in values]


def test_nan_stays_nan():
    assert bool(round_activation(torch.tensor([float("nan")]), Levels(2)).isnan())


def test_a_stand_in_has_the_value_of_one_and_the_gradient_of_the_other():
    value = torch.tensor([5.0], requires_grad=True)
    surrogate = torch.tensor([2.0], requires_grad=True)
    found = stand_in(value, surrogate**3)
    found.backward()
    assert found.item() == 5.0
    assert value.grad is None
    assert surrogate.grad is not None
    assert surrogate.grad.item() == 12.0


@pytest.mark.parametrize("n_bits", [1, 2, 3, 4])
def test_the_highest_level_for_normal_weights_is_the_one_of_least_error(n_bits: int):
    """Max (1960): no end 5 % wider or narrower leaves a smaller error on a normal distribution."""
    x = torch.erfinv(torch.linspace(-1 + 1e-5, 1 - 1e-5, 200_001, dtype=torch.float64)) * 2**0.5
    levels = Levels(n_bits)

    def error(end: float) -> float:
        return float((levels.codes((x / end).clamp(-1, 1)) * levels.unit * end - x).square().mean())

    best = HIGHEST_LEVEL[n_bits]
    assert error(best) <= min(error(best * 0.95), error(best * 1.05))


@pytest.mark.parametrize("n_bits", [-1, 0, 5])
def test_other_widths_are_refused(n_bits: int):
    with pytest.raises(SettingError, match=f"levels of 1 to 4 bits, got {n_bits}; QuantizeAware has more"):
        Levels(n_bits)


def test_one_bit_has_no_restricted_range():
    kind: LevelRange = "restricted"
    with pytest.raises(SettingError, match="holds nothing but zero; use the full range, or 2 bits"):
        Levels(1, kind)
