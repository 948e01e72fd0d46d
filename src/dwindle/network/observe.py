"""This file measures the ranges of activations on calibration data and chooses a quantizer for each.

Two passes over the data: the first finds the extremes of every value, the second counts it in a histogram between them.
What is kept between batches are a few numbers and one histogram for each value, however much data there is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any, Final, assert_never

import torch
from torch import Tensor, fx

from dwindle.core.affine import choose_qparams, fake_quantize
from dwindle.errors import DataError, NetworkError, SettingError
from dwindle.network.activations import ActivationQuantizer, CallSite
from dwindle.network.capture import Captured
from dwindle.network.inputs import Inputs, are_finite, as_inputs, as_tuple, describe, n_examples

N_BINS: Final = 8192
N_BITS: Final = 8
SHRINKS: Final = torch.linspace(1.0, 0.02, 99)
"""Fractions of the full range that `Mse` tries."""

Visit = Callable[[CallSite, Tensor], None]


@dataclass(frozen=True, slots=True)
class MinMax:
    """The range covers every calibration value; nothing is clipped, one outlier makes the grid coarse."""


@dataclass(frozen=True, slots=True)
class Percentile:
    """The range ends at the `p`-th and the (100 - `p`)-th percentile of the calibration values, and includes zero."""

    p: float = 99.99

    def __post_init__(self) -> None:
        if not 50 < self.p <= 100:
            raise SettingError(f"Percentile: p must be in (50, 100], got {self.p}")


@dataclass(frozen=True, slots=True)
class Mse:
    """The range with the smallest mean squared error between values and quantized values on the calibration data."""


Calibration = MinMax | Percentile | Mse


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """How often a value occurred: float64 `counts` in equal bins from `low` to `high`."""

    low: float
    high: float
    counts: Tensor

    @property
    def centres(self) -> Tensor:
        """The middle of each bin, float64."""
        width = (self.high - self.low) / self.counts.numel()
        return self.low + width * (torch.arange(self.counts.numel(), dtype=torch.float64) + 0.5)


def observe(
    captured: Captured,
    batches: Iterable[Inputs],
    *,
    sites: Iterable[CallSite],
    calibration: Calibration,
    report_progress: Callable[[str, int, int], None] | None = None,
) -> dict[CallSite, ActivationQuantizer]:
    """Run `captured` over `batches` of inputs and return a quantizer (unsigned 8 bit, zero exact) for each of `sites`.

    Raises:
        DataError: no batches, something that is not a batch of inputs, NaN, or fewer batches on the second pass.
        NetworkError: a value is NaN or infinite on the way.
    """
    module, site_of = captured.module()
    wanted = frozenset(sites)
    watched = _Watched(
        module=module,
        example=_example_of(captured),
        batch_size=None if captured.dynamic_batch else n_examples(_example_of(captured)),
        sites={name: site for name, site in site_of.items() if site in wanted},
        batches=batches,
        report_progress=report_progress,
    )
    ranges: dict[CallSite, tuple[float, float]] = {}
    n_batches = watched.run(lambda site, value: _widen(ranges, site, value))
    if isinstance(calibration, MinMax):
        return {site: _quantizer(*ranges[site]) for site in ranges}
    histograms = {site: Histogram(*ends, torch.zeros(N_BINS, dtype=torch.float64)) for site, ends in ranges.items()}
    n_again = watched.run(lambda site, value: _count(histograms[site], value))
    if n_again != n_batches:
        raise DataError(
            f"calibration gave {n_batches} batches the first time and {n_again} the second; "
            "give a list or a data loader, not a generator"
        )
    return {site: choose_quantizer(histograms[site], calibration) for site in ranges}


def choose_quantizer(histogram: Histogram, calibration: Calibration) -> ActivationQuantizer:
    """Return the quantizer that `calibration` picks for the values in `histogram`, with the fraction that it clips."""
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    match calibration:
        case MinMax():
            pass
        case Percentile(p):
            low, high = _percentiles(histogram, p)
        case Mse():
            low, high = _least_error(histogram, low, high)
        case _:
            assert_never(calibration)
    return _quantizer(low, high, histogram)


def check_batches(batches: Iterable[Any], example: Inputs, *, batch_size: int | None = None) -> Iterator[Inputs]:
    """Yield `batches` (a list of inputs as a tuple), once each has proved to be like `example` (any batch size).

    Raises:
        DataError: no batch at all, a tuple (inputs with labels), another shape or type than the example's, or NaN.
    """
    n_batches = 0
    for batch in batches:
        inputs = _require_inputs(batch, example, f"calibration batch {n_batches}")
        if batch_size is not None and n_examples(inputs) != batch_size:
            raise DataError(
                f"calibration batch {n_batches} holds {n_examples(inputs)} inputs, but this network's graph accepts "
                f"{batch_size} at a time only"
            )
        n_batches += 1
        yield inputs
    if n_batches == 0:
        raise DataError("calibration is empty (or a generator that ran out); give a list of one or more input batches")


def _require_inputs(batch: Any, example: Inputs, what: str) -> Inputs:
    wanted = " and ".join(f"(n, {', '.join(map(str, part.shape[1:]))}) of {part.dtype}" for part in as_tuple(example))
    inputs, several = as_inputs(batch), not isinstance(example, Tensor)
    if inputs is None or isinstance(inputs, tuple) != several:
        form = f"a tuple of {len(as_tuple(example))} tensors" if several else "a tensor"
        raise DataError(
            f"{what} is a {type(batch).__name__}; give the inputs alone, without labels, as {form} {wanted}, "
            "like the example"
        )
    parts, wants = as_tuple(inputs), as_tuple(example)
    alike = len(parts) == len(wants) and all(map(_are_alike, parts, wants))
    if not alike or len({part.shape[0] for part in parts}) > 1:
        raise DataError(f"{what} is {describe(inputs)}, expected {wanted}, like the example; give inputs, not labels")
    if n_examples(inputs) == 0:
        raise DataError(f"{what} holds no inputs; leave empty batches out")
    if not are_finite(inputs):
        raise DataError(f"{what} holds NaN or infinite inputs; repair the data")
    return inputs


def _are_alike(part: Tensor, want: Tensor) -> bool:
    return part.ndim == want.ndim and part.shape[1:] == want.shape[1:] and part.dtype == want.dtype


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Watched:
    """A captured network that shows the values of some nodes while it runs over the calibration data."""

    module: fx.GraphModule
    example: Inputs
    batch_size: int | None
    sites: Mapping[str, CallSite]
    batches: Iterable[Inputs]
    report_progress: Callable[[str, int, int], None] | None

    def run(self, visit: Visit) -> int:
        """Call `visit` with every watched value of every batch; return the number of batches."""
        total = len(self.batches) if isinstance(self.batches, Sized) else 0
        n_batches = 0
        for batch in check_batches(self.batches, self.example, batch_size=self.batch_size):
            with torch.no_grad():
                _Observer(self.module, self.sites, visit).run(*as_tuple(batch))
            n_batches += 1
            if self.report_progress is not None:
                self.report_progress("calibrate", n_batches, max(total, n_batches))
        return n_batches


class _Observer(fx.Interpreter):
    """Runs a graph node by node and shows the values of some of them; each value is freed after its last use."""

    def __init__(self, module: fx.GraphModule, sites: Mapping[str, CallSite], visit: Visit) -> None:
        super().__init__(module)
        self.sites, self.visit = sites, visit
        self.extra_traceback = False  # our errors say what is needed

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.sites and isinstance(value, Tensor):
            self.visit(self.sites[n.name], value)
        return value


def _example_of(captured: Captured) -> Inputs:
    values = {node.name: node.meta["val"] for node in captured.program.graph.nodes if node.op == "placeholder"}
    found: list[Tensor] = [values[name] for name in captured.program.graph_signature.user_inputs]
    return found[0] if len(found) == 1 else tuple(found)


def _widen(ranges: dict[CallSite, tuple[float, float]], site: CallSite, value: Tensor) -> None:
    low, high = (float(end) for end in torch.aminmax(value))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise NetworkError(
            f"the activation at {site} becomes NaN or infinite on the calibration data; "
            "check that the data is normalized as in training"
        )
    earlier = ranges.get(site, (0.0, 0.0))  # every range includes zero, which must be exact
    ranges[site] = (min(low, earlier[0]), max(high, earlier[1]))


def _count(histogram: Histogram, value: Tensor) -> None:
    if histogram.high > histogram.low:
        counts = torch.histc(value.detach().float(), bins=N_BINS, min=histogram.low, max=histogram.high)
        histogram.counts.add_(counts.double().cpu())


def _quantizer(low: float, high: float, histogram: Histogram | None = None) -> ActivationQuantizer:
    scales, zero_points = choose_qparams(
        torch.tensor(low, dtype=torch.float64),
        torch.tensor(high, dtype=torch.float64),
        n_bits=N_BITS,
        symmetric=False,
        signed=False,
    )
    scale, zero_point = float(scales), int(zero_points)
    clipped = 0.0 if histogram is None else _clipped_fraction(histogram, scale, zero_point)
    return ActivationQuantizer(scale=scale, zero_point=zero_point, n_bits=N_BITS, clipped_fraction=clipped)


def _clipped_fraction(histogram: Histogram, scale: float, zero_point: int) -> float:
    """Return the fraction of values more than half a step outside the range, where the error exceeds rounding."""
    n_values = float(histogram.counts.sum())
    if n_values == 0.0:
        return 0.0
    codes = histogram.centres / scale + zero_point
    outside = (codes < -0.5) | (codes > (1 << N_BITS) - 0.5)
    return float(histogram.counts[outside].sum()) / n_values


def _percentiles(histogram: Histogram, p: float) -> tuple[float, float]:
    n_values = float(histogram.counts.sum())
    if n_values == 0.0:
        return 0.0, 0.0
    below = histogram.counts.cumsum(0) / n_values
    width = (histogram.high - histogram.low) / N_BINS
    last = int(torch.searchsorted(below, p / 100.0))
    first = int(torch.searchsorted(below, 1.0 - p / 100.0, right=True))
    low = histogram.low + width * min(first, N_BINS - 1)
    high = histogram.low + width * (min(last, N_BINS - 1) + 1)
    return min(low, 0.0), max(high, 0.0)


def _least_error(histogram: Histogram, low: float, high: float) -> tuple[float, float]:
    """Shrink both ends together, then each alone in turn; one pass each way is enough for unimodal errors."""
    if high <= low:
        return low, high
    ends = SHRINKS.double()
    low, high = _best(histogram, low * ends, high * ends)
    if low < 0.0 < high:
        full_low, full_high = histogram.low, histogram.high
        for _ in range(2):
            low, high = _best(histogram, full_low * ends, torch.full_like(ends, high))
            low, high = _best(histogram, torch.full_like(ends, low), full_high * ends)
    return low, high


def _best(histogram: Histogram, lows: Tensor, highs: Tensor) -> tuple[float, float]:
    """Return the pair among `lows` and `highs`, each (n_candidates,), with the smallest squared error."""
    scale, zero_point = choose_qparams(lows, highs, n_bits=N_BITS, symmetric=False, signed=False)
    centres = histogram.centres
    quantized = fake_quantize(
        centres[None, :], scale.double()[:, None], zero_point[:, None], n_bits=N_BITS, signed=False
    )
    errors = (quantized - centres).square_() @ histogram.counts
    best = int(errors.argmin())
    return float(lows[best]), float(highs[best])
