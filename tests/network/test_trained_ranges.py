"""This file tests ranges of activations that move or learn: values, gradients, and the quantizers they end as."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from dwindle.core.affine import fake_quantize
from dwindle.core.encoding import code_range
from dwindle.network.activations import ActivationQuantizer
from dwindle.network.simulate import FakeQuantize
from dwindle.network.trained_ranges import BEGIN, MOMENTUM, LearnedRange, MovingRange, RangeKind, trained_range

KINDS: tuple[RangeKind, ...] = ("moving_average", "learned")
STARTS = st.one_of(
    st.builds(ActivationQuantizer, scale=st.floats(1e-3, 1.0), zero_point=st.integers(0, 255)),
    st.builds(
        ActivationQuantizer,
        scale=st.floats(1e-5, 1e-2),
        zero_point=st.just(0),
        n_bits=st.just(16),
        signed=st.just(True),
    ),
)


def drawn(seed: int, spread: float = 2.0) -> Tensor:
    return torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(seed)) * spread


@pytest.mark.parametrize("kind", KINDS)
@given(start=STARTS, seed=st.integers(0, 10**6))
def test_it_begins_where_it_was_told_to(kind: RangeKind, start: ActivationQuantizer, seed: int):
    """A range whose ends are scale times whole numbers has the codes it started with, but for rounding to float32."""
    module = trained_range(start, kind).eval()
    end = module.quantizer()
    assert (end.zero_point, end.n_bits, end.signed) == (start.zero_point, start.n_bits, start.signed)
    assert end.scale == pytest.approx(start.scale, rel=1e-6)
    x = drawn(seed)
    assert torch.equal(module(x), FakeQuantize(end)(x))


@pytest.mark.parametrize("kind", KINDS)
@example(start=ActivationQuantizer(scale=0.001, zero_point=0, n_bits=16, signed=True), seed=62640)  # a tie
@given(start=STARTS, seed=st.integers(0, 10**6))
def test_what_is_trained_is_what_the_model_computes(kind: RangeKind, start: ActivationQuantizer, seed: int):
    module = trained_range(start, kind).train()
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1)), *module.parameters()], lr=1e-4)
    for i in range(3):
        optimizer.zero_grad()
        module(drawn(seed + i).requires_grad_()).square().sum().backward()
        optimizer.step()
    end, x = module.quantizer(), drawn(seed + 9, spread=20.0)
    assert torch.equal(module.eval()(x), FakeQuantize(end)(x))
    low, high = code_range(end.n_bits, signed=end.signed)
    assert low <= end.zero_point <= high
    assert end.scale > 0


def test_a_moving_range_follows_the_extremes_of_batches_and_covers_zero():
    module = trained_range(ActivationQuantizer(scale=0.1, zero_point=0), "moving_average").train()
    low, high = float(module.low), float(module.high)
    assert (low, high) == pytest.approx((0.0, 25.5))
    module(torch.tensor([3.0, -7.0, 5.0]))
    assert float(module.low) == pytest.approx(MOMENTUM * -7.0)
    assert float(module.high) == pytest.approx(25.5 + MOMENTUM * (5.0 - 25.5))
    for _ in range(3000):
        module(torch.tensor([2.0, 4.0]))
    assert float(module.low) == pytest.approx(0.0, abs=1e-4)
    assert float(module.high) == pytest.approx(4.0, rel=1e-4)


def test_a_moving_range_stays_in_eval_mode_when_frozen_and_without_values():
    for prepare in (
        lambda module: module.eval(),
        lambda module: module.frozen.fill_(value=True),
        lambda module: None,
    ):
        module = trained_range(ActivationQuantizer(scale=0.1, zero_point=7), "moving_average").train()
        prepare(module)
        ends = float(module.low), float(module.high)
        x = torch.zeros(0, 3) if module.training and not bool(module.frozen) else torch.full((2, 3), 99.0)
        assert module(x).shape == x.shape
        assert (float(module.low), float(module.high)) == ends


def test_gradients_pass_inside_the_range_alone():
    x = torch.tensor([-2.0, -0.3, 0.4, 30.0], requires_grad=True)
    for kind in KINDS:
        x.grad = None
        module = trained_range(ActivationQuantizer(scale=0.1, zero_point=10), kind).eval()
        module(x).backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        assert x.grad is not None
        assert x.grad.tolist() == [0.0, 2.0, 3.0, 0.0]


@given(start=STARTS, seed=st.integers(0, 10**6))
def test_the_step_gets_the_gradient_of_the_paper(start: ActivationQuantizer, seed: int):
    """Esser et al. 2020, equation 3, with a zero point; weighted by 1 / sqrt(values of an example * highest code).

    What is trained is the step in units of the calibrated one.
    """
    module, x = LearnedRange(start), drawn(seed)
    upstream = drawn(seed + 1)
    module(x).backward(upstream)
    low, high = (end - start.zero_point for end in code_range(start.n_bits, signed=start.signed))
    v = x.double() / module.step.detach().double()
    slopes = torch.where(v <= low, float(low), torch.where(v >= high, float(high), v.round() - v))
    largest = max(abs(end) for end in code_range(start.n_bits, signed=start.signed))
    wanted = (slopes * upstream).sum() / math.sqrt(15 * largest)
    assert module.growth.grad is not None
    found = module.growth.grad.double()[0] * BEGIN / start.scale
    # A code is at most half a step away: near a tie float32 and float64 may take neighbours, one step apart.
    slack = 1e-3 * float(slopes.abs().max()) + (1.0 if _has_tie(v) else 0.0)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=slack)


def _has_tie(v: Tensor) -> bool:
    return bool(((v - v.floor() - 0.5).abs() < 1e-3).any())


@pytest.mark.parametrize(
    "x", [torch.zeros(0, 3), torch.tensor(0.5), torch.zeros(2, 3)], ids=["empty", "scalar", "zeros"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_odd_shapes(kind: RangeKind, x: Tensor):
    module = trained_range(ActivationQuantizer(scale=0.1, zero_point=10), kind).train()
    x = x.clone().requires_grad_()
    found = module(x)
    found.sum().backward()
    assert found.shape == x.shape
    torch.testing.assert_close(found, x.detach(), atol=0.01, rtol=0)
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())


@pytest.mark.parametrize("n_bits", [8, 16])
def test_a_rate_that_fits_one_range_fits_all(n_bits: int):
    """The same activations in other units learn the same range, and no number of bits lets a range run away."""
    grown: list[float] = []
    for unit in (1e-4, 1.0, 1e4):
        highest = code_range(n_bits, signed=True)[1]
        start = ActivationQuantizer(scale=3.0 * unit / highest, zero_point=0, n_bits=n_bits, signed=True)
        module = LearnedRange(start).train()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
        for seed in range(40):
            x = drawn(seed) * unit
            optimizer.zero_grad()
            ((module(x) - x) / unit).square().mean().backward()
            optimizer.step()
        grown.append(module.quantizer().scale / start.scale)
    assert grown == pytest.approx([grown[1]] * 3, rel=1e-2)
    assert 1.01 < grown[1] < 4.0  # two deviations were outside


@pytest.mark.parametrize("step", [-0.1, 0.0])
def test_a_step_that_training_made_negative_or_zero_stays_a_step(step: float):
    module = LearnedRange(ActivationQuantizer(scale=0.1, zero_point=10))
    with torch.no_grad():
        module.growth.fill_(step)
    end, x = module.quantizer(), torch.tensor([0.5, -0.4])
    assert end.scale > 0
    assert torch.equal(module(x), fake_quantize(x, torch.tensor(end.scale), end.zero_point, n_bits=8, signed=False))


def test_half_precision_comes_and_goes():
    for kind in KINDS:
        module = trained_range(ActivationQuantizer(scale=0.1, zero_point=10), kind).train()
        assert module(torch.ones(2, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_everything_that_moves_is_in_a_checkpoint():
    assert set(MovingRange(ActivationQuantizer(scale=0.1, zero_point=1)).state_dict()) == {"low", "high", "frozen"}
    assert set(LearnedRange(ActivationQuantizer(scale=0.1, zero_point=1)).state_dict()) == {
        "growth",
        "start",
        "zero_point",
    }
