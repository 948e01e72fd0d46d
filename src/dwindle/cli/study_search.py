"""This file says in a terminal what a search for hyperparameters found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dwindle.cli.console import stdout

if TYPE_CHECKING:
    from dwindle.studies.search import Trial
    from dwindle.studies.study import Search

N_SHOWN: Final = 10


def print_trials(trials: tuple[Trial, ...], search: Search, *, file: Path) -> None:
    """Print the best trials by validation accuracy, and below them what was published."""
    stdout.print(f"{search.case}, {search.stage}: {len(trials)} trials, judged on validation data", markup=False)
    for trial in trials[:N_SHOWN]:
        accuracy = "failed" if trial.accuracy is None else f"{100 * trial.accuracy:.2f} %"
        stdout.print(f"{accuracy:>9}  {trial.epochs} epochs: {_words(trial.settings)}", markup=False)
    if search.published:
        stdout.print(f"published  {_words(search.published)}", markup=False)
    stdout.print(str(file), markup=False)


def _words(settings: Mapping[str, Any]) -> str:
    """Return settings in a line; of a function its name.

    >>> _words({"batch_size": 64, "optimizer": "dwindle.studies.published:adam"})
    'batch_size 64, optimizer adam'
    """
    return ", ".join(f"{name} {str(value).rpartition(':')[2]}" for name, value in settings.items())
