"""This file shows what came of the budget: each bound with what was measured, and each file on its engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dwindle.report.comparison import best, interval_of, is_least, label_of
from dwindle.report.estimates import estimate_of
from dwindle.report.facts import Data, Facts, file_names, items, metric_name, number, table, text
from dwindle.report.words import NO_BREAK, metric_value

_TONES = ("violated", "undecided", "met")
"""The worst first."""


@dataclass(frozen=True, slots=True)
class Bound:
    """One bound of the budget; `tone` is met, violated or undecided."""

    words: str
    verdict: str
    tone: str


def budget_of(facts: Facts) -> tuple[str, list[Bound]]:
    """Return the verdict on the budget and its bounds; both empty where the ledger holds none."""
    verdicts = table(facts.budget, "verdicts")
    bounds = [_bound(facts, name, text(verdicts, name)) for name in table(facts.budget, "bounds")]
    verdict = text(facts.budget, "verdict")
    if not verdict and bounds:
        verdict = min((bound.tone for bound in bounds), key=_TONES.index)
    return verdict.upper(), bounds


def judged_file(facts: Facts) -> str:
    """Return the name of the file that the verdict speaks of; empty where there is only one."""
    files = _files(facts)
    return text(files[0], "file") if len(files) > 1 else ""


def budget_files_of(facts: Facts) -> list[Bound]:
    """Return the verdict on each file and engine, in words; empty where there is only one."""
    files = _files(facts)
    return [_budget_file(file) for file in files] if len(files) > 1 else []


def _files(facts: Facts) -> list[Data]:
    return [file for file in items(facts.budget, "files") if isinstance(file, Mapping)]


def _budget_file(file: Data) -> Bound:
    bounds = table(file, "bounds")
    said = "; ".join(f"{label_of(name)} {text(bounds, name)}" for name in bounds)
    verdict = text(file, "verdict")
    return Bound(f"{text(file, 'file')} on {text(file, 'runtime')}: {said}", verdict, _tone(verdict))


def _bound(facts: Facts, name: str, verdict: str) -> Bound:
    """Say what was bounded, how, and what was found; unit and direction are those of what was found."""
    measurement, guess = _measurement(facts, name), estimate_of(facts, name)
    limit, metric = number(table(facts.budget, "bounds"), name), table(measurement or guess, "metric")
    unit, better = text(metric, "unit"), number(metric, "better")
    side = "bound" if better is None else "at least" if better > 0 else "at most"
    bounded = f"{label_of(name)}: {side} {metric_value(limit, unit) if limit is not None else 'unknown'}"
    found = number(measurement, "value")
    guessed = number(guess, "value")
    if found is not None:
        least = "at least " if is_least(measurement) else ""
        interval = interval_of(measurement).replace(" ", NO_BREAK)
        file = _other_file(facts, measurement)
        bounded += f", measured {least}{_unbroken(found, unit)} {interval}".rstrip() + (f" ({file})" if file else "")
    elif guessed is not None:
        bounded += f", not measured; an estimate, {_unbroken(guessed, unit)}, decides nothing"
    return Bound(bounded, verdict, _tone(verdict))


def _measurement(facts: Facts, name: str) -> Data:
    """Return the measurement that a bound rests on; the first file's where the ledger does not say which that is."""
    file = text(table(facts.budget, "rests_on"), name)
    of_file = (m for m in facts.measurements if text(m, "artifact") == file and metric_name(m) == name)
    return next(of_file, None) or best(facts, "compressed", name) or {}


def _other_file(facts: Facts, measurement: Data) -> str:
    """Return the name of the file that a bound rests on, where it is not the one that the page speaks of."""
    file = text(measurement, "artifact")
    spoken_of = best(facts, "compressed", "size") or {}
    return "" if file == text(spoken_of, "artifact") else file_names(facts).get(file, "")


def _unbroken(value: float, unit: str) -> str:
    return metric_value(value, unit).replace(" ", NO_BREAK)


def _tone(verdict: str) -> str:
    return verdict if verdict in _TONES else "undecided"
