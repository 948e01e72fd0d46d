"""This file reports where a study stands: often enough for a person to watch, seldom enough to cost nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from dwindle.studies.forecast import Forecast, Pace, Underway, forecast
from dwindle.studies.plan import Node
from dwindle.studies.standing import Standing
from dwindle.technique import epochs_of

PERIOD: Final = 0.25
"""Seconds between reports during training; there may be hundreds of steps in one."""
SHARE_SEEN: Final = 0.02
"""Of a training, before its speed is taken for the speed of the rest."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a study stands.

    Attributes:
        doing: the outcome under way; empty while waiting for another process.
        step: optimizer steps done, of `n_steps`; both 0 while nothing is trained.
        forecast: how long the rest will take.
        n_workers: processes that share the work, this one included.
    """

    n_done: int
    n: int
    doing: str = ""
    step: int = 0
    n_steps: int = 0
    forecast: Forecast = field(default_factory=Forecast)
    n_workers: int = 1


@dataclass(kw_only=True, eq=False)
class Reporter:
    """Reports on one outcome under way, or on waiting for others; call it after each training step.

    Attributes:
        nodes: the whole plan.
        waiting: what of it is still to be made.
        node: what is made now; None while waiting.
        n_workers: processes that share the work.
    """

    nodes: Sequence[Node]
    waiting: Sequence[Node]
    standing: Standing
    node: Node | None = None
    n_workers: int = 1
    on_progress: Callable[[Progress], None] | None = None
    _pace: Pace = field(init=False)
    _n_done: int = field(init=False)
    _n_steps_finished: int = 0
    _first: tuple[float, float] | None = None
    _last: float = 0.0

    def __post_init__(self) -> None:
        if self.on_progress is None:
            return
        self._pace = Pace.of(self.standing.outcomes)
        self._n_done = sum(node.key in self.standing.done for node in self.nodes)

    def finished(self, node: Node, n_steps: int) -> None:
        """Note that the first `n_steps` steps of the recipe of `node` are finished."""
        if node is self.node:  # and not one that it comes from, which is made again
            self._n_steps_finished = n_steps

    def __call__(self, stage: str, step: int, n_steps: int) -> None:
        """Report that `step` of `n_steps` training steps are done; most calls return at once."""
        if self.on_progress is None:
            return
        now = time.monotonic()
        if self._last and step < n_steps and now - self._last < PERIOD:
            return
        self._last = now
        self.on_progress(
            Progress(
                n_done=self._n_done,
                n=len(self.nodes),
                doing="" if self.node is None else self.node.words,
                step=step,
                n_steps=n_steps,
                forecast=forecast(
                    self.waiting, self._pace, underway=self._underway(step, n_steps, now), n_workers=self.n_workers
                ),
                n_workers=self.n_workers,
            )
        )

    def _underway(self, step: int, n_steps: int, now: float) -> Underway | None:
        if self.node is None:
            return None
        share = self._share(step / n_steps if n_steps else 0.0)
        if not n_steps:
            return Underway(node=self.node, share=share)
        if self._first is None:  # a training that goes on starts here at the share that it had
            self._first = (share, now)
        seen, seconds = share - self._first[0], now - self._first[1]
        rate = seconds / (seen * self.node.epochs) if seen >= SHARE_SEEN else None
        return Underway(node=self.node, share=share, seconds_per_epoch=rate)

    def _share(self, of_step: float) -> float:
        """Return the share of the outcome's training that is done, where a share `of_step` of its current step is."""
        if self.node is None or not self.node.epochs:
            return 0.0
        epochs = [epochs_of(step) for step in self.node.recipe.steps]
        n = self._n_steps_finished
        current = next((amount for amount in epochs[n:] if amount), 0.0)
        return min(1.0, (sum(epochs[:n]) + of_step * current) / self.node.epochs)
