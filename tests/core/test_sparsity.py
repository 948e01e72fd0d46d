"""This file tests which weights stay."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dwindle.core.sparsity import (
    NOfM,
    find_std_multiplier,
    global_magnitude_supports,
    lamp_supports,
    magnitude_support,
    n_of_m_support,
    n_pruned,
    std_support,
)
from dwindle.errors import SettingError

WEIGHTS = hnp.arrays(
    np.float32, hnp.array_shapes(max_dims=2, max_side=6), elements=st.floats(-2, 2, width=32) | st.sampled_from([0, 1])
).map(torch.from_numpy)
SHARES = st.floats(0, 1) | st.sampled_from([0.0, 0.5, 1.0])


def brute_force_support(values, count, within):
    """Return what a stable sort of (magnitude, position) leaves, earlier zeros ranked first."""
    magnitudes = torch.where(within, values.abs(), -1.0).flatten().tolist()
    order = sorted(range(len(magnitudes)), key=lambda i: (magnitudes[i], i))
    kept = torch.ones(len(magnitudes), dtype=torch.bool)
    kept[order[:count]] = False
    return kept.reshape(values.shape) & within


@given(WEIGHTS, SHARES, st.data())
def test_magnitude_support_is_a_stable_sort(values, sparsity, data):
    within = torch.from_numpy(data.draw(hnp.arrays(np.bool_, tuple(values.shape))))
    expected = brute_force_support(values, n_pruned(values.numel(), sparsity), within)
    assert torch.equal(magnitude_support(values, sparsity, within=within), expected)
    everywhere = torch.ones_like(within)
    expected = brute_force_support(values, n_pruned(values.numel(), sparsity), everywhere)
    assert torch.equal(magnitude_support(values, sparsity), expected)


@given(WEIGHTS, WEIGHTS, SHARES)
def test_global_supports_are_one_ranking(first, second, sparsity):
    supports = global_magnitude_supports({"b": second, "a": first}, sparsity)
    assert list(supports) == ["b", "a"]
    pooled = magnitude_support(torch.cat([first.flatten(), second.flatten()]), sparsity)
    assert torch.equal(torch.cat([supports["a"].flatten(), supports["b"].flatten()]), pooled)


def lamp_scores_by_definition(values: torch.Tensor, within: torch.Tensor) -> list[tuple[float, int]]:
    """Return (score, place) of each weight, from equation 4 of Lee et al. (2021), one weight after the other."""
    ranked = sorted((abs(float(v)), i) for i, (v, w) in enumerate(zip(values, within, strict=True)) if w)
    scores = [(-1.0, i) for i in range(len(values)) if not within[i]]
    for place, (magnitude, i) in enumerate(ranked):
        rest = sum(other * other for other, _ in reversed(ranked[place:]))
        scores.append((magnitude * magnitude / rest if rest else 0.0, i))
    return scores


@given(WEIGHTS, WEIGHTS, SHARES, st.data())
def test_lamp_is_its_definition(first, second, sparsity, data):
    weights = {"a": first.flatten(), "b": second.flatten()}
    within = {n: torch.from_numpy(data.draw(hnp.arrays(np.bool_, len(v)))) for n, v in weights.items()}
    supports = lamp_supports({"b": weights["b"], "a": weights["a"]}, sparsity, within=within)
    ranked = sorted(
        (score, name, i)
        for name, values in weights.items()
        for score, i in lamp_scores_by_definition(values, within[name])
    )
    gone = {(name, i) for _, name, i in ranked[: n_pruned(len(ranked), sparsity)]}
    for name, support in supports.items():
        expected = [bool(within[name][i]) and (name, i) not in gone for i in range(len(support))]
        assert support.tolist() == expected


def test_lamp_leaves_no_layer_empty_while_another_can_give():
    weights = {"large": torch.randn(4000), "tiny": 1e-3 * torch.randn(40)}
    assert int(global_magnitude_supports(weights, 0.99)["tiny"].sum()) == 0
    assert int(lamp_supports(weights, 0.99)["tiny"].sum()) > 10


def test_global_supports_respect_earlier_zeros():
    weights = {"a": torch.tensor([3.0, 0.1]), "b": torch.tensor([1.0, 2.0])}
    supports = global_magnitude_supports(weights, 0.5, within={"a": torch.tensor([False, True])})
    assert {name: support.tolist() for name, support in supports.items()} == {"a": [False, False], "b": [True, True]}


def test_global_supports_of_nothing():
    assert global_magnitude_supports({}, 0.5) == {}
    assert global_magnitude_supports({"a": torch.empty(0, 3)}, 0.5)["a"].shape == (0, 3)


def brute_force_n_of_m(values, n, m, within):
    """Return what is left where each m inputs of each output are ranked by (magnitude, position), zeros first."""
    kept = torch.zeros_like(within)
    n_out, n_in, *kernel = values.shape
    for output in range(n_out):
        places = [(output, channel, *offset) for offset in np.ndindex(*kernel) for channel in range(n_in)]
        for start in range(0, len(places), m):
            group = places[start : start + m]
            rank = [(float(values[p].abs()) if within[p] else -1.0, i) for i, p in enumerate(group)]
            for _, i in sorted(rank)[-n:] if n else []:
                kept[group[i]] = True
    return kept & within


KERNELS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=4, max_side=4),
    elements=st.floats(-2, 2, width=32) | st.sampled_from([0, 1]),
).map(torch.from_numpy)


@given(KERNELS, st.integers(0, 5), st.integers(1, 5), st.data())
def test_n_of_m_is_a_ranking_of_neighbours(values, n, m, data):
    n = min(n, m)
    within = torch.from_numpy(data.draw(hnp.arrays(np.bool_, tuple(values.shape))))
    support = n_of_m_support(values, n, m, within=within)
    assert torch.equal(support, brute_force_n_of_m(values, n, m, within))
    assert torch.equal(n_of_m_support(values, n, m, within=support), support)


def test_n_of_m_reads_a_convolution_channels_innermost():
    values = torch.zeros(1, 4, 1, 2)
    values[0, :, 0, 0] = torch.tensor([4.0, 3.0, 2.0, 1.0])
    values[0, :, 0, 1] = torch.tensor([10.0, 20.0, 30.0, 40.0])
    kept = n_of_m_support(values, 2, 4)
    assert kept[0, :, 0, 0].tolist() == [True, True, False, False]
    assert kept[0, :, 0, 1].tolist() == [False, False, True, True]
    assert kept.is_contiguous()


def test_a_tail_keeps_its_n_largest():
    values = torch.tensor([[1.0, 2.0, 3.0, 4.0, 1.0, 3.0, 2.0]])
    assert n_of_m_support(values, 2, 4).tolist() == [[False, False, True, True, False, True, True]]
    assert n_of_m_support(torch.ones(3, 1), 1, 4).all()
    assert n_of_m_support(torch.ones(3, 2), 1, 4).tolist() == [[False, True]] * 3
    assert n_of_m_support(torch.ones(3, 5), 2, 10**9).tolist() == [[False, False, False, True, True]] * 3
    for shape in ((0, 4), (4, 0), (2, 0, 3), (2, 3, 0)):
        assert n_of_m_support(torch.empty(shape), 2, 4).shape == shape


def test_sparsity_is_read_as_a_decimal():
    assert [n_pruned(100, s) for s in (0.57, 0.29, 0.999, 0.0, 1.0)] == [57, 29, 99, 0, 100]


@given(WEIGHTS, st.floats(0, 3))
def test_std_support_is_the_published_rule(values, std_multiplier):
    threshold = std_multiplier * float(np.std(values.numpy().astype(np.float64)))
    # The two standard deviations may differ in the last place; skip weights that lie on the threshold itself.
    clear = (values.double().abs() - threshold).abs() > 1e-9
    expected = values.double().abs() >= threshold
    assert torch.equal(std_support(values, std_multiplier)[clear], expected[clear])


def test_std_support_keeps_earlier_zeros_and_counts_them_in_the_spread():
    values, within = torch.tensor([0.0, 0.0, 1.0, -1.0]), torch.tensor([False, True, True, False])
    assert std_support(values, 0.0, within=within).tolist() == within.tolist()
    assert std_support(values, 1.4, within=within).tolist() == [False, False, True, False]  # std = sqrt(1/2)
    assert std_support(values, 1.5, within=within).tolist() == [False] * 4
    assert std_support(torch.empty(0), 1.0).shape == (0,)


@given(st.lists(WEIGHTS, min_size=1, max_size=3), SHARES)
def test_find_std_multiplier_is_as_near_as_ties_allow(tensors, sparsity):
    named = {str(i): values for i, values in enumerate(tensors)}
    target = n_pruned(sum(v.numel() for v in tensors), sparsity)

    def pruned(std_multiplier):
        return sum(int((~std_support(values, std_multiplier)).sum()) for values in tensors)

    ratios = [abs(w) / v.double().std(correction=0).item() for v in tensors if v.unique().numel() > 1
              for w in v.double().flatten().tolist()]  # fmt: skip
    reachable = {pruned(0.0)} | {pruned(ratio * (1 + 1e-9) + 1e-12) for ratio in ratios}
    best = min(abs(count - target) for count in reachable)
    # The probes above step over ratios that lie closer together than 1e-12, so the answer may be better than the best.
    assert abs(pruned(find_std_multiplier(named, sparsity)) - target) <= best


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.9, 0.95, 0.999, 1.0])
def test_find_std_multiplier_meets_the_sparsity_of_a_network(sparsity):
    generator = torch.Generator().manual_seed(0)
    tensors = {str(i): torch.randn(50_000, generator=generator) * 10.0**-i for i in range(3)}
    std_multiplier = find_std_multiplier(tensors, sparsity)
    pruned = sum(int((~std_support(values, std_multiplier)).sum()) for values in tensors.values())
    assert abs(pruned - n_pruned(150_000, sparsity)) <= 1


def test_layers_without_spread_are_left_alone():
    assert find_std_multiplier({"a": torch.ones(4)}, 0.5) == 0.0
    both = {"a": torch.ones(4), "b": torch.tensor([0.0, 0.0, 0.0, 1.0])}
    assert std_support(both["b"], find_std_multiplier(both, 1.0)).tolist() == [False] * 4
    assert std_support(both["a"], find_std_multiplier(both, 1.0)).tolist() == [True] * 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: magnitude_support(torch.ones(3), 1.5), r"in \[0, 1\], got 1.5"),
        (lambda: magnitude_support(torch.ones(3), -0.1), "got -0.1"),
        (lambda: magnitude_support(torch.ones(3), float("nan")), "got nan"),
        (lambda: magnitude_support(torch.tensor([float("nan")]), 0.5), "magnitude_support: 1 of 1 values are NaN"),
        (
            lambda: magnitude_support(torch.ones(3), 0.5, within=torch.ones(2, dtype=torch.bool)),
            r"within has shape \(2",
        ),
        (lambda: global_magnitude_supports({"w": torch.tensor([torch.inf])}, 0.5), "global_magnitude_supports: w: 1"),
        (lambda: n_of_m_support(torch.ones(3), 2, 4), r"shape \(3,\) have no axis of inputs"),
        (lambda: n_of_m_support(torch.ones(3, 3), 3, 2), "got n=3, m=2"),
        (lambda: n_of_m_support(torch.ones(3, 3), 0, 0), "got n=0, m=0"),
        (lambda: n_of_m_support(torch.full((2, 2), torch.nan), 1, 2), "n_of_m_support: 4 of 4 values are NaN"),
        (lambda: NOfM(n=4, m=4), "got n=4, m=4"),
        (lambda: NOfM(n=0), "got n=0, m=4"),
        (lambda: NOfM(n=1.5), r"whole numbers .* got n=1\.5, m=4"),
        (lambda: NOfM(n="2"), "whole numbers .* got n='2', m=4"),
        (lambda: std_support(torch.ones(3), -1.0), "not negative, got -1.0"),
        (lambda: std_support(torch.ones(3), float("inf")), "finite"),
        (lambda: find_std_multiplier({}, 0.5), "no weights to prune"),
        (lambda: find_std_multiplier({"w": torch.tensor([torch.nan])}, 0.5), "find_std_multiplier: w: 1 of 1"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(SettingError, match=message):
        call()
