"""This file finds what a figure of a study asks for: cases, places on the axes, and the findings there."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from dwindle.studies.matching import matches
from dwindle.studies.results import Finding, Results, Spot
from dwindle.studies.shown import Figure, Quantity
from dwindle.studies.study import Study


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """A figure, the study that declares it, and the results that it shows."""

    figure: Figure
    study: Study
    results: Results

    def cases(self) -> dict[str, list[str]]:
        """Return the networks of each data set, both in the order of the study."""
        found: dict[str, list[str]] = {}
        known = {(case.data, case.network) for case in self.study.cases}
        where = self.figure.where
        for data, network in itertools.product(self.study.data, self.study.networks):
            if (data, network) in known and matches(where, "data", data) and matches(where, "network", network):
                found.setdefault(data, []).append(network)
        return found

    def options(self, axis: str) -> list[str]:
        """Return the values of `axis` that the figure shows."""
        return [option for option in self.study.known_axes[axis] if matches(self.figure.where, axis, option)]

    def options_run(self, axis: str) -> list[str]:
        """Return those of them that an outcome has."""
        if axis not in self.study.axes:
            return self.options(axis)
        run = {outcome.at.get(axis) for outcome in self.results.outcomes}
        return [option for option in self.options(axis) if option in run]

    def places(self, stage: str, *, beside: str | None = None) -> list[dict[str, str]]:
        """Return the places of `stage` on its axes, without the axis `beside`, in the order of the study."""
        of_stage = self.study.axes_for(self.study.stage(stage), self.figure.quantity)
        axes = [axis for axis in of_stage if axis != beside]
        return [
            dict(zip(axes, values, strict=True)) for values in itertools.product(*(self.options(axis) for axis in axes))
        ]

    def spot(self, case: tuple[str, str], stage: str, at: Mapping[str, str]) -> Spot:
        """Return the outcome of `stage` at `at` for a (data set, network), taken against what its stage says."""
        data, network = case
        found = self.study.stage(stage)
        ordered = {axis: at[axis] for axis in self.study.axes_for(found, self.figure.quantity)}
        return Spot(stage=stage, network=network, data=data, at=ordered, against=found.against)

    def finding(self, quantity: Quantity, spot: Spot) -> Finding | None:
        """Return the figure at `spot`; None where it was not run, or a drop is taken against nothing."""
        return self.results.mean(quantity, [spot])
