from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dwindle.core.affine import fake_quantize
from dwindle.errors import DataError, NetworkError, SettingError
from dwindle.network.activations import INPUT, CallSite
from dwindle.network.capture import Captured, capture
from dwindle.network.observe import (
    Calibration,
    Histogram,
    MinMax,
    Mse,
    Percentile,
    check_batches,
    choose_quantizer,
    observe,
)

EXAMPLE = torch.zeros(2, 3)
ALL: tuple[Calibration, ...] = (MinMax(), Percentile(99.0), Mse())
SITES = (CallSite(INPUT, 0), CallSite("0", 0), CallSite("1", 0))


class Reciprocal(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 1.0 / x


@pytest.fixture(scope="module")
def captured() -> Captured:
    torch.manual_seed(0)
    return capture(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), EXAMPLE)


def _histogram(values: Tensor) -> Histogram:
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    return Histogram(low, high, torch.histc(values, bins=8192, min=low, max=high).double())


def _error(values: Tensor, calibration: Calibration) -> float:
    quantizer = choose_quantizer(_histogram(values), calibration)
    after = fake_quantize(values, quantizer.scale, quantizer.zero_point, n_bits=8, signed=False)
    return float((after - values).square().mean())


@pytest.mark.parametrize("calibration", ALL)
def test_every_watched_site_gets_a_quantizer_with_an_exact_zero(captured: Captured, calibration: Calibration) -> None:
    batches = [torch.randn(n, 3) for n in (4, 1, 7)]
    found = observe(captured, batches, sites=SITES, calibration=calibration)
    assert set(found) == set(SITES)
    for quantizer in found.values():
        assert 0 <= quantizer.zero_point <= 255
        assert (quantizer.n_bits, quantizer.signed) == (8, False)
        assert fake_quantize(torch.zeros(1), quantizer.scale, quantizer.zero_point, n_bits=8, signed=False) == 0
        assert quantizer.scale == float(torch.tensor(quantizer.scale))  # a float32, as engines have it
    assert found[SITES[2]].zero_point == 0  # after a ReLU nothing is negative


def test_min_max_clips_nothing_and_percentile_clips_what_it_says(captured: Captured) -> None:
    batches = [torch.randn(500, 3) for _ in range(4)]
    values = torch.cat(batches)
    site = SITES[0]
    widest = observe(captured, batches, sites=[site], calibration=MinMax())[site]
    assert widest.clipped_fraction == 0.0
    assert widest.scale == pytest.approx(float(values.max() - values.min()) / 255)
    narrower = observe(captured, batches, sites=[site], calibration=Percentile(95.0))[site]
    low, high = -narrower.zero_point * narrower.scale, (255 - narrower.zero_point) * narrower.scale
    assert low == pytest.approx(float(torch.quantile(values, 0.05)), abs=narrower.scale)
    assert high == pytest.approx(float(torch.quantile(values, 0.95)), abs=narrower.scale)
    assert narrower.clipped_fraction == pytest.approx(0.1, abs=0.005)


def test_clipped_fraction_is_counted_right(captured: Captured) -> None:
    values = torch.cat([torch.linspace(0, 1, 999), torch.tensor([50.0])])
    quantizer = choose_quantizer(_histogram(values), Percentile(99.0))
    beyond = (values > 255.5 * quantizer.scale).float().mean()
    assert quantizer.clipped_fraction == pytest.approx(float(beyond), abs=0.02)
    assert quantizer.clipped_fraction > 0


@settings(max_examples=8)
@given(st.integers(0, 10_000), st.floats(-2.0, 2.0), st.sampled_from([0.0, 5.0, 40.0]))
def test_mse_is_never_worse_than_min_max(seed: int, shift: float, outlier: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(4000, generator=generator) + shift
    values[0] += outlier
    assert _error(values, Mse()) <= _error(values, MinMax()) * 1.02 + 1e-9


def test_mse_gives_up_an_outlier_for_a_finer_grid() -> None:
    values = torch.cat([torch.randn(100_000), torch.tensor([30.0])])
    assert _error(values, Mse()) < 0.9 * _error(values, MinMax())
    assert choose_quantizer(_histogram(values), Mse()).clipped_fraction > 0


@settings(max_examples=5)
@given(st.integers(0, 10_000))
def test_mse_is_near_the_best_range_of_a_fine_search(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(5000, generator=generator).relu()
    top = float(values.max())
    candidates = torch.linspace(0.3, 1.0, 200) * top / 255
    errors = [float((fake_quantize(values, s, 0, n_bits=8, signed=False) - values).square().mean()) for s in candidates]
    assert _error(values, Mse()) <= 1.05 * min(errors)


@pytest.mark.parametrize("calibration", ALL)
@pytest.mark.parametrize("constant", [0.0, 3.0, -3.0, 1e-30])
def test_a_constant_activation_is_kept(calibration: Calibration, constant: float) -> None:
    network = capture(nn.Identity(), EXAMPLE)
    quantizer = observe(network, [torch.full((2, 3), constant)], sites=[CallSite(INPUT, 0)], calibration=calibration)[
        CallSite(INPUT, 0)
    ]
    after = fake_quantize(torch.tensor(constant), quantizer.scale, quantizer.zero_point, n_bits=8, signed=False)
    assert float(after) == pytest.approx(constant, rel=0.02)
    assert quantizer.clipped_fraction == 0.0


def test_the_order_and_size_of_batches_do_not_matter(captured: Captured) -> None:
    x = torch.randn(12, 3)
    whole = observe(captured, [x], sites=SITES[:1], calibration=Mse())
    parts = observe(captured, list(reversed(x.split(5))), sites=SITES[:1], calibration=Mse())
    assert whole == parts


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((torch.randn(2, 3), torch.zeros(2)), r"batch 1 is a tuple; give the inputs alone, without labels"),
        (torch.zeros(2, dtype=torch.int64), r"batch 1 is int64 \(2,\), expected"),
        (torch.randn(2, 4), r"expected \(n, 3\) of torch.float32"),
        (torch.randn(2, 3).double(), r"is float64"),
        (torch.randn(0, 3), r"batch 1 holds no inputs"),
        (torch.tensor([[0.0, torch.nan, 0.0]]), r"batch 1 holds NaN"),
        (torch.tensor(1.0), r"is float32 \(\)"),
    ],
)
def test_what_is_no_batch_of_inputs_is_refused(captured: Captured, batch: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        observe(captured, [torch.randn(2, 3), batch], sites=SITES, calibration=Mse())


def test_an_empty_calibration_is_refused(captured: Captured) -> None:
    with pytest.raises(DataError, match="calibration is empty"):
        observe(captured, [], sites=SITES, calibration=MinMax())


def test_a_generator_is_refused_where_two_passes_are_needed(captured: Captured) -> None:
    def once() -> Iterator[Tensor]:
        yield torch.randn(2, 3)

    with pytest.raises(DataError, match="generator"):
        observe(captured, once(), sites=SITES, calibration=Mse())
    assert observe(captured, once(), sites=SITES, calibration=MinMax())


def test_data_that_shrinks_between_passes_is_refused(captured: Captured) -> None:
    class Shrinking:
        n = 3

        def __iter__(self) -> Iterator[Tensor]:
            self.n -= 1
            yield from torch.randn(self.n, 2, 3)

    with pytest.raises(DataError, match="2 batches the first time and 1 the second"):
        observe(captured, Shrinking(), sites=SITES, calibration=Mse())


def test_an_activation_that_becomes_infinite_is_named() -> None:
    network = capture(Reciprocal(), torch.ones(2, 3))
    with pytest.raises(NetworkError, match="activation at :0:0 becomes NaN or infinite"):
        observe(network, [torch.zeros(2, 3)], sites=network.sites.values(), calibration=MinMax())


def test_a_graph_with_a_fixed_batch_refuses_others() -> None:
    with pytest.raises(DataError, match="accepts 2 at a time only"):
        list(check_batches([torch.randn(4, 3)], EXAMPLE, batch_size=2))


def test_progress_is_reported(captured: Captured) -> None:
    seen: list[tuple[str, int, int]] = []
    batches = [torch.randn(2, 3)] * 3
    observe(
        captured,
        batches,
        sites=SITES,
        calibration=MinMax(),
        report_progress=lambda what, done, total: seen.append((what, done, total)),
    )
    assert seen == [("calibrate", 1, 3), ("calibrate", 2, 3), ("calibrate", 3, 3)]


@pytest.mark.parametrize("p", [50.0, 101.0, -1.0])
def test_a_percentile_outside_its_range_is_refused(p: float) -> None:
    with pytest.raises(SettingError, match="p must be in"):
        Percentile(p)
