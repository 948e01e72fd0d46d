"""This file runs a study: it makes the outcomes that the ledger lacks, beside other processes that do the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from dwindle.bench.ledger import Ledger
from dwindle.errors import DwindleError, SettingError, StudyError
from dwindle.studies.claim import Claims
from dwindle.studies.forecast import Forecast, forecast
from dwindle.studies.make import Workshop
from dwindle.studies.plan import Node

OUTCOME: Final = "outcome"
FAILURE: Final = "failure"
LEDGER: Final = "ledger.jsonl"
WAIT_SECONDS: Final = 2.0
"""Between looks at what other processes have finished."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a study stands.

    Attributes:
        doing: the outcome under way; empty while waiting for another process.
        step: optimizer steps done, of `n_steps`; both 0 while nothing is trained.
        forecast: how long the rest will take.
    """

    n_done: int
    n: int
    doing: str = ""
    step: int = 0
    n_steps: int = 0
    forecast: Forecast = field(default_factory=Forecast)


@dataclass(frozen=True, kw_only=True, eq=False)
class Worker:
    """One process of a study.

    Attributes:
        nodes: what shall exist in the end, parents first.
        folder: ledger, work and files; shared by all processes of the study.
        home: "file.py:function" in the study is relative to it.
        n_threads: of training and of the engine.
        on_progress: called before each outcome and after each training step.
    """

    nodes: Sequence[Node]
    folder: Path
    home: Path
    n_threads: int = 1
    on_progress: Callable[[Progress], None] | None = None

    def __post_init__(self) -> None:
        if self.n_threads < 1:
            raise SettingError(f"n_threads must be at least 1, got {self.n_threads}")

    def run(self) -> tuple[str, ...]:
        """Make what is missing, or wait for others who make it; return what failed, in words.

        An outcome that fails is recorded, those that come from it are left out, and the rest is made.

        Raises:
            LedgerError: the ledger cannot be read or written.
            StudyError: the folder cannot be used.
        """
        ledger, claims = Ledger(self.folder / LEDGER), Claims(self.folder / "claims")
        failed: dict[str, str] = {}
        shop = Workshop(folder=self.folder, home=self.home, n_threads=self.n_threads)
        with _threads(self.n_threads):
            while waiting := self._waiting(done_keys(ledger), failed):
                if not self._make_one(waiting, shop, ledger, claims, failed=failed):
                    self._report(ledger, claims)
                    time.sleep(WAIT_SECONDS)
        return tuple(failed.values())

    def _waiting(self, done: set[str], failed: dict[str, str]) -> list[Node]:
        """Return what is still to be made and can be, once its parent is."""
        hopeless = set(failed)
        for node in self.nodes:  # parents first
            if node.parent is not None and node.parent.key in hopeless:
                hopeless.add(node.key)
        return [node for node in self.nodes if node.key not in done | hopeless]

    def _make_one(
        self, waiting: list[Node], shop: Workshop, ledger: Ledger, claims: Claims, *, failed: dict[str, str]
    ) -> bool:
        """Make the first outcome that is ready and that nobody else makes; return whether there was one."""
        missing = {node.key for node in waiting}
        ready = [node for node in waiting if node.parent is None or node.parent.key not in missing]
        ready.sort(key=lambda node: not (node.parent is not None and shop.remembers(node.parent)))
        for node in ready:
            with claims.take(node.key) as is_ours:
                if not is_ours or node.key in done_keys(ledger):
                    continue
                shop.report_progress = self._reporter(node, ledger, claims)
                shop.report_progress("", 0, 0)
                try:
                    ledger.append(OUTCOME, shop.make(node))
                except DwindleError as error:
                    failed[node.key] = f"{node.words}: {error}"
                    ledger.append(FAILURE, {**node.label, "key": node.key, "error": str(error)})
                return True
        return False

    def _reporter(self, node: Node, ledger: Ledger, claims: Claims) -> Callable[[str, int, int], None]:
        known = entries_of(ledger, OUTCOME)
        n_workers = max(1, claims.n_held())
        started = time.monotonic()

        def report(_: str, step: int, n_steps: int) -> None:
            if self.on_progress is None:
                return
            share = step / n_steps if n_steps else 0.0
            rest = forecast(
                self.nodes, known, doing=node, share=share, seconds=time.monotonic() - started, n_workers=n_workers
            )
            done = {entry["key"] for entry in known}
            n_done = sum(n.key in done for n in self.nodes)
            self.on_progress(
                Progress(n_done=n_done, n=len(self.nodes), doing=node.words, step=step, n_steps=n_steps, forecast=rest)
            )

        return report

    def _report(self, ledger: Ledger, claims: Claims) -> None:
        if self.on_progress is None:
            return
        known = entries_of(ledger, OUTCOME)
        done = {entry["key"] for entry in known}
        rest = forecast(self.nodes, known, n_workers=max(1, claims.n_held()))
        n_done = sum(node.key in done for node in self.nodes)
        self.on_progress(Progress(n_done=n_done, n=len(self.nodes), forecast=rest))


def done_keys(ledger: Ledger) -> set[str]:
    """Return the keys of the outcomes that `ledger` holds; of none where there is no ledger yet."""
    return {entry["key"] for entry in entries_of(ledger, OUTCOME)}


def entries_of(ledger: Ledger, kind: str) -> list[dict[str, Any]]:
    """Return the data of all entries of one kind; none where there is no ledger yet."""
    if not ledger.path.exists():
        return []
    return [dict(entry.data) for entry in ledger.read() if entry.kind == kind]


@contextmanager
def _threads(n: int) -> Generator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def require_folder(folder: Path) -> None:
    """Refuse a folder that is a file.

    Raises:
        StudyError: it is one.
    """
    if folder.exists() and not folder.is_dir():
        raise StudyError(f"{folder} is a file; name a folder for the study")
