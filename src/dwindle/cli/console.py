"""This file talks to the person at the terminal: progress bars and errors on stderr, results on stdout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

stdout = Console(soft_wrap=True, highlight=False)
stderr = Console(stderr=True, soft_wrap=True, highlight=False)


class ProgressBars:
    """Progress on stderr, one bar for each thing under way; call it as `report_progress(what, done, total)`."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=stderr,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        """Start drawing."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the finished bars on the screen."""
        self._progress.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` is finished of `what`."""
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total)
        self._progress.update(self._tasks[what], completed=done, total=total)


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout, for a program to read."""
    print(json.dumps(value, indent=2, sort_keys=False, allow_nan=False))


def print_error(error: BaseException) -> None:
    """Print an error with its notes on stderr, without a traceback."""
    stderr.print("[bold red]error:[/] ", end="")
    stderr.print(str(error), markup=False)
    for note in getattr(error, "__notes__", ()):
        stderr.print(f"  {note}", markup=False)
