"""This file tests that the middle half of calls is what counts, and that intervals over it hold what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dwindle.bench.probes.middle_half import middle_half, middle_interval, middle_mean, resampled_halves
from dwindle.bench.probes.operator_times import profile_of
from dwindle.errors import SettingError
from dwindle.runtimes.call_times import CallTimes, Kernel

N_SIMULATED = 400
KERNELS = tuple(Kernel(name=kind, kind=kind) for kind in ("Conv", "QuantizeLinear", "Relu"))


def calls(generator, n, spread):
    """Return times of three operations and the engine with gamma noise, whose spreads differ, and 10 us around them."""
    shapes = 1 / np.array(spread) ** 2
    parts = generator.gamma(shapes, np.array([1.0, 0.1, 0.2, 0.1]) / shapes, (n, 4))
    return CallTimes(kernels=KERNELS, ms=parts[:, :3], engine_ms=parts[:, 3], wall_ms=parts.sum(axis=1) + 0.01)


def shares(times):
    """Return the share of each class in each call."""
    engine = np.zeros((len(times.wall_ms), 0)) if times.engine_ms is None else times.engine_ms[:, None]
    return np.column_stack([times.ms, engine]) / times.wall_ms[:, None]


@pytest.mark.parametrize("n_calls", [8, 30, 100])
@pytest.mark.parametrize("spread", [(0.3, 0.3, 0.3, 0.3), (0.3, 0.01, 0.01, 0.01)], ids=["all", "one"])
def test_intervals_of_shares_hold_the_truth(n_calls, spread):
    many = calls(np.random.default_rng(1), 400_000, spread)
    truth = shares(many)[middle_half(many.wall_ms)].mean(axis=0)
    generator = np.random.default_rng(2)
    held = np.zeros(4)
    for _ in range(N_SIMULATED):
        times = calls(generator, n_calls, spread)
        kept, halves = middle_half(times.wall_ms), resampled_halves(times.wall_ms)
        found = [middle_interval(values, kept, halves) for values in shares(times).T]
        held += [each.low <= value <= each.high for each, value in zip(found, truth, strict=True)]
    # By chance a coverage of 95 % shows as little as this once in a thousand.
    assert (held / N_SIMULATED >= 0.95 - 3.1 * math.sqrt(0.95 * 0.05 / N_SIMULATED)).all()
    assert n_calls < 30 or (held / N_SIMULATED <= 0.99).all()


def test_a_profile_has_these_intervals():
    times = calls(np.random.default_rng(3), 30, (0.3, 0.01, 0.01, 0.01))
    found = profile_of(times, "onnxruntime 1.0", artifact="a" * 64, unprofiled_ms=1.0)
    kept, halves = middle_half(times.wall_ms), resampled_halves(times.wall_ms)
    for group, values in zip(("convolution", "quantize", "activation", "engine"), shares(times).T, strict=True):
        told = next(each for each in found.classes if each.group == group)
        expected = middle_interval(values, kept, halves)
        assert (told.share, told.low, told.high) == pytest.approx((expected.value, expected.low, expected.high))
        assert expected.n == found.n_runs == 16


def test_of_few_calls_all_count():
    durations = np.array([5.0, 1.0, 2.0, 3.0, 4.0, 6.0, 7.0])
    assert list(middle_half(durations)) == list(range(7))
    assert resampled_halves(durations) is None
    assert middle_mean(durations) == pytest.approx(4.0)


def test_calls_that_do_not_differ_leave_no_doubt_and_the_same_calls_the_same_interval():
    durations = np.full(12, 3.0)
    kept, halves = middle_half(durations), resampled_halves(durations)
    found = middle_interval(np.full(12, 0.5), kept, halves)
    assert (found.value, found.low, found.high, found.n) == (0.5, 0.5, 0.5, 6)
    noisy = np.random.default_rng(0).random(12)
    assert middle_interval(noisy, kept, halves) == middle_interval(noisy, kept, resampled_halves(durations))


def test_values_that_are_no_numbers_are_refused():
    durations = np.arange(12.0)
    with pytest.raises(SettingError, match="finite"):
        middle_interval(np.full(12, np.nan), middle_half(durations), resampled_halves(durations))
