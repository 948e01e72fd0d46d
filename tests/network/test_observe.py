from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dwindle.core.affine import fake_quantize
from dwindle.core.ranges import Calibration, Grid, Method, MinMax, Mse, Percentile
from dwindle.errors import DataError, NetworkError
from dwindle.network.activations import INPUT, CallSite
from dwindle.network.capture import Captured, capture
from dwindle.network.observe import check_batches, observe

EXAMPLE = torch.zeros(2, 3)
ALL: tuple[Method, ...] = (MinMax(), Percentile(99.0), Mse())
SITES = (CallSite(INPUT, 0), CallSite("0", 0), CallSite("1", 0))


class Reciprocal(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 1.0 / x


@pytest.fixture(scope="module")
def captured() -> Captured:
    torch.manual_seed(0)
    return capture(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), EXAMPLE)


@pytest.mark.parametrize("method", ALL)
def test_every_watched_site_gets_a_quantizer_with_an_exact_zero(captured: Captured, method: Method) -> None:
    batches = [torch.randn(n, 3) for n in (4, 1, 7)]
    found = observe(captured, batches, sites=SITES, calibration=Calibration(method=method)).quantizers
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
    widest = observe(captured, batches, sites=[site], calibration=Calibration(n=2000, method=MinMax())).quantizers[site]
    assert widest.clipped_fraction == 0.0
    assert widest.scale == pytest.approx(float(values.max() - values.min()) / 255)
    narrower = observe(
        captured, batches, sites=[site], calibration=Calibration(n=2000, method=Percentile(95.0))
    ).quantizers[site]
    low, high = -narrower.zero_point * narrower.scale, (255 - narrower.zero_point) * narrower.scale
    assert low == pytest.approx(float(torch.quantile(values, 0.05)), abs=narrower.scale)
    assert high == pytest.approx(float(torch.quantile(values, 0.95)), abs=narrower.scale)
    assert narrower.clipped_fraction == pytest.approx(0.1, abs=0.005)


def test_the_order_and_size_of_batches_do_not_matter(captured: Captured) -> None:
    x = torch.randn(12, 3)
    whole = observe(captured, [x], sites=SITES[:1], calibration=Calibration())
    parts = observe(captured, list(reversed(x.split(5))), sites=SITES[:1], calibration=Calibration())
    assert whole.quantizers == parts.quantizers
    assert whole.n_examples == parts.n_examples == 12


@pytest.mark.parametrize("method", ALL)
def test_no_more_than_n_examples_are_looked_at(captured: Captured, method: Method) -> None:
    first, rest = torch.randn(10, 3), 100 * torch.randn(6, 3)
    calibration = Calibration(n=10, method=method)
    found = observe(captured, torch.cat([first, rest]).split(4), sites=SITES, calibration=calibration)
    assert found.n_examples == 10
    assert found == observe(captured, first.split(4), sites=SITES, calibration=calibration)


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("sizes", [[64], [16] * 4, [7] * 9 + [1]])
def test_the_spread_is_what_subsets_would_have_given(captured: Captured, method: Method, sizes: list[int]) -> None:
    x = torch.randn(64, 3) * torch.linspace(0.2, 3.0, 64)[:, None]
    found = observe(captured, x.split(sizes), sites=SITES[:1], calibration=Calibration(method=method))
    cut = [16, 32, 64] if sizes[0] != 7 else [17, 35, 64]  # 10 batches of 7 were expected
    alone = [
        observe(captured, [x[:n]], sites=SITES[:1], calibration=Calibration(method=method)).quantizers[SITES[0]]
        for n in cut
    ]
    lows, highs = ([(end - q.zero_point) * q.scale for q in alone] for end in (0, 255))
    width = highs[-1] - lows[-1]
    expected = max(max(lows) - min(lows), max(highs) - min(highs)) / width
    assert found.spreads[SITES[0]] == pytest.approx(expected, abs=0.04)
    assert found.spreads[SITES[0]] > 0.2


def test_a_range_that_does_not_move_has_no_spread(captured: Captured) -> None:
    x = torch.randn(5, 3).repeat(20, 1)
    found = observe(captured, [x], sites=SITES, calibration=Calibration(n=100, method=MinMax()))
    assert set(found.spreads.values()) == {0.0}
    assert found.notes(100) == []


def test_examples_that_were_too_few_are_told(captured: Captured) -> None:
    growing = torch.randn(64, 3) * torch.linspace(0.1, 3.0, 64)[:, None]
    found = observe(captured, [growing], sites=SITES, calibration=Calibration(method=MinMax()))
    fewer, unsettled = found.notes(512)
    assert "hold 64 examples, fewer than n = 512" in fewer
    assert "have not settled" in unsettled
    assert str(max(found.spreads, key=lambda site: found.spreads[site])) in unsettled
    lonely = observe(captured, [torch.randn(1, 3)], sites=SITES, calibration=Calibration(n=1))
    assert lonely.notes(1) == ["so few examples cannot tell how stable the ranges are; give 100 or more"]


def test_sixteen_bit_grids_are_symmetric_and_powers_of_two_exact(captured: Captured) -> None:
    batches = [torch.randn(50, 3)]
    grid = Grid(n_bits=16, symmetric=True, power_of_two=True)
    calibration = Calibration(method=MinMax())
    for site, quantizer in observe(
        captured, batches, sites=SITES, calibration=calibration, grid=grid
    ).quantizers.items():
        free = observe(captured, batches, sites=[site], calibration=calibration, grid=Grid(n_bits=16, symmetric=True))
        assert (quantizer.zero_point, quantizer.n_bits, quantizer.signed) == (0, 16, True)
        assert math.frexp(quantizer.scale)[0] == 0.5
        assert free.quantizers[site].scale <= quantizer.scale < 2 * free.quantizers[site].scale


def test_a_graph_with_a_fixed_batch_is_given_whole_batches() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(2, 3) + torch.ones(2, 3)

    network = capture(Fixed(), EXAMPLE)
    assert not network.dynamic_batch
    found = observe(
        network, [torch.randn(2, 3) for _ in range(8)], sites=network.sites.values(), calibration=Calibration(n=5)
    )
    assert found.n_examples == 6


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
        observe(captured, [torch.randn(2, 3), batch], sites=SITES, calibration=Calibration(method=Mse()))


def test_an_empty_calibration_is_refused(captured: Captured) -> None:
    with pytest.raises(DataError, match="calibration is empty"):
        observe(captured, [], sites=SITES, calibration=Calibration(method=MinMax()))


def test_a_generator_is_refused_where_two_passes_are_needed(captured: Captured) -> None:
    def once() -> Iterator[Tensor]:
        yield torch.randn(2, 3)

    with pytest.raises(DataError, match="generator"):
        observe(captured, once(), sites=SITES, calibration=Calibration(method=Mse()))
    assert observe(captured, once(), sites=SITES, calibration=Calibration(method=MinMax()))


def test_data_that_shrinks_between_passes_is_refused(captured: Captured) -> None:
    class Shrinking:
        n = 3

        def __iter__(self) -> Iterator[Tensor]:
            self.n -= 1
            yield from torch.randn(self.n, 1, 3)

    with pytest.raises(DataError, match="2 examples the first time and 1 the second"):
        observe(captured, Shrinking(), sites=SITES, calibration=Calibration(method=Mse()))


def test_an_activation_that_becomes_infinite_is_named() -> None:
    network = capture(Reciprocal(), torch.ones(2, 3))
    with pytest.raises(NetworkError, match="activation at :0:0 becomes NaN or infinite"):
        observe(network, [torch.zeros(2, 3)], sites=network.sites.values(), calibration=Calibration(method=MinMax()))


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
        calibration=Calibration(method=MinMax()),
        report_progress=lambda what, done, total: seen.append((what, done, total)),
    )
    assert seen == [("calibrate", 2, 6), ("calibrate", 4, 6), ("calibrate", 6, 6)]


@pytest.mark.parametrize("method", ALL)
def test_a_layer_without_outputs_has_a_range(method: Method) -> None:
    with pytest.warns(UserWarning, match="zero-element"):
        empty = capture(nn.Sequential(nn.Linear(3, 0), nn.ReLU()), EXAMPLE)
    found = observe(empty, [torch.randn(4, 3)], sites=SITES, calibration=Calibration(method=method)).quantizers
    assert found[SITES[1]].scale > 0
