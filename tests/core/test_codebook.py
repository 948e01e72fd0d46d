"""This file tests one-dimensional k-means against exhaustive search and against itself at every size."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dwindle.core import codebook, histogram
from dwindle.core.codebook import kmeans_1d
from dwindle.core.histogram import N_BINS, Histogram
from dwindle.core.near_optimal import MAX_POINTS, join
from dwindle.core.points import Points, lloyd
from dwindle.errors import SettingError

INITS = ["linear", "kmeans++", "random", "density", "near_optimal"]
WEIGHTS = hnp.arrays(
    np.float32, hnp.array_shapes(max_dims=2, max_side=6), elements=st.floats(-4, 4, width=32) | st.sampled_from([0, 1])
).map(torch.from_numpy)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def least_distortion(values, codebook_size):
    """Return the smallest mean squared error over all partitions of the sorted values into runs."""
    ordered = np.sort(values.double().numpy().ravel())
    size = min(codebook_size, ordered.size)
    errors = []
    for cuts in itertools.combinations(range(1, ordered.size), size - 1):
        runs = np.split(ordered, cuts)
        errors.append(sum(float(np.square(run - run.mean()).sum()) for run in runs))
    return min(errors) / ordered.size


def check_assignment(values, clustering):
    """Check what holds for every clustering: ascending centroids, nearest assignment, the stated distortion."""
    exact, centroids = values.double().flatten(), clustering.centroids.double()
    assert clustering.centroids.dtype == torch.float32
    assert (centroids.diff() >= 0).all()
    assert clustering.indices.shape == values.shape
    chosen = (exact - centroids[clustering.indices.flatten().long()]).abs()
    nearest = torch.full_like(exact, torch.inf)
    for centroid in centroids:
        nearest = torch.minimum(nearest, (exact - centroid).abs())
    assert torch.allclose(chosen, nearest, rtol=0, atol=1e-14)
    assert clustering.distortion == pytest.approx(float(chosen.square().mean()), rel=1e-5, abs=1e-20)


def check_means(values, clustering, tolerance):
    labels, exact = clustering.indices.flatten().long(), values.double().flatten()
    size = clustering.centroids.numel()
    counts = torch.bincount(labels, minlength=size)
    means = torch.bincount(labels, exact, minlength=size) / counts
    used = counts > 0
    assert torch.allclose(clustering.centroids.double()[used], means[used], rtol=0, atol=tolerance)


@given(WEIGHTS, st.integers(1, 8), st.sampled_from(INITS))
def test_every_weight_has_its_nearest_centroid_at_the_mean(values, codebook_size, init):
    clustering = kmeans_1d(values, codebook_size, init=init, generator=seeded())
    assert clustering.centroids.numel() == min(codebook_size, values.unique().numel())
    assert clustering.indices.dtype == torch.uint8
    check_assignment(values, clustering)
    check_means(values, clustering, 1e-5)


@given(hnp.arrays(np.float32, st.integers(1, 9), elements=st.floats(-4, 4, width=32)), st.integers(1, 5))
def test_near_optimal_is_optimal_on_few_weights(array, codebook_size):
    values = torch.from_numpy(array)
    found = kmeans_1d(values, codebook_size, init="near_optimal").distortion
    assert found == pytest.approx(least_distortion(values, codebook_size), rel=1e-4, abs=1e-12)


@given(WEIGHTS, st.sampled_from(INITS), st.integers(1, 8))
def test_nothing_beats_the_optimum(values, init, codebook_size):
    other = kmeans_1d(values, codebook_size, init=init, generator=seeded()).distortion
    best = kmeans_1d(values, codebook_size, init="near_optimal").distortion
    assert best <= other * (1 + 1e-5) + 1e-12


@pytest.mark.parametrize("init", INITS)
def test_the_histogram_finds_what_sorting_finds(init, monkeypatch):
    values = torch.randn(60_000, generator=seeded(1)).reshape(200, 300) * 0.05
    by_sorting = kmeans_1d(values, 16, init=init, generator=seeded())
    monkeypatch.setattr(codebook, "MAX_SORTED", 1000)
    by_histogram = kmeans_1d(values, 16, init=init, generator=seeded())
    check_assignment(values, by_histogram)
    # Random starts draw from other points, and Lloyd stalls elsewhere on 60 000 points than on bins.
    assert by_histogram.distortion == pytest.approx(by_sorting.distortion, rel=5e-3)


def test_one_step_on_the_histogram_meets_one_step_on_the_weights(monkeypatch):
    monkeypatch.setattr(codebook, "MAX_SORTED", 1000)
    values = torch.rand(50_000, generator=seeded(2))
    clustering = kmeans_1d(values, 4, n_iterations=0)
    assert clustering.centroids.tolist() == pytest.approx(np.linspace(float(values.min()), float(values.max()), 4))
    settled = kmeans_1d(values, 4)
    check_assignment(values, settled)
    check_means(values, settled, 1e-5)
    assert settled.centroids.tolist() == pytest.approx([0.125, 0.375, 0.625, 0.875], abs=0.01)


@pytest.mark.parametrize(
    "values",
    [
        torch.cat([torch.randn(5000, generator=seeded()) * 1e-3, torch.tensor([100.0])]),
        torch.cat([torch.zeros(5000), torch.randn(500, generator=seeded())]),
        torch.randn(5000, generator=seeded()) * 1e-38,
        torch.randn(5000, generator=seeded()) * 1e37,
        torch.randn(5000, generator=seeded()) * 1e-3 + 1000.0,
        torch.randint(0, 5, (5000,), generator=seeded()).float(),
        torch.randint(0, 20, (5000,), generator=seeded()).float(),
        torch.full((5000,), -2.5),
    ],
    ids=["outlier", "mostly zero", "subnormal", "huge", "offset", "few values", "twenty values", "constant"],
)
@pytest.mark.parametrize("init", ["linear", "kmeans++", "near_optimal"])
def test_hard_distributions(values, init, monkeypatch):
    by_sorting = kmeans_1d(values, 8, init=init, generator=seeded())
    monkeypatch.setattr(codebook, "MAX_SORTED", 1000)
    clustering = kmeans_1d(values, 8, init=init, generator=seeded())
    assert clustering.centroids.isfinite().all()
    scale = float(values.double().abs().max())
    chosen = clustering.centroids.double()[clustering.indices.long()]
    for each in clustering.centroids.double():
        assert ((values.double() - chosen).abs() <= (values.double() - each).abs() + 1e-12 * scale).all()
    if init == "near_optimal":
        assert clustering.distortion <= by_sorting.distortion * 1.01 + 1e-12 * scale**2


@pytest.mark.parametrize(("n_rounds", "n_iterations"), [(1, 1000), (4, 3)])
def test_work_cut_short_still_assigns_to_the_nearest(n_rounds, n_iterations, monkeypatch):
    monkeypatch.setattr(codebook, "MAX_SORTED", 1000)
    monkeypatch.setattr(histogram, "MAX_ROUNDS", n_rounds)
    values = torch.randn(20_000, generator=seeded())
    check_assignment(values, kmeans_1d(values, 16, n_iterations=n_iterations))


@pytest.mark.parametrize("n_bits", [8, 10])
def test_large_codebooks(n_bits, monkeypatch):
    values = torch.randn(30_000, generator=seeded())
    clusterings = [kmeans_1d(values, 1 << n_bits)]
    monkeypatch.setattr(codebook, "MAX_SORTED", 1000)
    clusterings.append(kmeans_1d(values, 1 << n_bits))
    for clustering in clusterings:
        assert clustering.indices.dtype == (torch.uint8 if n_bits == 8 else torch.int32)
        assert int(clustering.indices.max()) < 1 << n_bits
        check_assignment(values, clustering)


def test_one_centroid_is_the_mean(monkeypatch):
    values = torch.randn(4000, generator=seeded())
    monkeypatch.setattr(codebook, "MAX_SORTED", 1000)
    for init in INITS:
        clustering = kmeans_1d(values, 1, init=init, generator=seeded())
        assert clustering.centroids.item() == pytest.approx(values.double().mean().item(), abs=1e-6)
        assert clustering.indices.unique().tolist() == [0]


def test_an_empty_tensor_has_no_centroids():
    clustering = kmeans_1d(torch.empty(0, 3), 4)
    assert (clustering.centroids.shape, clustering.indices.shape, clustering.distortion) == ((0,), (0, 3), 0.0)


def test_an_empty_cluster_keeps_its_centroid():
    clustering = kmeans_1d(torch.tensor([0.0, 0.25, 0.5, 10.0]), 3)
    assert clustering.centroids.tolist() == pytest.approx([0.25, 5.0, 10.0])
    assert clustering.indices.tolist() == [0, 0, 0, 2]


def test_equally_near_goes_to_the_lower_centroid():
    clustering = kmeans_1d(torch.tensor([0.0, 1.0, 2.0]), 2, n_iterations=0)
    assert clustering.indices.tolist() == [0, 0, 1]
    assert kmeans_1d(torch.tensor([0.0, 1.0, 2.0]), 2).centroids.tolist() == [0.5, 2.0]


@pytest.mark.parametrize("init", ["random", "kmeans++"])
def test_the_same_seed_gives_the_same_clusters(init):
    values = torch.randn(500, generator=seeded())
    first, again, other = (
        kmeans_1d(values, 16, init=init, generator=seeded(seed), n_iterations=0) for seed in (3, 3, 4)
    )
    assert torch.equal(first.centroids, again.centroids)
    assert not torch.equal(first.centroids, other.centroids)
    assert first.centroids.unique().numel() == 16


def test_density_starts_at_quantiles():
    values = torch.arange(100.0)
    assert kmeans_1d(values, 4, init="density", n_iterations=0).centroids.tolist() == [12.0, 37.0, 62.0, 87.0]


def test_plus_plus_prefers_what_is_far():
    values = torch.cat([torch.linspace(0, 1e-3, 1000), torch.tensor([50.0, 100.0])])
    starts = kmeans_1d(values, 3, init="kmeans++", generator=seeded(), n_iterations=0).centroids
    assert starts[1:].tolist() == [50.0, 100.0]


def test_random_draws_in_proportion_to_counts():
    values = torch.cat([torch.zeros(900), torch.arange(1.0, 101.0)])
    drawn = [
        kmeans_1d(values, 1, init="random", generator=seeded(seed), n_iterations=0).centroids.item()
        for seed in range(200)
    ]
    assert 165 <= drawn.count(0.0) <= 192


def test_half_precision_and_strided_weights():
    values = torch.randn(20, 30, generator=seeded()).bfloat16().t()
    clustering = kmeans_1d(values, 4)
    check_assignment(values.float(), clustering)


def test_the_input_stays_untouched():
    values = torch.randn(3000, generator=seeded(), requires_grad=True)
    before = values.detach().clone()
    assert not kmeans_1d(values, 4).centroids.requires_grad
    assert torch.equal(values, before)


def test_joining_keeps_count_and_sum():
    points = Points.of_values(torch.randn(30_000, generator=seeded()).numpy())
    joined = join(points, MAX_POINTS)
    assert MAX_POINTS // 2 < joined.values.size <= MAX_POINTS
    assert joined.counts.sum() == points.counts.sum()
    assert joined.sums.sum() == pytest.approx(points.sums.sum())
    assert join(joined, MAX_POINTS) is joined


def test_lloyd_never_raises_the_distortion():
    values = torch.randn(2000, generator=seeded())
    points = Points.of_values(values.numpy())
    centroids, errors = np.linspace(-3, 3, 8), []
    for _ in range(30):
        errors.append(float(np.square(points.values[:, None] - centroids).min(1).mean()))
        centroids = lloyd(points, centroids, n_iterations=1)
    assert all(later <= earlier + 1e-15 for earlier, later in itertools.pairwise(errors))


@given(st.floats(-100, 100, width=32), st.floats(2.0**-80, 2.0**60, width=32))
def test_bins_never_fall_as_values_rise(low, width):
    values = (low + np.sort(np.random.default_rng(0).random(1000)) * width).astype(np.float32)
    if not values[-1] > values[0]:
        return
    bins = Histogram.of(values, float(values[0]), float(values[-1]))
    keys = bins.keys(values)
    assert (np.diff(keys) >= 0).all()
    assert keys[0] == 0
    assert keys[-1] == N_BINS - 1
    assert bins.counts.sum() == 1000
    assert bins.sums.sum() == pytest.approx(values.astype(np.float64).sum(), rel=1e-9, abs=1e-9 * width)


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        (torch.tensor([0.0, math.nan]), {}, "kmeans_1d: 1 of 2 values are NaN"),
        (torch.tensor([math.inf]), {}, "infinite"),
        (torch.tensor([1e300], dtype=torch.float64), {}, "beyond float32"),
        (torch.ones(2, dtype=torch.int64), {}, "torch.int64"),
        (torch.ones(2), {"codebook_size": 0}, "at least 1, got 0"),
        (torch.ones(2), {"n_iterations": -1}, "not be negative, got -1"),
        (torch.ones(2), {"init": "random"}, "'random' draws at random; pass generator="),
        (torch.ones(2), {"init": "kmeans++"}, "draws at random"),
        (torch.ones(2), {"init": "nearest"}, "unknown init 'nearest'; choose one of linear"),
    ],
)
def test_refusals(values, settings, message):
    size = settings.pop("codebook_size", 4)
    with pytest.raises(SettingError, match=message):
        kmeans_1d(values, size, **settings)
