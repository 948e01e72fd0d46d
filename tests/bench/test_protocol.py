"""This file tests the latency protocol against a fake clock: no test here waits."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwindle.artifact import Artifact
from dwindle.bench.protocol import LatencyProtocol, Timing, quantile_interval, time_action
from dwindle.core.statistics import mean_interval
from dwindle.errors import MeasurementError, SettingError
from dwindle.runtimes.fake import FakeClock, FakeRuntime

ANY_FILE = Artifact(path=Path("any.dwn"), format="dwn", sha256="0" * 64, size_bytes=1)
INPUT = np.zeros((1, 2), dtype=np.float32)


def action_of(runtime: FakeRuntime) -> Callable[[], object]:
    with runtime.load(ANY_FILE) as session:
        return lambda: session.run(INPUT)


@pytest.mark.parametrize("noise", [0.05, 0.3])
def test_the_interval_covers_the_true_latency_at_its_level(noise: float) -> None:
    n_trials, truth = 400, 3.0
    n_covered = 0
    for seed in range(n_trials):
        runtime = FakeRuntime(latency_ms=truth, noise=noise, seed=seed)
        timing = time_action(action_of(runtime), LatencyProtocol(), clock=runtime.clock)
        assert timing.is_stable
        n_covered += timing.mean.low <= truth <= timing.mean.high
    # Four binomial standard deviations below 0.95, and 0.02 for the skew of the noise and for stopping early.
    assert n_covered / n_trials >= 0.95 - 0.02 - 4 * math.sqrt(0.05 * 0.95 / n_trials)
    assert n_covered < n_trials


@given(st.lists(st.floats(0.01, 1000), min_size=3, max_size=40))
def test_the_interval_of_a_mean_ends_at_the_shortest_run(samples: list[float]) -> None:
    timing = Timing(samples_ms=tuple(samples), level=0.95, stopped_by="time")
    assert timing.mean.low == max(min(samples), mean_interval(samples).low)
    assert timing.mean.high == mean_interval(samples).high


@given(latency=st.floats(1e-3, 1e3), n_warmup=st.integers(0, 20), min_repeats=st.integers(3, 50))
def test_without_noise_the_latency_is_exact_and_the_fewest_runs_suffice(
    latency: float, n_warmup: int, min_repeats: int
) -> None:
    runtime = FakeRuntime(latency_ms=latency)
    protocol = LatencyProtocol(
        n_warmup=n_warmup, min_repeats=min_repeats, enough_repeats=min_repeats, seconds=1e9, enough_seconds=1e9, block=1
    )
    timing = time_action(action_of(runtime), protocol, clock=runtime.clock)
    assert timing.mean.value == pytest.approx(latency, rel=1e-6)
    assert len(timing.samples_ms) == min_repeats
    assert runtime.clock() == pytest.approx((n_warmup + min_repeats) * latency / 1e3)
    assert timing.is_stable


def test_it_stops_as_soon_as_the_interval_is_narrow_and_not_before() -> None:
    runtime = FakeRuntime(latency_ms=1.0, noise=0.5)
    protocol = LatencyProtocol(enough_repeats=1)
    timing = time_action(action_of(runtime), protocol, clock=runtime.clock)
    assert timing.mean.half_width <= 0.05 * timing.mean.value
    assert len(timing.samples_ms) % protocol.block == 0
    before = type(timing)(samples_ms=timing.samples_ms[: -protocol.block], level=0.95, stopped_by="")
    assert before.mean.half_width > 0.05 * before.mean.value


@pytest.mark.parametrize(
    ("latency_ms", "limits", "n"),
    [
        pytest.param(1.0, {}, 300, id="enough runs"),
        pytest.param(20.0, {}, 95, id="enough seconds, the warm-up among them"),
        pytest.param(200.0, {}, 30, id="never fewer than the fewest"),
        pytest.param(1.0, {"max_repeats": 32}, 32, id="the limit of runs comes first"),
        pytest.param(20.0, {"seconds": 1.01}, 46, id="the limit of time comes first"),
    ],
)
def test_a_narrow_interval_is_believed_late(latency_ms: float, limits: dict[str, float], n: int) -> None:
    runtime = FakeRuntime(latency_ms=latency_ms)
    timing = time_action(action_of(runtime), LatencyProtocol(**limits), clock=runtime.clock)  # type: ignore[arg-type]
    assert timing.is_stable
    assert len(timing.samples_ms) == n


def test_fewer_runs_than_the_fewest_are_not_stable_however_narrow() -> None:
    runtime = FakeRuntime(latency_ms=200.0)
    timing = time_action(action_of(runtime), LatencyProtocol(seconds=2.0), clock=runtime.clock)
    assert (timing.stopped_by, timing.is_stable) == ("time", False)


def test_warmup_is_not_timed() -> None:
    clock, n_runs = FakeClock(), 0

    def action() -> None:
        nonlocal n_runs
        n_runs += 1
        clock.advance(1.0 if n_runs <= 4 else 0.001)

    timing = time_action(action, LatencyProtocol(n_warmup=4), clock=clock)
    assert max(timing.samples_ms) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("limits", "stopped_by", "n"),
    [({"max_repeats": 40}, "repeats", 40), ({"seconds": 0.1}, "time", None), ({"seconds": 1e-9}, "time", 3)],
)
def test_a_limit_that_ends_it_early_is_named(limits: dict[str, float], stopped_by: str, n: int | None) -> None:
    runtime = FakeRuntime(latency_ms=1.0, noise=1.0)
    timing = time_action(action_of(runtime), LatencyProtocol(**limits), clock=runtime.clock)  # type: ignore[arg-type]
    assert timing.stopped_by == stopped_by
    assert not timing.is_stable
    assert n is None or len(timing.samples_ms) == n


def test_a_clock_that_stands_still_is_an_error() -> None:
    with pytest.raises(MeasurementError, match=r"a run took 0\.0 ms by this clock"):
        time_action(lambda: None, LatencyProtocol(), clock=FakeClock())


@pytest.mark.parametrize(
    "wrong",
    [{"level": 1.0}, {"relative_width": 0.0}, {"seconds": 0.0}, {"n_warmup": -1}, {"block": 0}, {"min_repeats": 2},
     {"min_repeats": 10, "max_repeats": 9}, {"n_rounds": 4}, {"n_pairs": 0}, {"seed": -1},
     {"enough_repeats": 0}, {"enough_seconds": math.nan}],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingError, match=r"must (lie|be)|<= min_repeats"):
        LatencyProtocol(**wrong)  # type: ignore[arg-type]


@settings(max_examples=50)
@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=60), st.sampled_from([0.5, 0.9]))
def test_a_quantile_lies_in_its_interval_and_both_are_ordinary(samples: list[float], quantile: float) -> None:
    interval, level = quantile_interval(tuple(samples), quantile)
    assert interval.value == pytest.approx(np.quantile(samples, quantile))
    assert min(samples) <= interval.low <= interval.value <= interval.high <= max(samples)
    assert 0 <= level <= 1


@pytest.mark.parametrize("quantile", [0.5, 0.9])
@pytest.mark.parametrize("n", [10, 50, 200])
def test_a_quantile_interval_covers_the_truth_at_the_level_it_states(quantile: float, n: int) -> None:
    generator = np.random.default_rng(n)
    truth = -math.log(1 - quantile)
    n_trials = 600
    intervals = [quantile_interval(tuple(generator.exponential(size=n)), quantile) for _ in range(n_trials)]
    covered = np.mean([interval.low <= truth <= interval.high for interval, _ in intervals])
    level = intervals[0][1]
    assert abs(covered - level) <= 4 * math.sqrt(0.05 * 0.95 / n_trials) + 0.02
    assert level >= 0.95 or (quantile == 0.9 and n < 36)


def test_no_samples_have_no_quantile() -> None:
    with pytest.raises(MeasurementError, match="at least one sample"):
        quantile_interval((), 0.5)
