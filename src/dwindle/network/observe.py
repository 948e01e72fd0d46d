"""This file measures the ranges of activations on calibration data and chooses a quantizer for each.

Two passes over the data: the first finds the extremes of every value, the second counts it in histograms between them.
What is kept between batches are a few numbers and three histograms for each value, however much data there is: one for
each part of the examples, so that the ranges which a quarter and a half of them would have given are known as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, fx

from dwindle.core.ranges import N_BINS, Calibration, Grid, Histogram, MinMax, choose_range, clipped_fraction
from dwindle.errors import DataError, NetworkError
from dwindle.network.activations import ActivationQuantizer, CallSite
from dwindle.network.capture import Captured
from dwindle.network.inputs import Inputs, are_finite, as_inputs, as_tuple, describe, n_examples, take

N_PARTS: Final = 3
"""The first quarter of the examples, the second quarter, the second half; sums of them are nested subsets."""
EIGHT_BITS: Final = Grid()
SETTLED: Final = 0.1
"""A range whose ends moved by more than this fraction of its width had not settled."""

Visit = Callable[[CallSite, Tensor, int], None]
"""`visit(site, value, part)`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What a calibration found.

    Attributes:
        quantizers: one for each site.
        spreads: how far an end of the site's range lies apart between a quarter, a half and all of the examples, as a
            fraction of the range's width; 0 where the range was the same from the first quarter on.
        n_examples: how many were looked at.
    """

    quantizers: Mapping[CallSite, ActivationQuantizer]
    spreads: Mapping[CallSite, float]
    n_examples: int

    def notes(self, n_wanted: int) -> list[str]:
        """Return what the caller should know about examples that were too few, one sentence each."""
        found: list[str] = []
        if self.n_examples < n_wanted:
            found.append(f"the calibration data hold {self.n_examples} examples, fewer than n = {n_wanted}")
        if self.n_examples < 1 << (N_PARTS - 1):
            found.append("so few examples cannot tell how stable the ranges are; give 100 or more")
        elif self.spreads:
            worst = max(self.spreads, key=lambda site: self.spreads[site])
            if self.spreads[worst] > SETTLED:
                found.append(
                    f"the ranges have not settled: at {worst} an end moved by {self.spreads[worst]:.0%} of the width "
                    f"between {self.n_examples // 4} and {self.n_examples} examples; give more of them, or cut "
                    "outliers with Percentile()"
                )
        return found


@dataclass(slots=True, eq=False)
class _Seen:
    """What is known of one value: its extremes and its histogram in each part of the examples."""

    lows: list[float] = field(default_factory=lambda: [0.0] * N_PARTS)
    highs: list[float] = field(default_factory=lambda: [0.0] * N_PARTS)
    counts: Tensor | None = None

    def widen(self, low: float, high: float, part: int) -> None:
        self.lows[part] = min(low, self.lows[part])  # every range includes zero, which must be exact
        self.highs[part] = max(high, self.highs[part])

    def count(self, value: Tensor, part: int) -> None:
        low, high = self.ends(N_PARTS)
        if self.counts is None:
            self.counts = torch.zeros(N_PARTS, N_BINS, dtype=torch.float64)
        if high > low:
            self.counts[part] += torch.histc(value.detach().float(), bins=N_BINS, min=low, max=high).double().cpu()

    def ends(self, n_parts: int) -> tuple[float, float]:
        """Return smallest and largest value of the first `n_parts` parts."""
        return min(self.lows[:n_parts]), max(self.highs[:n_parts])

    def histogram(self, n_parts: int) -> Histogram | None:
        """Return how often values occurred in the first `n_parts` parts, None where that was not counted."""
        return None if self.counts is None else Histogram(*self.ends(N_PARTS), self.counts[:n_parts].sum(0))


def observe(
    captured: Captured,
    batches: Iterable[Inputs],
    *,
    sites: Iterable[CallSite],
    calibration: Calibration,
    grid: Grid = EIGHT_BITS,
    report_progress: Callable[[str, int, int], None] | None = None,
) -> Observed:
    """Run `captured` over `batches` of inputs and return a quantizer (zero exact) on `grid` for each of `sites`.

    Raises:
        DataError: no batches, something that is not a batch of inputs, NaN, or other data on the second pass.
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
        n=calibration.n,
        report_progress=report_progress,
    )
    seen: dict[CallSite, _Seen] = {}
    counts = watched.run(lambda site, value, part: _widen(seen, site, value, part=part))
    if not isinstance(calibration.method, MinMax):
        again = watched.run(lambda site, value, part: seen[site].count(value, part))
        if again != counts:
            raise DataError(
                f"calibration gave {sum(counts)} examples the first time and {sum(again)} the second; "
                "give a list or a data loader, not a generator"
            )
    quantizers: dict[CallSite, ActivationQuantizer] = {}
    spreads: dict[CallSite, float] = {}
    subsets = [n_parts for n_parts in range(1, N_PARTS + 1) if counts[n_parts - 1]]
    for site, values in seen.items():
        ranges = [_range(values, calibration, grid, n_parts=n_parts) for n_parts in subsets]
        quantizers[site] = _quantizer(ranges[-1], grid, values.histogram(N_PARTS))
        spreads[site] = _spread(ranges)
    return Observed(quantizers=quantizers, spreads=spreads, n_examples=sum(counts))


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
    n: int
    report_progress: Callable[[str, int, int], None] | None

    def run(self, visit: Visit) -> list[int]:
        """Call `visit` with every watched value; return how many examples each part had."""
        counts = [0] * N_PARTS
        boundaries: list[int] = []
        for batch in check_batches(self.batches, self.example, batch_size=self.batch_size):
            boundaries = boundaries or self._boundaries(n_examples(batch))
            for piece, part in self._pieces(batch, sum(counts), boundaries):
                with torch.no_grad():
                    Observer(self.module, self.sites, lambda site, value, part=part: visit(site, value, part)).run(
                        *as_tuple(piece)
                    )
                counts[part] += n_examples(piece)
            done = sum(counts)
            if self.report_progress is not None:
                self.report_progress("calibrate", done, max(boundaries[-1], done))
            if done >= self.n:
                break
        return counts

    def _boundaries(self, batch_size: int) -> list[int]:
        """Return after how many examples each part ends; the number of examples is estimated by the first batch."""
        offered = len(self.batches) * batch_size if isinstance(self.batches, Sized) else self.n
        total = min(self.n, offered)
        return [max(1, total >> shift) for shift in reversed(range(N_PARTS))]

    def _pieces(self, batch: Inputs, n_done: int, boundaries: list[int]) -> Iterator[tuple[Inputs, int]]:
        """Cut `batch` where a part ends, unless the graph takes whole batches only; leave out what is too much."""
        size, start = n_examples(batch), 0
        while start < size and n_done + start < self.n:
            part = next((i for i, end in enumerate(boundaries) if n_done + start < end), N_PARTS - 1)
            end = boundaries[part] if part < N_PARTS - 1 else self.n
            stop = size if self.batch_size is not None else min(size, end - n_done)
            yield take(batch, slice(start, stop)), part
            start = stop


class Observer(fx.Interpreter):
    """Runs a graph node by node and shows the values of some of them; each value is freed after its last use."""

    def __init__(
        self, module: fx.GraphModule, sites: Mapping[str, CallSite], show: Callable[[CallSite, Tensor], None]
    ) -> None:
        super().__init__(module)
        self.sites, self.show = sites, show
        self.extra_traceback = False  # our errors say what is needed

    def run_node(self, n: fx.Node) -> Any:
        """Run `n`, and show its value if it is one of the wanted."""
        value = super().run_node(n)
        if n.name in self.sites and isinstance(value, Tensor):
            self.show(self.sites[n.name], value)
        return value


def _example_of(captured: Captured) -> Inputs:
    values = {node.name: node.meta["val"] for node in captured.program.graph.nodes if node.op == "placeholder"}
    found: list[Tensor] = [values[name] for name in captured.program.graph_signature.user_inputs]
    return found[0] if len(found) == 1 else tuple(found)


def _widen(seen: dict[CallSite, _Seen], site: CallSite, value: Tensor, *, part: int) -> None:
    low, high = (float(end) for end in torch.aminmax(value)) if value.numel() else (0.0, 0.0)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise NetworkError(
            f"the activation at {site} becomes NaN or infinite on the calibration data; "
            "check that the data is normalized as in training"
        )
    seen.setdefault(site, _Seen()).widen(low, high, part)


def _range(values: _Seen, calibration: Calibration, grid: Grid, *, n_parts: int) -> tuple[float, float]:
    histogram = values.histogram(n_parts)
    if histogram is None:
        return values.ends(n_parts)
    return choose_range(histogram, calibration.method, grid, ends=values.ends(n_parts))


def _spread(ranges: list[tuple[float, float]]) -> float:
    low, high = ranges[-1]
    if high <= low:
        return 0.0
    apart = [max(ends) - min(ends) for ends in zip(*ranges, strict=True)]
    return max(apart) / (high - low)


def _quantizer(ends: tuple[float, float], grid: Grid, histogram: Histogram | None) -> ActivationQuantizer:
    low, high = (torch.tensor(end, dtype=torch.float64) for end in ends)
    scales, zero_points = grid.cover(low, high)
    scale, zero_point = float(scales), int(zero_points)
    clipped = 0.0 if histogram is None else clipped_fraction(histogram, grid, scale=scale, zero_point=zero_point)
    return ActivationQuantizer(
        scale=scale, zero_point=zero_point, n_bits=grid.n_bits, signed=grid.symmetric, clipped_fraction=clipped
    )
