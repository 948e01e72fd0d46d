"""This file shows what was estimated of files because nothing measured it, apart from all measurements."""

from __future__ import annotations

from dataclasses import dataclass

from dwindle.report.comparison import label_of
from dwindle.report.facts import Data, Facts, file_names, metric_name, number, table, text
from dwindle.report.words import DASH, metric_value


@dataclass(frozen=True, slots=True)
class Guess:
    """An estimate of a metric of a file, as text; or why there is none, in `how`."""

    label: str
    file: str
    role: str
    value: str
    how: str


def estimates_of(facts: Facts) -> list[Guess]:
    """Return every estimate that the ledger holds."""
    files = file_names(facts)
    return [
        Guess(
            label_of(metric_name(found)),
            files.get(text(found, "artifact"), ""),
            text(found, "role"),
            _value(found),
            text(found, "method") or f"none: {text(found, 'unknown') or 'the ledger does not say why'}",
        )
        for found in facts.estimates
    ]


def estimate_of(facts: Facts, name: str) -> Data:
    """Return the first estimate of metric `name` for a compressed file; empty where there is none."""
    found = (e for e in facts.estimates if metric_name(e) == name and text(e, "role") == "compressed")
    return next((e for e in found if number(e, "value") is not None), {})


def _value(found: Data) -> str:
    value = number(found, "value")
    return DASH if value is None else metric_value(value, text(table(found, "metric"), "unit"))
