"""This file tests learned steps: values on the grid, their gradients, and the step that training starts from."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dwindle.core.granularity import Granularity, PerChannel, PerGroup, PerTensor, expand, n_scales
from dwindle.core.learned_step import SHRINKS, highest_code, least_error_step, round_to_step
from dwindle.errors import SettingError

GRANULARITIES: tuple[Granularity, ...] = (PerTensor(), PerChannel(0), PerChannel(1))
SEEDS = st.integers(0, 10**6)
BITS = st.integers(2, 8)
PLACES = st.sampled_from(GRANULARITIES)


def drawn(seed: int, shape: tuple[int, ...] = (3, 4, 2)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def steps_for(x: Tensor, granularity: Granularity) -> Tensor:
    n = n_scales(tuple(x.shape), granularity)
    return torch.linspace(0.1, 0.4, n) if n > 1 else torch.tensor([0.2])


def on_grid(x: float, step: float, highest: int) -> tuple[float, float]:
    """Return the value on the grid and its derivative by the step, as the paper writes them (equations 1 and 3)."""
    v = x / step
    if v <= -highest:
        return -highest * step, -highest
    if v >= highest:
        return highest * step, highest
    return round(v) * step, round(v) - v


@given(SEEDS, BITS, PLACES)
def test_values_and_gradients_are_those_of_the_paper(seed: int, n_bits: int, granularity: Granularity):
    x, highest = drawn(seed).requires_grad_(), highest_code(n_bits)
    step = steps_for(x, granularity).requires_grad_()
    weights = drawn(seed + 1)
    found = round_to_step(x, step, granularity=granularity, n_bits=n_bits)
    (found * weights).sum().backward()
    spread = expand(step.detach(), granularity, tuple(x.shape)).expand_as(x).flatten().tolist()
    places = expand(torch.arange(len(step)), granularity, tuple(x.shape)).expand_as(x).flatten().tolist()
    by_step = [0.0] * len(step)
    for i, (value, s, place) in enumerate(zip(x.flatten().tolist(), spread, places, strict=True)):
        wanted, slope = on_grid(value, s, highest)
        assert found.flatten()[i].item() == pytest.approx(wanted, rel=1e-5, abs=1e-6)
        by_step[place] += slope * weights.flatten()[i].item()
        passes = weights.flatten()[i].item() if abs(value / s) <= highest else 0.0
        assert x.grad is not None
        assert x.grad.flatten()[i].item() == passes
    balance = 1 / math.sqrt(x.numel() / len(step) * highest)
    assert step.grad is not None
    torch.testing.assert_close(step.grad, torch.tensor(by_step) * balance, rtol=1e-4, atol=1e-5)


def test_the_gradient_of_a_step_is_the_slope_where_the_rounding_error_is_held():
    """Straight through: round(v) = v + e with e held; outside the range the code is held."""
    x = torch.tensor([0.31, -0.77, 5.0, -6.0])
    step = torch.tensor([0.25], requires_grad=True)
    round_to_step(x, step, granularity=PerTensor(), n_bits=4).sum().backward()
    balance = 1 / math.sqrt(4 * 7)
    codes = torch.tensor([1.0, -3.0, 7.0, -7.0])
    inside = torch.tensor([True, True, False, False])

    def straight(s: float) -> float:
        moved = x.double() / s + (codes - x.double() / 0.25)
        return float((torch.where(inside, moved, codes.double()) * s).sum())

    slope = (straight(0.2501) - straight(0.2499)) / 0.0002
    assert step.grad is not None
    assert step.grad.item() / balance == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize("shape", [(0,), (3, 0)])
def test_nothing_to_round(shape: tuple[int, ...]):
    step = torch.tensor([0.5], requires_grad=True)
    found = round_to_step(torch.zeros(shape), step, granularity=PerTensor(), n_bits=8)
    found.sum().backward()
    assert found.shape == shape
    assert step.grad is not None
    assert step.grad.tolist() == [0.0]


def error_of(x: Tensor, step: float, highest: int) -> float:
    return float((x - (x / step).round().clamp(-highest, highest) * step).square().sum())


@given(SEEDS, BITS, PLACES, st.booleans())
def test_the_first_step_has_the_least_error_of_all_that_are_tried(
    seed: int, n_bits: int, granularity: Granularity, is_pruned: bool
):
    x, highest = drawn(seed), highest_code(n_bits)
    support = drawn(seed + 1) > 0 if is_pruned else None
    found = least_error_step(x, granularity=granularity, n_bits=n_bits, support=support)
    kept = x if support is None else torch.where(support, x, 0.0)
    sets = [kept.flatten()] if granularity == PerTensor() else list(kept.movedim(granularity.axis, 0).flatten(1))
    assert found.shape == (len(sets),)
    assert found.dtype == torch.float32
    for step, values in zip(found.tolist(), sets, strict=True):
        widest = float(values.abs().max()) / highest
        if widest == 0:
            assert step == 1.0
            continue
        least = min(error_of(values, widest * fraction, highest) for fraction in SHRINKS)
        assert error_of(values, step, highest) == pytest.approx(least, rel=1e-4, abs=1e-10)
        assert 0.09 * widest < step <= widest * 1.0001


def test_what_is_pruned_does_not_count():
    x = torch.tensor([0.5, -0.5, 100.0])
    kept = torch.tensor([True, True, False])
    assert least_error_step(x, granularity=PerTensor(), n_bits=2, support=kept).tolist() == [0.5]


@pytest.mark.parametrize("n_bits", [2, 8])
@pytest.mark.parametrize(
    "values", [torch.zeros(0), torch.zeros(3), torch.tensor([1e-42]), torch.tensor([-3.0]), torch.tensor([1e25, -6e24])]
)
def test_the_first_step_of_odd_tensors_is_positive_and_fits(values: Tensor, n_bits: int):
    (step,) = least_error_step(values, granularity=PerTensor(), n_bits=n_bits).tolist()
    assert math.isfinite(step)
    assert step > 0
    largest = float(values.abs().max()) if values.numel() else 0.0
    if largest > 1e-30:
        assert 0.1 * largest / highest_code(n_bits) <= step <= 1.001 * largest / highest_code(n_bits)


def test_groups_have_no_learned_steps():
    arguments: dict[str, Any] = {"granularity": PerGroup(2), "n_bits": 4}
    with pytest.raises(SettingError, match=r"steps are learned for PerTensor\(\) and PerChannel\(axis\)"):
        least_error_step(torch.ones(2, 4), **arguments)
