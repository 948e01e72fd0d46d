"""This file reads the plain values of an analysis into rows for tables and figures; what is absent is tolerated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from dwindle.report.facts import Data, items, number, numbers, table, text

_WEIGHT: Final = ".weight"
TONES: Final[Mapping[str, str]] = {
    "leave out": "out",
    "keep 8 bits": "eight",
    "cluster to 16 values": "shared",
    "make binary": "binary",
}
"""Action -> class of the style sheet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One layer; figures that are not known are None.

    Attributes:
        number: place in the network, from 1.
        label: name without what all names end with.
        scores: by criterion, its value and what it was made of.
    """

    number: int
    name: str
    label: str
    kind: str
    shape: tuple[int, ...]
    n_weights: float | None
    dense_bytes: float
    macs: float | None
    n_calls: float | None
    time_ms: float | None
    operations: tuple[str, ...]
    timed_with: tuple[str, ...]
    scores: Mapping[str, Mapping[str, float]]
    significant: tuple[str, ...]
    action: str
    why: str

    def score(self, criterion: str, part: str = "value") -> float | None:
        """Return a part of what a criterion says about the layer."""
        return self.scores.get(criterion, {}).get(part)

    @property
    def tone(self) -> str:
        """Class of the style sheet for what would be done with it."""
        return TONES.get(self.action, "eight")


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """One criterion; see `job.analysis.Judgement`."""

    name: str
    title: str
    unit: str
    settings: Mapping[str, Any]
    cut: float | None
    judged: tuple[str, ...]
    significant: tuple[str, ...]
    problem: str
    seconds: float | None


def rows_of(plain: Data) -> list[Row]:
    """Return the layers in the order of the network."""
    layers = [cast("Data", layer) for layer in items(plain, "layers") if isinstance(layer, Mapping)]
    names = [text(layer, "name") for layer in layers]
    has_suffix = bool(names) and all(name.endswith(_WEIGHT) and name != _WEIGHT for name in names)
    return [
        _row(layer, i, name.removesuffix(_WEIGHT) if has_suffix else name)
        for i, (layer, name) in enumerate(zip(layers, names, strict=True), start=1)
    ]


def criteria_of(plain: Data) -> list[Criterion]:
    """Return the criteria in the order that they were asked for."""
    return [
        Criterion(
            name=text(data, "name"),
            title=text(data, "title"),
            unit=text(data, "unit"),
            settings=table(data, "settings"),
            cut=number(data, "cut"),
            judged=_texts(data, "judged"),
            significant=_texts(data, "significant"),
            problem=text(data, "problem"),
            seconds=number(data, "seconds"),
        )
        for data in (cast("Data", item) for item in items(plain, "criteria") if isinstance(item, Mapping))
    ]


def shares(values: Sequence[float | None], total: float | None = None) -> list[float | None]:
    """Return each value as a share of `total`, or of their sum; None where it is not known.

    >>> shares([1.0, None, 3.0])
    [0.25, None, 0.75]
    """
    whole = sum(value for value in values if value is not None) if total is None else total
    return [None if value is None or whole <= 0 else value / whole for value in values]


def _row(layer: Data, place: int, label: str) -> Row:
    scores = {
        name: {part: value for part in data if (value := number(data, part)) is not None}
        for name, data in ((name, table(table(layer, "scores"), name)) for name in table(layer, "scores"))
    }
    return Row(
        number=place,
        name=text(layer, "name"),
        label=label,
        kind=text(layer, "kind"),
        shape=tuple(int(size) for size in numbers(layer, "shape")),
        n_weights=number(layer, "n_weights"),
        dense_bytes=number(layer, "dense_bytes") or 0.0,
        macs=number(layer, "macs"),
        n_calls=number(layer, "n_calls"),
        time_ms=number(layer, "time_ms"),
        operations=_texts(layer, "operations"),
        timed_with=_texts(layer, "timed_with"),
        scores=scores,
        significant=_texts(layer, "significant"),
        action=text(layer, "action"),
        why=text(layer, "why"),
    )


def _texts(data: Data, key: str) -> tuple[str, ...]:
    return tuple(str(item) for item in items(data, key))
