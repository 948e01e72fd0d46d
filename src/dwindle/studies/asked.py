"""This file finds what a figure of a study asks for: cases, places on the axes, and the findings there."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from dwindle.studies.results import Finding, Results
from dwindle.studies.study import Figure, Quantity, Study


@dataclass(frozen=True, kw_only=True)
class Spot:
    """Where an outcome stands: all that tells it apart but its seed."""

    network: str
    data: str
    stage: str
    at: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def words(self) -> str:
        """What a person reads."""
        return ", ".join((self.network, self.stage, *self.at.values()))


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """A figure, the study that declares it, and the results that it shows."""

    figure: Figure
    study: Study
    results: Results

    def cases(self) -> Iterator[tuple[str, str]]:
        """Yield data set and network of each case, data sets in the order of the study, and in these the networks."""
        where = self.figure.where
        for data, network in itertools.product(self.study.data, self.study.networks):
            is_case = any(case.data == data and case.network == network for case in self.study.cases)
            if is_case and allows(where, "data", data) and allows(where, "network", network):
                yield data, network

    def options(self, axis: str) -> list[str]:
        """Return the values of `axis` that the figure shows."""
        return [option for option in self.study.axes[axis] if allows(self.figure.where, axis, option)]

    def places(self, stage: str, *, beside: str | None = None) -> list[dict[str, str]]:
        """Return the places of `stage` on its axes, without the axis `beside`, in the order of the study."""
        axes = [axis for axis in self.study.axes_of(self.study.stage(stage)) if axis != beside]
        return [
            dict(zip(axes, values, strict=True)) for values in itertools.product(*(self.options(axis) for axis in axes))
        ]

    def finding(self, quantity: Quantity, spot: Spot) -> Finding | None:
        """Return the figure at `spot`; None where it was not run, or a drop is taken against nothing."""
        against = self.study.stage(spot.stage).against if quantity == "accuracy_drop" else None
        if quantity == "accuracy_drop" and against is None:
            return None
        return self.results.figure(
            quantity, stage=spot.stage, network=spot.network, data=spot.data, at=spot.at, against=against
        )


def allows(where: Mapping[str, Any], key: str, value: str) -> bool:
    """Return whether `where` lets `value` of `key` through: it names it, alone or in a list, or says nothing of `key`.

    >>> allows({"rate": ["2x", "10x"]}, "rate", "10x"), allows({"rate": "2x"}, "rate", "10x")
    (True, False)
    """
    wanted = where.get(key, value)
    return value in cast("list[Any]", wanted) if isinstance(wanted, list | tuple) else value == wanted
