"""This file lays values along axes that are not linear: ratios on a logarithmic one, shares stretched towards 100."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from dwindle.report.figures import Axis, Tick
from dwindle.report.words import significant

_LEAST_RANGE: Final = 1e-6
"""Logarithms that differ by less are one value."""
_BEYOND_HUNDRED: Final = 101.0
_SHARES: Final = (100, 99, 98, 95, 90, 80, 70, 60, 50, 40, 30, 20, 10, 0)


@dataclass(frozen=True, slots=True)
class LogAxis:
    """A logarithmic axis from `low` to `high`, both above 0 and different."""

    low: float
    high: float

    @classmethod
    def around(cls, values: Iterable[float], *, margin: float = 0.0) -> LogAxis:
        """Return the axis that shows all finite `values` above 0 with `margin` (a fraction of the range) around."""
        logs = [math.log(value) for value in values if value > 0 and math.isfinite(value)]
        if logs and max(logs) - min(logs) < _LEAST_RANGE:
            logs = logs[:1]
        around = Axis.around(logs or [0.0, 1.0], margin=margin)
        return cls(math.exp(around.low), math.exp(around.high))

    def at(self, value: float) -> float:
        """Return where `value` lies, in per cent of the axis."""
        return 100 * math.log(value / self.low) / math.log(self.high / self.low)

    def ticks(self, n: int = 5) -> tuple[Tick, ...]:
        """Return labels at 1, 2 and 5 times the powers of ten, at fewer of these where `n` are too few.

        Where not even two of these lie on the axis, labels at other round values.

        >>> [tick.label for tick in LogAxis(0.9, 60).ticks(6)]
        ['1', '2', '5', '10', '20', '50']
        """
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for multiples in ((1, 2, 5), (1, 3), (1,)):
            values = [m * 10.0**power for power in powers for m in multiples]
            values = [value for value in values if self.low <= value <= self.high]
            if len(values) <= n + 1:
                break
        if len(values) < 2:  # between two of them, a logarithmic axis is nearly linear
            linear = Axis(self.low, self.high).ticks(n)
            return tuple(Tick(self.at(self.low + t.at / 100 * (self.high - self.low)), t.label) for t in linear)
        return tuple(Tick(self.at(value), f"{value:,g}" if value < 1e5 else significant(value, 1)) for value in values)


@dataclass(frozen=True, slots=True)
class ShareAxis:
    """Shares in percent, stretched towards 100: the logarithm of what is missing to a little more than that.

    Beside answers no better than chance, a linear axis would leave the differences among good ones invisible.
    """

    low: float
    high: float

    @classmethod
    def around(cls, values: Iterable[float]) -> ShareAxis:
        """Return the axis that shows all finite `values`, a little more on both sides."""
        finite = [min(max(value, 0.0), 100.0) for value in values if math.isfinite(value)] or [0.0, 100.0]
        return cls(max(0.0, min(finite) - 4), max(finite) + 0.1 * (_BEYOND_HUNDRED - max(finite)))

    def at(self, value: float) -> float:
        """Return where `value` lies, in per cent of the axis."""
        below, above = _BEYOND_HUNDRED - self.low, _BEYOND_HUNDRED - self.high
        return 100 * math.log(below / (_BEYOND_HUNDRED - min(value, 100.0))) / math.log(below / above)

    def ticks(self, n: int = 5) -> tuple[Tick, ...]:
        """Return at most about `n` labels at round shares, those near 100 first.

        >>> [tick.label for tick in ShareAxis(8, 95.5).ticks(6)]
        ['95', '90', '80', '70', '50', '20']
        """
        found: list[Tick] = []
        for share in _SHARES:
            at = self.at(share)
            if self.low <= share <= self.high and (not found or found[-1].at - at >= 75 / n):
                found.append(Tick(at, str(share)))
        return tuple(found)
