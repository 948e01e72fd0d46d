"""This file adds to `bench` and `compare` what both may be asked for: energy, and what a budget comes to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from dwindle.cli.console import stdout
from dwindle.cli.told import require_told

if TYPE_CHECKING:
    from dwindle.bench.across_engines import Row
    from dwindle.bench.budget import Budget, Verdict
    from dwindle.bench.energy.estimate import EnergyParts
    from dwindle.bench.measure import Measured
    from dwindle.bench.verdicts import Judged

WithEnergy = Annotated[
    bool, typer.Option("--energy", help="Measure the energy of a call; estimate it where there is no sensor.")
]
BudgetText = Annotated[
    str | None, typer.Option("--budget", help="Bounds to judge by: max_size=250KB,max_latency=5ms, or a TOML file.")
]

REFERENCE: Final = "the reference"
"""Stands where a bound is on what the other files lose or gain against this one."""


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What was asked for.

    Attributes:
        energy: whether energy is wanted.
        has_sensor: whether this machine tells it.
        budget: None without bounds.
    """

    energy: bool
    has_sensor: bool
    budget: Budget | None

    @property
    def is_estimated(self) -> bool:
        """Whether energy is wanted and nothing measures it."""
        return self.energy and not self.has_sensor

    @classmethod
    def of(cls, *, energy: bool, budget: str | None, told: Sequence[str]) -> Extras:
        """Return what the options say; `told` are the metrics that the call measures.

        Raises:
            SettingError: the budget cannot be understood, or bounds what is not measured.
        """
        from dwindle.bench.budget import Budget
        from dwindle.bench.energy.find import find_sensors

        bounds = None if budget is None else Budget.read(budget)
        if bounds is not None:
            require_told(bounds, told)
        return cls(energy=energy, has_sensor=energy and bool(find_sensors()), budget=bounds)

    def plain(self, measured: Sequence[Measured], rows: Sequence[Row] = ()) -> dict[str, Any]:
        """Return the estimates and verdicts as JSON values; `rows` are those without figures."""
        found: dict[str, Any] = {}
        if self.is_estimated:
            found["energy_estimates"] = {name: _plain_estimate(parts) for name, parts in _estimates(measured).items()}
        if self.budget is not None:
            judged = self._judged(measured, rows)
            found["budget"] = {"verdict": _worst(judged).value, "files": [_plain_judged(one) for one in judged]}
        return found

    def show(self, measured: Sequence[Measured], rows: Sequence[Row] = ()) -> None:
        """Print the estimates and verdicts; `rows` are those without figures."""
        if self.is_estimated:
            for name, parts in _estimates(measured).items():
                stdout.print(_words(name, parts), markup=False)
        if self.budget is not None:
            print_judged(self._judged(measured, rows))

    def leave(self, measured: Sequence[Measured], rows: Sequence[Row] = ()) -> None:
        """Leave with the exit code of the budget: 3 where a bound is violated, 4 where one is undecided.

        Raises:
            typer.Exit: with that code.
        """
        from dwindle.cli.outcome import CODES

        if self.budget is not None and (code := CODES[_worst(self._judged(measured, rows))]):
            raise typer.Exit(code)

    def _judged(self, measured: Sequence[Measured], rows: Sequence[Row]) -> tuple[Judged, ...]:
        from dwindle.bench.budget import Budget
        from dwindle.bench.verdicts import judge_files, unmeasured

        guesses = {one.artifacts[0].sha256: _estimate(one.artifacts[0].path) for one in measured if self.is_estimated}
        by_file = {file: [parts.estimate] for file, parts in guesses.items() if not isinstance(parts, str)}
        budget = self.budget or Budget({})
        judged = [
            ruled
            for one in measured
            for ruled in judge_files(
                _own_bounds(budget, one, measured), one.measurements, files=one.artifacts, estimates=by_file
            )
        ]
        return (*judged, *(unmeasured(budget, row.artifact, row.engine) for row in rows))


def print_judged(judged: Sequence[Judged]) -> None:
    """Print a table: a row for each file and engine, a column for each bound."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from dwindle.cli.figures import WIDEST

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    asked = {ruling.bound: ruling.asked for one in judged for ruling in one.rulings}
    for title in ("budget", "engine", *asked.values(), "verdict"):
        table.add_column(title, overflow="fold")
    for one in judged:
        words = {ruling.bound: ruling.words() for ruling in one.rulings}
        table.add_row(one.name, one.runtime, *(words.get(bound, REFERENCE) for bound in asked), one.verdict.value)
    Console(width=WIDEST, highlight=False, markup=False).print(table, crop=False)


def _own_bounds(budget: Budget, one: Measured, measured: Sequence[Measured]) -> Budget:
    """Return the bounds that hold for one file: what others lose or gain against it says nothing about itself."""
    own = {m.metric.name for m in one.measurements}
    sha256 = one.artifacts[0].sha256
    every = (m for each in measured for m in each.measurements)
    against = {m.metric.name for m in every if sha256 in {m.conditions.get("baseline"), m.conditions.get("reference")}}
    return type(budget)({name: bound for name, bound in budget.bounds.items() if name in own or name not in against})


def _worst(judged: Sequence[Judged]) -> Verdict:
    from dwindle.bench.budget import Verdict, worst

    return worst(one.verdict for one in judged) if judged else Verdict.UNDECIDED


def _estimates(measured: Sequence[Measured]) -> dict[str, EnergyParts | str]:
    """Return the estimates by file: by its name, or by its path where names repeat."""
    paths = dict.fromkeys(one.artifacts[0].path for one in measured)
    return {_label(path, paths): _estimate(path) for path in paths}


def _label(path: Path, paths: Iterable[Path]) -> str:
    return path.name if sum(path.name == other.name for other in paths) == 1 else str(path)


def _estimate(path: Path) -> EnergyParts | str:
    from dwindle.bench.energy.estimate import estimated_energy
    from dwindle.errors import DwindleError

    try:
        return estimated_energy(path)
    except DwindleError as error:  # an estimate that cannot be made must not cost what was measured
        return str(error)


def _words(name: str, parts: EnergyParts | str) -> str:
    if isinstance(parts, str):
        return f"{name}: no sensor of energy here, and no estimate: {parts}"
    return (
        f"{name}: no sensor of energy here; an estimate, not a measurement: {parts.estimate.value:.3g} mJ for one "
        f"example ({parts.operations:.2g} operations, {parts.weights:.2g} weights, {parts.values:.2g} values; "
        f"{parts.method})"
    )


def _plain_estimate(parts: EnergyParts | str) -> dict[str, Any]:
    if isinstance(parts, str):
        return {"unknown": parts}
    return {
        "estimate": parts.estimate.value,
        "unit": parts.estimate.metric.unit,
        "operations": parts.operations,
        "weights": parts.weights,
        "values": parts.values,
        "method": parts.method,
    }


def _plain_judged(one: Judged) -> dict[str, Any]:
    return {
        "file": one.name,
        "sha256": one.artifact,
        "runtime": one.runtime,
        "verdict": one.verdict.value,
        "bounds": {
            r.bound: {"limit": r.limit, "asked": r.asked, "verdict": r.verdict.value, "words": r.words()}
            for r in one.rulings
        },
    }
