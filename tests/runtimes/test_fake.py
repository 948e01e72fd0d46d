"""This file tests the fake runtime: what it pretends is what it does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwindle.artifact import Artifact
from dwindle.errors import SettingError
from dwindle.runtimes.fake import FakeRuntime

ANY_FILE = Artifact(path=Path("any.dwn"), format="dwn", sha256="0" * 64, size_bytes=1)


def draw(runtime: FakeRuntime, n: int) -> list[float]:
    times: list[float] = []
    with runtime.load(ANY_FILE) as session:
        for _ in range(n):
            start = runtime.clock()
            session.run(np.zeros(1))
            times.append((runtime.clock() - start) * 1e3)
    return times


@given(st.floats(1e-3, 1e4))
def test_without_noise_every_run_takes_the_stated_time(latency: float) -> None:
    assert draw(FakeRuntime(latency_ms=latency), 3) == pytest.approx([latency] * 3, rel=1e-6)


def test_mean_and_noise_are_as_stated() -> None:
    times = np.array(draw(FakeRuntime(latency_ms=7.0, noise=0.4), 20_000))
    assert times.mean() == pytest.approx(7.0, rel=0.015)
    assert times.std() / times.mean() == pytest.approx(0.4, rel=0.05)
    assert times.min() > 0


def test_a_seed_fixes_the_noise() -> None:
    assert draw(FakeRuntime(noise=0.2, seed=1), 5) == pytest.approx(draw(FakeRuntime(noise=0.2, seed=1), 5))
    assert draw(FakeRuntime(noise=0.2, seed=1), 5) != pytest.approx(draw(FakeRuntime(noise=0.2, seed=2), 5))


def test_it_answers_with_its_function_or_its_inputs() -> None:
    x = np.arange(3)
    with FakeRuntime(outputs=lambda a: (a * 2,)).load(ANY_FILE) as session:
        np.testing.assert_array_equal(session.run(x)[0], [0, 2, 4])
        assert session.input_names == ("input",)
    with FakeRuntime().load(ANY_FILE, n_threads=2) as session:
        assert session.run(x)[0] is x
    assert FakeRuntime().unavailable() is None
    assert FakeRuntime().name == "fake"


def test_outliers_are_as_many_and_as_long_as_stated() -> None:
    times = np.array(draw(FakeRuntime(latency_ms=2.0, outliers=0.1, outlier_factor=4.0), 20_000))
    assert set(np.round(times, 6)) == {2.0, 8.0}
    assert (times > 5).mean() == pytest.approx(0.1, rel=0.1)


def test_drift_follows_the_clock_of_all_who_share_it() -> None:
    runtime = FakeRuntime(drift=0.5, drift_seconds=4.0)
    assert [runtime.speed(now) for now in (0.0, 1.0, 2.0, 3.0)] == pytest.approx([1.0, 1.5, 1.0, 0.5])
    runtime.clock.advance(1.0)
    assert draw(runtime, 1) == pytest.approx([1.5])
    other = FakeRuntime(latency_ms=2.0, drift=0.5, drift_seconds=4.0, clock=runtime.clock)
    assert draw(other, 1) == pytest.approx([3.0], rel=1e-3)


@pytest.mark.parametrize(
    "wrong", [{"drift": 1.0}, {"drift": -0.1}, {"drift_seconds": 0.0}, {"outliers": 1.1}, {"outlier_factor": 0.0}]
)
def test_impossible_drifts_and_outliers_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingError, match="drift must lie in"):
        FakeRuntime(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"latency_ms": 0.0}, {"noise": -1.0}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingError, match="latency_ms must be positive and noise not negative"):
        FakeRuntime(**wrong)  # type: ignore[arg-type]
