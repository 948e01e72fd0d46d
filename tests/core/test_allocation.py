"""This file tests that weights are shared out in the order of scores and that the total is kept."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwindle.core.allocation import ranked_densities
from dwindle.errors import SettingError

LAYERS = st.lists(st.tuples(st.floats(-1e30, 1e30), st.integers(1, 10**7)), min_size=1, max_size=30)


@given(LAYERS, st.floats(1e-4, 1.0), st.floats(1.0, 1e4))
def test_the_total_is_kept_and_the_order_is_that_of_the_scores(
    layers: list[tuple[float, int]], density: float, ratio: float
) -> None:
    scores = {str(n): score for n, (score, _) in enumerate(layers)}
    sizes = {str(n): size for n, (_, size) in enumerate(layers)}
    found = ranked_densities(scores, sizes, density=density, ratio=ratio)
    total = sum(sizes.values())
    assert sum(found[name] * sizes[name] for name in sizes) == pytest.approx(density * total, rel=1e-6)
    assert all(0 < one <= 1 for one in found.values())
    for a, b in itertools.combinations(scores, 2):
        if scores[a] > scores[b]:
            assert found[a] >= found[b]
        if scores[a] == scores[b]:
            assert found[a] == found[b]


@given(LAYERS, st.floats(1e-4, 1.0))
def test_a_ratio_of_one_is_uniform(layers: list[tuple[float, int]], density: float) -> None:
    scores = {str(n): score for n, (score, _) in enumerate(layers)}
    sizes = {str(n): size for n, (_, size) in enumerate(layers)}
    found = ranked_densities(scores, sizes, density=density, ratio=1.0)
    assert list(found.values()) == pytest.approx([density] * len(layers), rel=1e-9)


def test_only_the_order_of_scores_counts() -> None:
    sizes = {"a": 10, "b": 200, "c": 3000}
    small = ranked_densities({"a": 1.0, "b": 2.0, "c": 3.0}, sizes, density=0.1, ratio=8.0)
    large = ranked_densities({"a": -5e9, "b": 0.0, "c": 1e-9}, sizes, density=0.1, ratio=8.0)
    assert small == large
    assert small["c"] / small["a"] == pytest.approx(8.0)


def test_what_a_full_layer_cannot_take_goes_to_the_others() -> None:
    found = ranked_densities({"a": 1.0, "b": 2.0}, {"a": 1000, "b": 10}, density=0.5, ratio=1000.0)
    assert found["b"] == 1.0
    assert found["a"] == pytest.approx((505 - 10) / 1000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"density": 0.0}, "density"),
        ({"density": 1.5}, "density"),
        ({"ratio": 0.5}, "ratio"),
        ({"ratio": float("inf")}, "ratio"),
        ({"scores": {"a": float("nan"), "b": 1.0}}, "score of 'a' is NaN"),
        ({"scores": {"a": 1.0}}, "same layers"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(change: dict[str, object], message: str) -> None:
    settings = {"scores": {"a": 1.0, "b": 2.0}, "density": 0.5, "ratio": 2.0, **change}
    with pytest.raises(SettingError, match=message):
        ranked_densities(settings.pop("scores"), {"a": 1, "b": 2}, **settings)  # pyright: ignore[reportArgumentType]
