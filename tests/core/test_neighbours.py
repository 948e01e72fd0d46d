"""Nearest neighbours: equal to brute force whatever the scale, the type, the ties and the settings."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dwindle.core import distance_bounds, neighbours
from dwindle.core.cloud import Cloud, ranges
from dwindle.core.distance_bounds import CentredPoints, DistanceBounds
from dwindle.core.neighbours import groups_by_pair, nearest_neighbours
from dwindle.errors import DataError


def normal(n: int, d: int, *, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def found(points: Tensor, k: int) -> Tensor:
    cloud = Cloud.of(points)
    return nearest_neighbours(cloud, cloud.distinct(), k).distances * 2.0**cloud.exponent


def brute_force(points: Tensor, k: int) -> Tensor:
    points = points.double()
    distances = (points[:, None] - points[None]).norm(dim=2)
    return distances.fill_diagonal_(torch.inf).sort(1).values[:, :k]


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    assert ((ours - theirs).abs() <= 1e-9 * theirs).all()


@pytest.fixture(autouse=True)
def float32_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make small clouds go the way of large ones."""
    monkeypatch.setattr(neighbours, "FEW", 0)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a small cloud run through many tiles and blocks, and never be copied."""
    monkeypatch.setattr(neighbours, "TILE", 16)
    monkeypatch.setattr(neighbours, "AT_ONCE", 3)
    monkeypatch.setattr(distance_bounds, "WIDTH", 4)
    monkeypatch.setattr(distance_bounds, "_COPIED", 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "d", "k"), [(2, 1, 1), (3, 1, 2), (50, 3, 5), (40, 90, 39), (130, 7, 2)])
def test_every_shape_and_type_equals_brute_force(n: int, d: int, k: int, dtype: torch.dtype) -> None:
    points = (normal(n, d) + torch.arange(n)[:, None]).to(dtype)  # apart in 8 bits, too
    assert_same(found(points, k), brute_force(points, k))


@pytest.mark.parametrize("d", [3, 400])
def test_few_points_are_settled_in_float64(monkeypatch: pytest.MonkeyPatch, d: int) -> None:
    monkeypatch.setattr(neighbours, "FEW", 64)
    points = normal(80, d)
    assert_same(found(points, 20), brute_force(points, 20))


@pytest.mark.parametrize("offset", [0.0, 1e9])
def test_indices_are_those_of_the_distances(offset: float) -> None:
    points = normal(90, 4)
    points[:45] += offset
    cloud = Cloud.of(torch.cat([points[:1], points]))  # the duplicate is not counted
    which = cloud.distinct()
    near = nearest_neighbours(cloud, which, 5)
    apart = (points[:, None] - points[near.indices]).norm(dim=2)
    assert_same(near.distances * 2.0**cloud.exponent, apart)
    assert_same(apart, brute_force(points, 5))


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(("n", "d"), [(15, 3), (16, 4), (17, 5), (33, 10), (100, 30)])
def test_tiles_and_blocks_cover_every_pair_once(n: int, d: int) -> None:
    points = normal(n, d)
    assert_same(found(points, 4), brute_force(points, 4))


@given(
    st.lists(st.lists(st.integers(-3, 3), min_size=2, max_size=2), min_size=3, max_size=40, unique_by=tuple),
    st.integers(-90, 90),
)
def test_lattices_full_of_ties_equal_brute_force(rows: list[list[int]], exponent: int) -> None:
    points = torch.tensor(rows, dtype=torch.float64) * 2.0**exponent
    k = min(3, len(points) - 1)
    assert_same(found(points, k), brute_force(points, k))


@pytest.mark.parametrize("offset", [1e3, 1e7])
@pytest.mark.parametrize("spread", [1.0, 1e-5])
def test_tight_clusters_far_apart_keep_their_digits(offset: float, spread: float) -> None:
    centres = offset * normal(4, 20, seed=1)
    points = (centres[:, None] + spread * normal(200, 20).reshape(4, 50, 20)).reshape(200, 20)
    assert_same(found(points, 3), brute_force(points, 3))


def test_one_point_far_away_does_not_blur_the_others() -> None:
    points = normal(80, 5)
    points[7] = 1e15
    ours, theirs = found(points, 2), brute_force(points, 2)
    assert_same(ours, theirs)


def test_points_that_nothing_settles_are_compared_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    among_all = neighbours._Search.among_all

    def spied(self: neighbours._Search, i: int) -> neighbours.Neighbours:
        compared.append(i)
        return among_all(self, i)

    monkeypatch.setattr(neighbours._Search, "among_all", spied)
    points = torch.cat([torch.zeros(30, 3, dtype=torch.float64), torch.ones(30, 3, dtype=torch.float64)])
    points += 1e-12 * normal(60, 3)
    points[30:] -= 1e-13
    assert_same(found(points, 2), brute_force(points, 2))
    assert compared
    assert set(compared) <= set(range(60))


def test_float32_settles_an_ordinary_cloud_alone() -> None:
    cloud = Cloud.of(normal(300, 40).float())
    search = neighbours._Search(CentredPoints.of(cloud, cloud.distinct()), 2)
    _, settled = search.among_candidates(torch.arange(300), torch.float32)
    assert settled.all()


def test_bfloat16_settles_an_ordinary_cloud_alone() -> None:
    cloud = Cloud.of(normal(300, 40).float())
    search = neighbours._Search(CentredPoints.of(cloud, cloud.distinct()), 2)
    _, settled = search.among_candidates(torch.arange(300), torch.bfloat16)
    assert settled.all()


@pytest.mark.parametrize("first", [torch.bfloat16, torch.float32])
def test_far_points_leave_the_rest_to_more_bits(first: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_roundings", lambda device: (first, torch.float32, torch.float64))
    points = normal(100, 20)
    points[:3] *= 1e6
    points[50:] += 1e4  # two clusters: whatever the centre is, half of the points are far from it
    assert_same(found(points, 3), brute_force(points, 3))


def test_products_are_set_back_to_what_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    read = DistanceBounds._read

    def spied(self: DistanceBounds, points: Tensor | slice, coordinates: slice) -> Tensor:
        seen.append(torch.backends.mkldnn.matmul.fp32_precision)
        return read(self, points, coordinates)

    monkeypatch.setattr(DistanceBounds, "_read", spied)
    monkeypatch.setattr(neighbours, "_roundings", lambda device: (torch.bfloat16, torch.float64))
    before = torch.backends.mkldnn.matmul.fp32_precision
    found(normal(50, 3), 2)
    assert "bf16" in seen
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_products_in_fewer_bits_than_asked_for_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    read = DistanceBounds._read

    def coarse(self: DistanceBounds, points: Tensor | slice, coordinates: slice) -> Tensor:
        values = read(self, points, coordinates)
        return values.bfloat16().float() if self.dtype == torch.float32 else values

    monkeypatch.setattr(DistanceBounds, "_read", coarse)  # as settings that allow TF32 or bfloat16 do
    points = normal(200, 64) + 3.0
    assert_same(found(points, 2), brute_force(points, 2))
    cloud = Cloud.of(points)
    search = neighbours._Search(CentredPoints.of(cloud, cloud.distinct()), 2)
    assert not search.among_candidates(torch.arange(200), torch.float32)[1].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_around_us_changes_nothing(dtype: torch.dtype) -> None:
    points = normal(100, 30).float()
    with torch.autocast("cpu", dtype=dtype):
        assert_same(found(points, 2), brute_force(points, 2))


@pytest.mark.parametrize("rounding", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("d", [1, 5, 300, 2000])
def test_bounds_hold_the_distances(rounding: torch.dtype, d: int) -> None:
    points = normal(60, d) * normal(60, 1, seed=2).exp() + 2.0
    cloud = Cloud.of(points)
    bounds = DistanceBounds.of(CentredPoints.of(cloud, cloud.distinct()), rounding)
    tile = bounds.lower([(torch.arange(60), slice(10, 60))], torch.empty(1, 64, 64, dtype=bounds.dtype))[0]
    assert tile[60:].isposinf().all()
    assert tile[:, 50:].isposinf().all()
    lower = tile[:60, :50].double()
    upper = bounds.upper(lower, torch.arange(60), torch.arange(10, 60).expand(60, 50))
    scaled = points * 2.0**-cloud.exponent
    exact = (scaled[:, None] - scaled[None, 10:]).square().sum(2)
    own = torch.arange(60)[:, None] == torch.arange(10, 60)
    assert lower[own].isposinf().all()
    assert ((lower <= exact) & (exact <= upper))[~own].all()


@pytest.mark.parametrize("scale", [1e-320, 1e-300, 1e-30, 1.0, 1e30, 1e300])
def test_scales_of_all_sizes(scale: float) -> None:
    points = normal(40, 6)
    scaled = points * scale
    cloud = Cloud.of(scaled)
    ratios = nearest_neighbours(cloud, cloud.distinct(), 3).distances
    wanted = brute_force(scaled / scale, 3)
    assert (ratios / ratios[0, 0] - wanted / wanted[0, 0]).abs().max() < 1e-9


def test_distinct_points_are_never_at_distance_zero() -> None:
    points = torch.tensor([[0.0], [1e-200], [1.0], [2.0]], dtype=torch.float64)
    distances = found(points, 2)
    assert (distances > 0).all()
    assert distances.isfinite().all()


def test_points_are_told_apart_by_every_bit_but_the_sign_of_zero() -> None:
    points = torch.tensor([[0.0, 1.0], [-0.0, 1.0], [0.0, 1.0 + 2**-52], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    assert Cloud.of(points).distinct().tolist() == [0, 2, 3]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_the_first_of_each_group_counts(labels: list[int]) -> None:
    points = torch.tensor(labels, dtype=torch.float32)[:, None].repeat(1, 3)
    assert Cloud.of(points).distinct().tolist() == sorted(labels.index(label) for label in set(labels))


@pytest.mark.parametrize("d", [32, 33, 100, 1000])
def test_points_that_differ_in_one_coordinate_are_distinct(d: int) -> None:
    points = torch.zeros(d + 2, d)
    points[:d] += torch.eye(d)  # each alike to most others in whatever coordinates are looked at
    assert Cloud.of(points).distinct().tolist() == list(range(d + 1))


def test_blocks_are_those_of_the_points_at_any_stride() -> None:
    points = normal(12, 9).T
    cloud = Cloud.of(points)
    rows = torch.tensor([5, 0, 5])
    assert torch.equal(cloud.block(rows, slice(2, 7)) * 2.0**cloud.exponent, points[rows, 2:7])
    assert cloud.block(slice(None)).abs().max() <= 0.5


def test_the_points_stay_as_they_were() -> None:
    points = normal(30, 4).requires_grad_()
    before = points.detach().clone()
    assert not found(points, 2).requires_grad
    assert torch.equal(points, before)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_what_is_not_finite_is_refused_with_its_count(bad: float, dtype: torch.dtype) -> None:
    points = normal(20, 3).to(dtype)
    points[3, 1] = points[9] = bad
    with pytest.raises(DataError, match=r"2 of 20 points hold NaN or infinity.*leave them out"):
        Cloud.of(points)


@pytest.mark.parametrize(
    "points",
    [torch.zeros(5), torch.zeros(2, 3, 4), torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, 2).to_sparse()],
    ids=["vector", "maps", "integers", "sparse"],
)
def test_what_is_no_table_of_floats_is_refused(points: Tensor) -> None:
    with pytest.raises(DataError, match=r"must be a dense table \(n, d\) of floats.*flatten"):
        Cloud.of(points)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_nothing_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="nothing to measure"):
        Cloud.of(torch.zeros(shape))


def test_ranges_of_nothing_are_none() -> None:
    assert list(ranges(0, 3)) == []


def test_points_that_lead_to_one_pair_are_one_group() -> None:
    nearest = torch.tensor([1, 2, 3, 2, 5, 4, 4, 8, 9, 8])
    assert groups_by_pair(nearest).tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_long_chain_is_one_group() -> None:
    n = 1000
    assert groups_by_pair(torch.tensor([1, *range(n - 1)])).unique().tolist() == [0]


def test_points_that_differ_where_few_coordinates_are_read_are_distinct():
    points = torch.zeros(4, 200)
    points[1, 1] = points[2, 199] = points[3, 199] = 1.0
    assert Cloud.of(points).distinct().tolist() == [0, 1, 2]
