"""This file says where a network computes with integers, and which ranges its activations have there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dwindle.core.encoding import code_range
from dwindle.core.ranges import Calibration, Grid
from dwindle.network.activations import ActivationQuantizer, CallSite
from dwindle.network.capture import Captured
from dwindle.network.inputs import Inputs
from dwindle.network.observe import Observed, observe
from dwindle.network.placement import Placement, place
from dwindle.network.train import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerPlan:
    """The weights of layers that run on integers, where quantizers go, and the ranges that were measured."""

    integer: tuple[str, ...]
    placement: Placement
    observed: Observed

    def everywhere(self, own: Mapping[CallSite, ActivationQuantizer]) -> dict[CallSite, ActivationQuantizer]:
        """Return the quantizer of every site, from those of the sites that have a range of their own; sorted."""
        shared = {site: own[origin] for site, origin in self.placement.shared.items()}
        return dict(sorted({**own, **shared}.items()))

    def decisions(self, own: Mapping[CallSite, ActivationQuantizer]) -> dict[str, Any]:
        """Return what a record says of the plan and the ranges `own` that came of it, as plain values.

        Of a range that was trained since, what was measured of the calibrated one says nothing, and is left out.
        """
        spreads = self.observed.spreads
        calibration: dict[str, Any] = {"n_examples": self.observed.n_examples}
        if spreads:
            worst = max(spreads, key=lambda site: spreads[site])
            calibration |= {"least_stable": str(worst), "largest_spread": spreads[worst]}
        return {
            "integer_weights": list(self.integer),
            "calibration": calibration,
            "ranges": {str(site): self._told(site, quantizer) for site, quantizer in own.items()},
            "shared": {str(site): str(origin) for site, origin in self.placement.shared.items()},
        }

    def _told(self, site: CallSite, quantizer: ActivationQuantizer) -> dict[str, float]:
        first, last = code_range(quantizer.n_bits, signed=quantizer.signed)
        ends = {
            "low": (first - quantizer.zero_point) * quantizer.scale,
            "high": (last - quantizer.zero_point) * quantizer.scale,
        }
        if quantizer is not self.observed.quantizers[site]:
            return ends
        return {**ends, "clipped_fraction": quantizer.clipped_fraction, "spread": self.observed.spreads[site]}


def plan_integers(  # ruff: ignore[too-many-arguments] (the settings of one measurement)
    captured: Captured,
    integer: Collection[str],
    batches: Iterable[Inputs],
    *,
    calibration: Calibration,
    grid: Grid,
    quantize_output: bool,
    report_progress: Progress | None = None,
) -> IntegerPlan:
    """Return the plan for a captured network whose layers with the weights `integer` are to run on integers.

    Raises:
        DataError: the calibration data is empty or no batch of inputs.
        NetworkError: an activation becomes NaN.
    """
    placement = place(captured, integer, quantize_output=quantize_output)
    observed = observe(
        captured, batches, sites=placement.own, calibration=calibration, grid=grid, report_progress=report_progress
    )
    return IntegerPlan(integer=tuple(integer), placement=placement, observed=observed)
