"""This file shows the progress of a study on stderr: bars on a terminal, a line for each outcome in a log."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from dwindle.cli.console import stderr
from dwindle.report.words import duration

if TYPE_CHECKING:
    from dwindle.studies.forecast import Forecast
    from dwindle.studies.progress import Progress as Standpoint


class StudyBars:
    """How much of the study is done and how long the rest takes, above the training under way; call it to report."""

    def __init__(self) -> None:
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=stderr,
        )
        self._all = self._bars.add_task("outcomes", total=None)
        self._one = self._bars.add_task("", total=None, visible=False)
        self._said = ""

    def __enter__(self) -> Self:
        """Start drawing."""
        if stderr.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the finished bars on the screen."""
        if stderr.is_terminal:
            self._bars.stop()

    def __call__(self, now: Standpoint) -> None:
        """Show where the study stands."""
        left = left_words(now.forecast)
        shared = f", {now.n_workers} processes" if now.n_workers > 1 else ""
        doing = now.doing or "waiting for other processes"
        if not stderr.is_terminal:
            self._say(f"[{now.n_done}/{now.n}] {doing}", f"({left}{shared})")
            return
        self._bars.update(self._all, completed=now.n_done, total=now.n, description=f"{left}{shared}")
        if doing != self._said:  # its time starts anew
            self._said = doing
            self._bars.reset(self._one, description=doing, visible=True, total=None)
        self._bars.update(self._one, completed=now.step, total=now.n_steps or None)

    def _say(self, what: str, left: str) -> None:
        if what != self._said:
            self._said = what
            stderr.print(f"{what} {left}", markup=False)


def left_words(found: Forecast) -> str:
    """Return in words how long the rest takes.

    >>> from dwindle.studies.forecast import Forecast
    >>> left_words(Forecast(seconds=4000.0)), left_words(Forecast(seconds=90.0, n_unknown=2)), left_words(Forecast())
    ('about 1 h 6 min left', 'at least 1 min 30 s left', 'nothing left')
    >>> left_words(Forecast(n_unknown=1))
    'time left not known yet'
    """
    if not found.seconds:
        return "time left not known yet" if found.n_unknown else "nothing left"
    return f"{'at least' if found.n_unknown else 'about'} {duration(max(1.0, found.seconds))} left"
