"""Tests of dwindle.core.channels: sums and choices against brute force."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dwindle.core.channels import choose_kept, sum_by_channel

SCORES = st.lists(
    st.lists(st.floats(0, 100, allow_nan=False), min_size=1, max_size=12).map(lambda x: torch.tensor(x).double()),
    min_size=1,
    max_size=4,
)


@given(st.lists(st.integers(-1, 3), min_size=1, max_size=9), st.integers(0, 1))
def test_sums_are_those_of_a_loop(channels: list[int], axis: int) -> None:
    shape = (len(channels), 3) if axis == 0 else (3, len(channels))
    values = torch.arange(3 * len(channels)).reshape(shape).float()
    found = sum_by_channel(values, axis, torch.tensor(channels), n_channels=4)
    for channel in range(4):
        indices = [i for i, one in enumerate(channels) if one == channel]
        assert float(found[channel]) == float(values.index_select(axis, torch.tensor(indices, dtype=torch.int64)).sum())


@given(SCORES, st.floats(0, 0.99), st.integers(1, 8), st.sampled_from(["layer", "global"]), st.floats(0.1, 0.95))
def test_the_best_stay_and_no_group_loses_too_much(
    parts: list[torch.Tensor], ratio: float, round_to: int, scope: str, limit: float
) -> None:
    scores = {str(number): part for number, part in enumerate(parts)}
    sizes = {name: one.numel() for name, one in scores.items()}
    kept = choose_kept(
        scores, ratio, sizes=sizes, scope="layer" if scope == "layer" else "global", round_to=round_to,
        max_pruning_ratio=limit,
    )  # fmt: skip
    for name, stays in kept.items():
        n = int(stays.sum())
        assert n >= 1
        assert n == sizes[name] or n % round_to == 0
        assert n >= math.floor(sizes[name] * (1 - limit))
        if not stays.all():
            assert float(scores[name][stays].min()) >= float(scores[name][~stays].max())
        if scope == "layer" and round_to == 1:
            assert n == max(math.ceil(sizes[name] * (1 - min(ratio, limit)) - 1e-9), 1)


def test_rounds_count_from_the_first_size() -> None:
    first = choose_kept({"a": torch.arange(16.0)}, 0.25, sizes={"a": 16})["a"]
    second = choose_kept({"a": torch.arange(16.0)[first]}, 0.5, sizes={"a": 16})["a"]
    assert int(first.sum()) == 12
    assert int(second.sum()) == 8


def test_all_together_the_weaker_group_loses_more() -> None:
    scores = {"even": torch.tensor([1.0, 1.0, 1.0, 1.0]), "uneven": torch.tensor([4.0, 4.0, 0.1, 0.1])}
    kept = choose_kept(scores, 0.25, sizes={"even": 4, "uneven": 4}, scope="global")
    assert kept["even"].all()
    assert kept["uneven"].tolist() == [True, True, False, False]


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_nothing_goes_at_zero(scope: str) -> None:
    kept = choose_kept({"a": torch.zeros(5)}, 0.0, sizes={"a": 5}, scope="layer" if scope == "layer" else "global")
    assert kept["a"].all()
