"""Workers that share a study: each outcome once, failures recorded and shared, nothing else lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dwindle.bench.ledger import Ledger
from dwindle.errors import LedgerError, NetworkError, SettingError, StudyError
from dwindle.studies.locks import Locks
from dwindle.studies.pages import entries_of
from dwindle.studies.plan import Choice, Node, unfold
from dwindle.studies.progress import Progress
from dwindle.studies.read import load_study, read_study
from dwindle.studies.run import LEDGER, Worker
from dwindle.studies.standing import FAILURE, OUTCOME, Standing

MakeEntry = Callable[[Node], dict[str, Any]]


def worker(nodes: Sequence[Node], tmp_path: Path, **settings: Any) -> Worker:
    return Worker(nodes=nodes, folder=tmp_path / "out", home=tmp_path, **settings)


def kinds(tmp_path: Path, kind: str) -> list[dict[str, Any]]:
    return [dict(entry.data) for entry in Ledger(tmp_path / "out" / LEDGER).read() if entry.kind == kind]


def test_each_outcome_is_made_once_and_never_again(nodes: Sequence[Node], tmp_path: Path, shop: Any) -> None:
    seen: list[Progress] = []
    assert worker(nodes, tmp_path, on_progress=seen.append).run() == ()
    assert sorted(shop.made) == sorted(node.words for node in nodes)
    assert [d["key"] for d in kinds(tmp_path, OUTCOME)] == [node.key for node in nodes]
    assert {now.n_workers for now in seen} == {1}
    assert [now.n_done for now in seen] == sorted(now.n_done for now in seen)
    assert not list((tmp_path / "out/claims").iterdir())
    assert not list((tmp_path / "out/workers").iterdir())
    worker(nodes, tmp_path).run()
    assert len(shop.made) == len(nodes)


def test_two_at_once_make_every_outcome_once(nodes: Sequence[Node], tmp_path: Path, shop: Any) -> None:
    failures: list[tuple[str, ...]] = []
    others = [threading.Thread(target=lambda: failures.append(worker(nodes, tmp_path).run())) for _ in range(4)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert failures == [()] * 4
    assert sorted(d["key"] for d in kinds(tmp_path, OUTCOME)) == sorted(node.key for node in nodes)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NetworkError("the loss became nan"), "the loss became nan"),
        (RuntimeError("out of luck"), "RuntimeError: out of luck (/"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_what_fails_is_recorded_and_what_comes_from_it_left_out(
    nodes: Sequence[Node], tmp_path: Path, shop: Any, error: Exception, words: str
) -> None:
    shop.broken["pruned"] = error
    failed = worker(nodes, tmp_path).run()
    assert len(failed) == 2
    assert all(words in text for text in failed)
    assert [d["stage"] for d in kinds(tmp_path, OUTCOME)] == ["dense"]
    assert [d["stage"] for d in kinds(tmp_path, FAILURE)] == ["pruned", "pruned"]
    shop.broken.clear()
    assert worker(nodes, tmp_path).run() == ()
    assert {d["key"] for d in kinds(tmp_path, OUTCOME)} == {node.key for node in nodes}


def test_where_in_the_recipe_it_failed_is_said(nodes: Sequence[Node], tmp_path: Path, shop: Any) -> None:
    error = NetworkError("the loss became nan")
    error.add_note("in step 1 of 1: FineTune(epochs=2.0)")
    shop.broken["dense"] = error
    (words,) = worker(nodes, tmp_path).run()
    assert words.endswith("dense: the loss became nan; in step 1 of 1: FineTune(epochs=2.0)")


def test_what_failed_in_another_process_is_not_tried_here(
    nodes: Sequence[Node], tmp_path: Path, shop: Any, make_entry: MakeEntry
) -> None:
    """While we make the dense network, another process sees one pruned fail."""
    ledger, real = Ledger(tmp_path / "out" / LEDGER), shop.make

    def make(self: Any, node: Node) -> dict[str, Any]:
        if node is nodes[0]:
            ledger.append(FAILURE, {**nodes[1].label, "key": nodes[1].key, "error": "theirs"})
        return real(self, node)

    shop.make = make
    (failed,) = worker(nodes, tmp_path).run()
    assert failed == f"{nodes[1].words}: theirs"
    assert nodes[1].words not in shop.made
    assert len(kinds(tmp_path, OUTCOME)) == len(nodes) - 2


def test_a_worker_waits_for_what_another_makes(
    nodes: Sequence[Node], tmp_path: Path, shop: Any, make_entry: MakeEntry
) -> None:
    ledger, waits = Ledger(tmp_path / "out" / LEDGER), []

    def other_finishes(now: Progress) -> None:
        if not now.doing:
            waits.append(now)
            ledger.append(OUTCOME, make_entry(nodes[0]))

    with Locks(tmp_path / "out/claims").take(nodes[0].key):
        assert worker(nodes, tmp_path, on_progress=other_finishes).run() == ()
    assert len(waits) == 1
    assert nodes[0].words not in shop.made


def test_a_killed_write_costs_one_outcome(nodes: Sequence[Node], tmp_path: Path, shop: Any) -> None:
    worker(nodes, tmp_path).run()
    path = tmp_path / "out" / LEDGER
    path.write_bytes(path.read_bytes()[:-30])
    shop.made.clear()
    assert worker(nodes, tmp_path).run() == ()
    assert shop.made == [nodes[-1].words]


def test_a_damaged_ledger_stops_before_any_work(nodes: Sequence[Node], tmp_path: Path, shop: Any) -> None:
    worker(nodes, tmp_path).run()
    path = tmp_path / "out" / LEDGER
    path.write_bytes(path.read_bytes().replace(b'"kind"', b'"kin', 1))
    shop.made.clear()
    with pytest.raises(LedgerError, match="line 1"):
        worker(nodes, tmp_path).run()
    assert shop.made == []


def test_presets_share_what_is_the_same_and_two_studies_share_a_folder(
    study_file: Path, nodes: Sequence[Node], tmp_path: Path, shop: Any
) -> None:
    worker(nodes, tmp_path).run()
    longer = unfold(load_study(study_file), Choice(preset="longer"))
    worker(longer, tmp_path).run()
    assert len(shop.made) == 2 * len(nodes)
    shop.made.clear()
    other = read_study(study_file.read_text().replace('name = "mine"', 'name = "yours"'), where="yours")
    worker(unfold(other, Choice(preset="quick")), tmp_path).run()
    assert shop.made == []  # all that decides them is the same
    entries = Ledger(tmp_path / "out" / LEDGER).read()
    assert len(entries_of(other, entries)) == len(nodes)
    assert len(entries_of(load_study(study_file), entries)) == 2 * len(nodes)
    worker(unfold(other, Choice(preset="quick")), tmp_path).run()
    assert len(Ledger(tmp_path / "out" / LEDGER).read()) == len(entries)


def test_entries_of_old_ledgers_name_no_study_and_are_not_entered_twice(
    nodes: Sequence[Node], tmp_path: Path, shop: Any, make_entry: MakeEntry
) -> None:
    ledger = Ledger(tmp_path / "out" / LEDGER)
    for node in nodes:
        ledger.append(OUTCOME, {key: value for key, value in make_entry(node).items() if key != "study"})
    worker(nodes, tmp_path).run()
    assert len(ledger.read()) == len(nodes)
    assert shop.made == []


def test_the_number_of_threads_enters_no_key(nodes: Sequence[Node], tmp_path: Path, shop: Any) -> None:
    worker(nodes, tmp_path, n_threads=1).run()
    worker(nodes, tmp_path, n_threads=2).run()
    assert len(shop.made) == len(nodes)
    with pytest.raises(SettingError, match="n_threads must be at least 1, got 0"):
        worker(nodes, tmp_path, n_threads=0)


def test_folders_that_cannot_be_used_are_one_error(nodes: Sequence[Node], tmp_path: Path, shop: Any) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(StudyError, match=r"is a file|cannot be written"):
            Worker(nodes=nodes, folder=folder, home=tmp_path).run()
    assert shop.made == []


def test_a_ledger_that_has_not_grown_is_not_read_again(
    nodes: Sequence[Node], tmp_path: Path, make_entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(tmp_path / LEDGER)
    ledger.append(OUTCOME, make_entry(nodes[0]))
    n_reads, real = 0, Ledger.read

    def read(self: Ledger) -> Any:
        nonlocal n_reads
        n_reads += 1
        return real(self)

    monkeypatch.setattr(Ledger, "read", read)
    standing = Standing(ledger=ledger)
    for _ in range(5):
        standing.refresh()
    assert (n_reads, standing.done) == (1, {nodes[0].key})
    ledger.append(OUTCOME, make_entry(nodes[1]))
    ledger.append("note", {"by": "somebody"})
    ledger.append(OUTCOME, {"of": "another tool"})
    standing.refresh()
    assert (n_reads, standing.done) == (2, {nodes[0].key, nodes[1].key})
