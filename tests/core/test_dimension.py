"""Intrinsic dimension: manifolds of known dimension, invariances, the peer's numbers, hostile clouds.

The band of an estimate on n points: its standard error is about 1.25 d / sqrt(m) with m the ratios (TwoNN) or points
(Levina-Bickel, less) used, of which 4 are allowed on each side. Below, high dimensions read too
low by a share that grows about as d does at a given n (1.2 % of d for TwoNN, 1.6 % for k = 20, which looks farther;
measured on balls, the worst of the shapes here because of their border). A few per cent more are for what bends.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dwindle.core.dimension import Bootstrap, IntrinsicDimension, levina_bickel, pca, two_nn
from dwindle.errors import DataError, SettingError

N = 1500
ALL = [two_nn, levina_bickel, pca]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(n: int, d: int, *, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=generator(seed), dtype=torch.float64)


def uniform(n: int, d: int, *, seed: int = 0) -> Tensor:
    return torch.rand(n, d, generator=generator(seed), dtype=torch.float64)


def sphere(d: int) -> Tensor:
    return torch.nn.functional.normalize(normal(N, d + 1), dim=1)


def ball(d: int) -> Tensor:
    return torch.nn.functional.normalize(normal(N, d), dim=1) * uniform(N, 1, seed=1) ** (1.0 / d)


def swiss_roll() -> Tensor:
    angle, height = 1.5 * math.pi * (1.0 + 2.0 * uniform(N, 1)), 21.0 * uniform(N, 1, seed=1)
    return torch.cat([angle * angle.cos(), height, angle * angle.sin()], dim=1)


def helix() -> Tensor:
    angle = 6.0 * math.pi * uniform(N, 1)
    return torch.cat([angle.cos(), angle.sin(), angle / 5.0], dim=1)


def torus(d: int) -> Tensor:
    angles = 2.0 * math.pi * uniform(N, d)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def sines(d: int) -> Tensor:
    """Return a cube bent into 60 coordinates."""
    return torch.sin(uniform(N, d) @ normal(d, 60, seed=1))


def noisy(d: int) -> Tensor:
    """Return a ball in 30 coordinates with noise far below the distance of neighbours."""
    return torch.cat([ball(d), torch.zeros(N, 30 - d)], dim=1) + 1e-4 * normal(N, 30, seed=2)


def uneven(d: int) -> Tensor:
    """Return a cube whose density varies by a factor of ten and more along each side."""
    return uniform(N, d) ** 2


def heavy(d: int) -> Tensor:
    """Return a cloud with exponential tails, bent a little."""
    tails = -uniform(N, d).log()
    return torch.cat([tails, torch.sin(tails)], dim=1)


MANIFOLDS: list[tuple[Callable[..., Tensor], int]] = [
    *((ball, d) for d in (1, 2, 3, 5, 8, 12, 16, 20)),
    *((normal, d) for d in (1, 4, 10, 20)),
    *((sphere, d) for d in (1, 2, 6, 15)),
    *((sines, d) for d in (2, 5, 9, 14)),
    *((torus, d) for d in (2, 4)),
    *((noisy, d) for d in (2, 7)),
    *((uneven, d) for d in (1, 3, 6)),
    *((heavy, d) for d in (2, 4)),
    (swiss_roll, 2),
    (helix, 1),
]


def points_of(shape: Callable[..., Tensor], d: int) -> Tensor:
    if shape is normal:
        return normal(N, d)
    return shape() if shape in {swiss_roll, helix} else shape(d)


def assert_inside(value: float, d: int, *, error: float, bias: float) -> None:
    assert d * (1.0 - bias * d - 0.03 - 4.0 * error) <= value <= d * (1.0 + 0.03 + 4.0 * error)


@pytest.mark.parametrize(("shape", "d"), MANIFOLDS, ids=[f"{shape.__name__}-{d}" for shape, d in MANIFOLDS])
def test_manifolds_of_known_dimension(shape: Callable[..., Tensor], d: int) -> None:
    points = points_of(shape, d)
    error = 1.25 / math.sqrt(0.9 * N)
    assert_inside(two_nn(points).value, d, error=error, bias=0.012)
    assert_inside(levina_bickel(points).value, d, error=error, bias=0.016)


@pytest.mark.parametrize("d", [1, 3, 8, 20])
def test_the_other_fit_and_the_other_average(d: int) -> None:
    points = ball(d)
    error = 1.25 / math.sqrt(0.9 * N)
    assert_inside(two_nn(points, fit="linear").value, d, error=1.1 * error, bias=0.012)
    assert_inside(levina_bickel(points, average="mean").value, d, error=error, bias=0.016)


@pytest.mark.parametrize("d", [1, 2, 7, 20])
def test_flat_clouds_have_as_many_components(d: int) -> None:
    flat = normal(400, d) @ normal(d, 50, seed=1) + 5.0
    assert pca(flat, explained_variance=1.0).value == d
    assert pca(flat.T.contiguous(), explained_variance=1.0).value == min(d, 49)


# Known numbers ------------------------------------------------------------------------------------------------------


def sheet() -> Tensor:
    i = np.arange(60)
    a, b, c = ((factor * i) % 1 for factor in (0.6180339887498949, 0.7548776662466927, 0.5698402909980532))
    return torch.from_numpy(np.stack([a, b, c, np.sin(5 * a), np.cos(3 * b) * a], axis=1))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda x: two_nn(x, fit="linear"), 2.3206843538957993),  # TwoNN()
        (lambda x: two_nn(x, fit="linear", discarded=0.25), 1.982078693516285),  # TwoNN(discard_fraction=0.25)
        (two_nn, 2.2993967979481917),  # TwoNN(method="mle")
        (lambda x: two_nn(x, discarded=0.0), 2.475939652242732),  # TwoNN(method="mle", discard_fraction=0)
        (lambda x: levina_bickel(x, n_neighbours=10), 2.7537341484303326),  # MLE(), n_neighbors=10, comb="mle"
        (levina_bickel, 2.424212081740693),  # MLE(), n_neighbors=20, comb="mle"
        # MLE(unbiased=True), n_neighbors=10, comb="mean"
        (lambda x: levina_bickel(x, n_neighbours=10, average="mean"), 2.869517023035451),
    ],
)
def test_scikit_dimension_0_5_0_says_the_same(ours: Callable[[Tensor], IntrinsicDimension], theirs: float) -> None:
    assert ours(sheet()).value == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize(("share", "n"), [(0.5, 1), (0.8, 2), (0.9, 3), (0.95, 3), (0.99, 5), (0.999, 5)])
def test_scikit_dimension_0_5_0_counts_the_same_components(share: float, n: int) -> None:
    assert pca(sheet(), explained_variance=share).value == n  # lPCA(ver="ratio", alphaRatio=share)


@pytest.mark.parametrize("discarded", [0.0, 0.1, 0.5])
def test_the_linear_fit_is_least_squares_through_the_origin(discarded: float) -> None:
    points = normal(200, 3)
    distances = torch.cdist(points, points).sort(1).values
    logs = np.sort(np.log((distances[:, 2] / distances[:, 1]).numpy()))
    n_kept = min(round(200 * (1 - discarded)), 199)
    heights = -np.log(1 - np.arange(1, n_kept + 1) / 200)
    slope = np.linalg.lstsq(logs[:n_kept, None], heights, rcond=None)[0][0]
    assert two_nn(points, fit="linear", discarded=discarded).value == pytest.approx(slope, rel=1e-9)


def test_three_points_on_a_line_by_hand() -> None:
    found = two_nn(torch.tensor([[0.0], [1.0], [3.0]]), discarded=0.0)  # ratios 3, 2, 3/2
    assert found.value == pytest.approx(2.0 / math.log(9.0))
    assert (found.n_points, found.n_duplicates, found.low, found.high) == (3, 0, None, None)


@pytest.mark.parametrize(("n", "d"), [(200, 6), (6, 200), (30, 30)])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
def test_components_are_those_of_the_singular_values(n: int, d: int, share: float) -> None:
    points = normal(n, d) * torch.linspace(0.1, 3.0, d, dtype=torch.float64) + 100.0
    variances = np.linalg.svd((points - points.mean(0)).numpy(), compute_uv=False) ** 2
    held = np.cumsum(variances) / variances.sum()
    assert pca(points, explained_variance=share).value == 1 + (held < share).sum()


def test_equal_variances_give_the_whole_number() -> None:
    corners = torch.cat([torch.eye(4), -torch.eye(4)])
    assert [pca(corners, explained_variance=share).value for share in (0.25, 0.5, 0.75, 1.0)] == [1, 2, 3, 4]


def test_the_cloud_may_be_larger_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    wide, tall = normal(20, 500), normal(500, 20)
    whole = [estimate(points).value for estimate in (two_nn, pca) for points in (wide, tall)]
    for name in ("cloud.BLOCK", "neighbours.BLOCK", "distance_bounds.BLOCK", "dimension._STRIP"):
        monkeypatch.setattr(f"dwindle.core.{name}", 64)
    parts = [estimate(points).value for estimate in (two_nn, pca) for points in (wide, tall)]
    assert parts == pytest.approx(whole, rel=1e-9)


# Laws ---------------------------------------------------------------------------------------------------------------

clouds = st.builds(
    lambda n, d, seed: normal(n, d, seed=seed), st.integers(30, 60), st.integers(1, 6), st.integers(0, 9)
)


@pytest.mark.parametrize("estimate", ALL)
@given(points=clouds, shift=st.floats(-1e3, 1e3), exponent=st.integers(-30, 30), seed=st.integers(0, 9))
@settings(max_examples=10)
def test_moved_turned_scaled_and_shuffled(
    estimate: Callable[..., IntrinsicDimension], points: Tensor, shift: float, exponent: int, seed: int
) -> None:
    value = estimate(points).value
    turn = torch.linalg.qr(normal(points.shape[1], points.shape[1], seed=seed)).Q
    order = torch.randperm(len(points), generator=generator(seed))
    assert estimate((points @ turn + shift)[order] * 10.0**exponent).value == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("estimate", ALL)
@given(points=clouds, more=st.integers(1, 40), constant=st.sampled_from([0.0, 1.0, -1e3]), seed=st.integers(0, 9))
@settings(max_examples=10)
def test_more_coordinates_around_the_same_cloud(
    estimate: Callable[..., IntrinsicDimension], points: Tensor, more: int, constant: float, seed: int
) -> None:
    value = estimate(points).value
    d = points.shape[1]
    padded = torch.cat([points, torch.full((len(points), more), constant, dtype=torch.float64)], dim=1)
    assert estimate(padded).value == pytest.approx(value, rel=1e-6)
    turned = padded @ torch.linalg.qr(normal(d + more, d + more, seed=seed)).Q
    assert estimate(turned).value == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("estimate", [two_nn, levina_bickel])
@given(points=clouds, repeated=st.lists(st.integers(0, 29), min_size=1, max_size=20))
@settings(max_examples=10)
def test_identical_points_count_once(
    estimate: Callable[..., IntrinsicDimension], points: Tensor, repeated: list[int]
) -> None:
    once, again = estimate(points), estimate(torch.cat([points, points[repeated]]))
    assert again.value == pytest.approx(once.value, rel=1e-12)
    assert again.n_duplicates == len(repeated)
    assert again.n_points == len(points) + len(repeated)


def test_pca_weighs_identical_points_as_often_as_they_occur() -> None:
    points = torch.cat([10.0 * torch.eye(3)[:1], -10.0 * torch.eye(3)[:1], torch.eye(3)[1:], -torch.eye(3)[1:]])
    assert pca(points, explained_variance=0.97).value == 1
    assert pca(torch.cat([points, points]), explained_variance=0.97).value == 1
    heavier = torch.cat([points, points[2:].repeat(50, 1)])
    assert pca(heavier, explained_variance=0.97).value == 3


@pytest.mark.parametrize("estimate", ALL)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_floats_are_taken_at_their_value(
    estimate: Callable[..., IntrinsicDimension], dtype: torch.dtype
) -> None:
    points = (4.0 * normal(80, 5)).to(dtype)
    assert estimate(points).value == pytest.approx(estimate(points.double()).value, rel=1e-9)


@pytest.mark.parametrize("estimate", ALL)
@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_no_scale_is_too_small_or_large(estimate: Callable[..., IntrinsicDimension], scale: float) -> None:
    points = normal(60, 4)
    assert estimate(points * scale).value == pytest.approx(estimate(points).value, rel=1e-9)


@pytest.mark.parametrize("estimate", ALL)
def test_float32_at_the_ends_of_its_range(estimate: Callable[..., IntrinsicDimension]) -> None:
    points = normal(60, 4).float()
    for scale in (1e-30, 1e30):
        assert estimate(points * scale).value == pytest.approx(estimate(points).value, rel=1e-4)


# Intervals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", ["likelihood", "linear"])
def test_an_interval_holds_the_estimate_and_repeats_itself(fit: str) -> None:
    points = normal(300, 3)
    first, second = (two_nn(points, fit=fit, interval=Bootstrap(n_resamples=300, seed=4)) for _ in range(2))
    assert first == second
    assert first.low < first.value < first.high
    assert first != two_nn(points, fit=fit, interval=Bootstrap(n_resamples=300, seed=5))
    half_width = (first.high - first.low) / 2.0 / first.value
    assert 1.6 * 1.25 / math.sqrt(300) * 0.8 < half_width < 2.4 * 1.25 / math.sqrt(300) * 1.2  # about 1.96 errors


def test_a_higher_level_is_wider_and_more_points_are_narrower() -> None:
    def width(n: int, level: float) -> float:
        found = two_nn(normal(n, 3), interval=Bootstrap(n_resamples=300, level=level))
        return found.high - found.low

    assert width(300, 0.5) < width(300, 0.95)
    assert width(1200, 0.95) < 0.7 * width(300, 0.95)


def test_one_group_of_points_has_no_interval() -> None:
    points = torch.tensor([[0.0], [1.0], [2.5], [4.5]])
    assert two_nn(points, discarded=0.0).value > 0
    with pytest.raises(DataError, match=r"4 distinct points fall into 1 group .* needs 2: give more points"):
        two_nn(points, discarded=0.0, interval=Bootstrap())


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    two_nn(normal(50, 2), interval=Bootstrap(n_resamples=40))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_default_device_is_that_of_the_points() -> None:
    points = normal(50, 2)
    wanted = [estimate(points).value for estimate in ALL], two_nn(points, interval=Bootstrap(n_resamples=40))
    with torch.device("meta"):  # any other device than that of the points
        assert (
            [estimate(points).value for estimate in ALL],
            two_nn(points, interval=Bootstrap(n_resamples=40)),
        ) == wanted


@pytest.mark.slow
def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    held = 0
    for seed in range(200):
        angles = 2.0 * math.pi * uniform(400, 2, seed=seed)  # a torus has no border
        points = torch.cat([angles.cos(), angles.sin()], dim=1)
        found = two_nn(points, interval=Bootstrap(n_resamples=300, seed=seed))
        held += found.low <= 2.0 <= found.high
    assert 0.90 <= held / 200 <= 0.99  # 0.945; 0.855 if points that share distances were drawn apart


@pytest.mark.parametrize("fit", ["likelihood", "linear"])
@pytest.mark.parametrize(("n", "discarded"), [(8, 0.0), (8, 0.3), (5, 0.6), (8, 0.7)])
def test_tiny_clouds_have_intervals(n: int, discarded: float, fit: str) -> None:
    found = two_nn(normal(n, 2), fit=fit, discarded=discarded, interval=Bootstrap(n_resamples=50))
    assert found.low <= found.value <= found.high


# Hostile clouds -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimate", ALL)
@pytest.mark.parametrize("n", [1, 2, 50])
def test_one_distinct_point_has_no_dimension(estimate: Callable[..., IntrinsicDimension], n: int) -> None:
    found = estimate(torch.full((n, 7), 3.7))
    assert (found.value, found.n_points, found.n_duplicates) == (0.0, n, n - 1)


def test_one_distinct_point_has_an_interval_if_one_is_asked_for() -> None:
    found = two_nn(torch.ones(5, 2), interval=Bootstrap())
    assert (found.low, found.high) == (0.0, 0.0)


def test_two_distinct_points_are_a_line_for_pca_alone() -> None:
    points = torch.tensor([[0.0, 1.0], [2.0, 3.0], [0.0, 1.0]])
    assert pca(points).value == 1
    with pytest.raises(DataError, match="3 points, of which 2 are distinct, are too few for 2 neighbours"):
        two_nn(points)
    with pytest.raises(DataError, match="too few for 20 neighbours each; give at least 21 distinct points"):
        levina_bickel(points)


def test_all_but_nothing_may_not_be_discarded() -> None:
    with pytest.raises(DataError, match=r"of 10 distinct points 1 ratios are left after discarding 0\.9"):
        two_nn(normal(10, 2), discarded=0.9)
    assert two_nn(normal(10, 2), discarded=0.8).value > 0.0


@pytest.mark.parametrize("fit", ["likelihood", "linear"])
def test_a_lattice_has_no_ratios(fit: str) -> None:
    axis = torch.arange(10.0)
    with pytest.raises(DataError, match=r"as far from their second neighbour as from their first.*lattice.*use pca"):
        two_nn(torch.cartesian_prod(axis, axis), fit=fit)


def test_points_all_equally_far_from_each_other_have_no_dimension() -> None:
    for average in ("harmonic", "mean"):
        with pytest.raises(DataError, match="nearest neighbours of a point are all equally far"):
            levina_bickel(torch.eye(30), average=average)
    with pytest.raises(DataError, match="as on a lattice"):
        two_nn(torch.eye(30))
    assert pca(torch.eye(30), explained_variance=1.0).value == 29


def test_one_star_spoils_the_plain_mean_only() -> None:
    star = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    points = torch.cat([star, 50.0 + normal(40, 2)])
    with pytest.raises(DataError, match="average='harmonic'"):
        levina_bickel(points, n_neighbours=3, average="mean")
    assert 0.5 < levina_bickel(points, n_neighbours=3).value < 5.0


def test_dead_units_and_most_points_equal() -> None:
    points = torch.zeros(500, 64)
    points[:40, :5] = normal(40, 5).float()
    found = two_nn(points)
    assert found.n_duplicates == 459
    assert 2.0 < found.value < 8.0


@pytest.mark.parametrize("estimate", ALL)
def test_one_absurd_outlier_keeps_the_answer_finite(estimate: Callable[..., IntrinsicDimension]) -> None:
    points = normal(100, 3)
    points[0] = 1e300
    assert 0.0 < estimate(points).value < 6.0


@pytest.mark.parametrize("estimate", ALL)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(estimate: Callable[..., IntrinsicDimension], bad: float) -> None:
    points = normal(30, 3)
    points[4, 2] = bad
    with pytest.raises(DataError, match="1 of 30 points hold NaN or infinity"):
        estimate(points)


@pytest.mark.parametrize("estimate", ALL)
@pytest.mark.parametrize("points", [torch.zeros(0, 4), torch.zeros(4), torch.zeros(9, 2, dtype=torch.int32)])
def test_no_table_of_floats_is_refused(estimate: Callable[..., IntrinsicDimension], points: Tensor) -> None:
    with pytest.raises(DataError, match="points"):
        estimate(points)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        (lambda x: two_nn(x, fit="mle"), "fit must be one of likelihood, linear, got 'mle'"),
        (lambda x: two_nn(x, discarded=1.0), r"share in \[0, 1\), got 1.0"),
        (lambda x: two_nn(x, discarded=-0.1), r"share in \[0, 1\), got -0.1"),
        (lambda x: two_nn(x, discarded=math.nan), "got nan"),
        (lambda x: levina_bickel(x, n_neighbours=2), "at least 3, got 2"),
        (lambda x: levina_bickel(x, average="median"), "one of harmonic, mean, got 'median'"),
        (lambda x: pca(x, explained_variance=0.0), r"\(0, 1\], such as 0.95, got 0.0"),
        (lambda x: pca(x, explained_variance=95), "got 95"),
        (lambda _: Bootstrap(n_resamples=39), "39 resamples leave none outside an interval of level 0.95.*at least 40"),
        (lambda _: Bootstrap(level=0.999), "must be at least 2000"),
        (lambda _: Bootstrap(level=95.0), r"\(0, 1\), such as 0.95, got 95.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings_: Callable[[Tensor], object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        settings_(normal(30, 2))
