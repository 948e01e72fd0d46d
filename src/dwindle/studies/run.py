"""This file runs a study: it makes the outcomes that the ledger lacks, beside other processes that do the same."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from dwindle.bench.ledger import Ledger
from dwindle.errors import DwindleError, SettingError, StudyError
from dwindle.studies.check import require_sound
from dwindle.studies.locks import Locks
from dwindle.studies.make import Workshop
from dwindle.studies.plan import Node
from dwindle.studies.progress import Progress, Reporter
from dwindle.studies.standing import FAILURE, OUTCOME, Standing

LEDGER: Final = "ledger.jsonl"
WAIT_SECONDS: Final = 2.0
"""Between looks at what other processes have finished."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Worker:
    """One process of a study.

    Attributes:
        nodes: what shall exist in the end, parents first.
        folder: ledger, work and files; shared by all processes of the study.
        home: "file.py:function" in the study is relative to it.
        n_threads: of training and of the engine.
        on_progress: called before each outcome, a few times a second while it is trained, and while waiting.
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
        """Make what is missing, or wait for others who make it; return what failed meanwhile, in words.

        An outcome that fails, here or in another process, is recorded, those that come from it are left out, and the
        rest is made. The next run tries it again.

        Raises:
            SettingError: the study cannot run: a function that is not there, a setting that does not fit.
            LedgerError: the ledger cannot be read or written.
            StudyError: the folder cannot be used.
        """
        require_folder(self.folder)
        require_sound(self.nodes, self.home)
        with ExitStack() as stack:
            stack.enter_context(_threads(self.n_threads))
            run = _Run(self)
            stack.enter_context(run.workers.join())
            return run.finish()


class _Run:
    """One run of a worker."""

    def __init__(self, worker: Worker) -> None:
        self.worker: Final = worker
        self.ledger: Final = Ledger(worker.folder / LEDGER)
        self.locks: Final = Locks(worker.folder / "claims")  # under this name for processes of every version
        self.workers: Final = Locks(worker.folder / "workers")
        self.shop: Final = Workshop(folder=worker.folder, home=worker.home, n_threads=worker.n_threads)
        self.standing: Final = Standing(ledger=self.ledger)
        self.standing.refresh()
        self.n_old_failures: Final = len(self.standing.failures)

    def finish(self) -> tuple[str, ...]:
        """Make or wait for everything; return what failed."""
        self.standing.refresh()
        self._adopt()
        while waiting := self._waiting():
            if not self._make_one(waiting):
                self._reporter(waiting)("", 0, 0)
                time.sleep(WAIT_SECONDS)
        self._adopt()
        failed = self._failed()
        return tuple(f"{node.words}: {failed[node.key]}" for node in self.worker.nodes if node.key in failed)

    def _adopt(self) -> None:
        """Enter the outcomes of other studies in this folder that are ours as well: all that decides them is the same.

        Likewise those that two stages of one study share.
        """
        own = self.worker.nodes[0].study if self.worker.nodes else ""
        known = {_identity({"study": own, **outcome}) for outcome in self.standing.outcomes}  # old ones name no study
        by_key = {str(outcome["key"]): outcome for outcome in self.standing.outcomes}
        for node in self.worker.nodes:
            label = {**node.label, "study": node.study, "key": node.key}
            if node.key in by_key and _identity(label) not in known:
                variant = {"preset": node.preset, "is_as_published": node.is_as_published}
                self.ledger.append(OUTCOME, {**by_key[node.key], **label, **variant})
        self.standing.refresh()

    def _failed(self) -> dict[str, str]:
        """Return what failed since this run began and was not made since then: its key, and why."""
        new = self.standing.failures[self.n_old_failures :]
        return {str(f["key"]): str(f.get("error", "")) for f in new if f["key"] not in self.standing.done}

    def _waiting(self) -> list[Node]:
        """Return what is still to be made and can be, once its parent is."""
        self.standing.refresh()
        done, hopeless = self.standing.done, set(self._failed())
        for node in self.worker.nodes:  # parents first
            if node.parent is not None and node.parent.key in hopeless and node.key not in done:
                hopeless.add(node.key)
        return [node for node in self.worker.nodes if node.key not in done | hopeless]

    def _make_one(self, waiting: Sequence[Node]) -> bool:
        """Make the first outcome that is ready and that nobody else makes; return whether there was one."""
        missing = {node.key for node in waiting}
        ready = [node for node in waiting if node.parent is None or node.parent.key not in missing]
        ready.sort(key=lambda node: not (node.parent is not None and self.shop.remembers(node.parent)))
        for node in ready:
            with self.locks.take(node.key) as is_ours:
                if not is_ours:
                    continue
                self.standing.refresh()
                if node.key in self.standing.done:
                    continue  # another process finished it since we looked
                self._make(node, waiting)
                return True
        return False

    def _make(self, node: Node, waiting: Sequence[Node]) -> None:
        """Make an outcome whose lock we hold."""
        report = self._reporter([other for other in waiting if other.key not in self.standing.done], node)
        self.shop.report_progress, self.shop.on_step = report, report.finished
        report("", 0, 0)
        try:
            self.ledger.append(OUTCOME, self.shop.make(node))
        except Exception as error:  # ruff: ignore[blind-except] (a user's own code, or a full disk: the rest is made)
            self.ledger.append(FAILURE, {**node.label, "key": node.key, "study": node.study, "error": _words_of(error)})
        else:
            self.locks.forget(node.key)  # whoever takes the lock from now on sees that the outcome is there

    def _reporter(self, waiting: Sequence[Node], node: Node | None = None) -> Reporter:
        return Reporter(
            nodes=self.worker.nodes,
            waiting=waiting,
            standing=self.standing,
            node=node,
            n_workers=self.workers.n_held() if self.worker.on_progress is not None else 1,
            on_progress=self.worker.on_progress,
        )


def _words_of(error: BaseException) -> str:
    """Return what went wrong, and where: the step of the recipe, and the line of code that is not ours."""
    said = str(error)
    if not isinstance(error, DwindleError):
        frames = traceback.extract_tb(error.__traceback__)
        place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
        said = f"{type(error).__name__}: {error}{place}"
    return "; ".join([said, *getattr(error, "__notes__", ())])


def _identity(outcome: Mapping[str, Any]) -> str:
    """Return what tells outcomes apart, whatever preset they were made for."""
    names = ("study", "network", "data", "seed", "stage", "at", "key")
    return json.dumps([outcome.get(name) for name in names], sort_keys=True)


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
