"""This file tests neighbours among few wide points, whose distances come out of products instead of differences."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dwindle.core.cloud import Cloud
from dwindle.core.neighbours import FEW, SPARE, nearest_neighbours


def neighbours(points, k):
    cloud = Cloud.of(points)
    found = nearest_neighbours(cloud, torch.arange(len(points)), k)
    return found.distances * 2.0**cloud.exponent, found.indices


def by_differences(points, k):
    points = points.double()
    gaps = torch.stack([(points - point).square().sum(1).sqrt() for point in points])
    return gaps.fill_diagonal_(torch.inf).sort(dim=1).values[:, :k]


@given(seed=st.integers(0, 10_000), n=st.integers(12, 40), k=st.integers(1, 8), shift=st.sampled_from([0.0, 10.0, 1e3]))
def test_distances_are_those_of_differences(seed, n, k, shift):
    points = torch.randn(n, 3_000, generator=torch.Generator().manual_seed(seed)) + shift
    distances, indices = neighbours(points, k)
    assert torch.allclose(distances, by_differences(points, k), rtol=1e-8, atol=0)
    apart = torch.stack([(points.double()[i] - points.double()[row]).norm(dim=1) for i, row in enumerate(indices)])
    assert torch.allclose(apart, distances, rtol=1e-8, atol=0)


@pytest.mark.parametrize("k", [2, 5])
def test_points_equally_far_are_exactly_equally_far(k):
    distances, _ = neighbours(torch.eye(30, 5_000), k)
    assert distances.unique().numel() == 1


def test_near_pairs_beside_far_clusters_are_not_blurred():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(20, 4_000, generator=generator)
    twins = torch.cat([points, points + 1e-4 * torch.randn(20, 4_000, generator=generator), 1e4 + points])
    distances, _ = neighbours(twins, 2)
    assert torch.allclose(distances, by_differences(twins.double(), 2), rtol=1e-8, atol=0)


def test_many_points_still_take_the_quick_way():
    n = FEW * (1 + SPARE) + 1
    points = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(neighbours(points, 1)[0], by_differences(points, 1), rtol=1e-8, atol=0)
