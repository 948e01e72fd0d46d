"""How long the rest takes: epochs at the pace of their case, chains, several processes, and what is not known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dwindle.bench.ledger import Ledger
from dwindle.studies import progress
from dwindle.studies.forecast import Forecast, Pace, Underway, forecast
from dwindle.studies.plan import Node
from dwindle.studies.progress import Progress, Reporter
from dwindle.studies.standing import Standing

MakeEntry = Callable[[Node], dict[str, Any]]


def test_epochs_take_what_those_of_the_case_took(nodes: Sequence[Node], make_entry: MakeEntry) -> None:
    pace = Pace.of([make_entry(nodes[0]), make_entry(nodes[1])])
    assert dict(pace.per_epoch) == {"Small on Digits": 2.0}
    assert dict(pace.beside) == {"Small on Digits": 1.0}  # 0.5 to measure what trained, 1.5 for what did not
    # Left: one pruned and two tuned for an epoch each.
    assert forecast(nodes[2:], pace) == Forecast(seconds=3 * 1.0 + 2 * 2.0)


def test_what_nothing_is_known_of_is_counted_and_not_guessed(nodes: Sequence[Node]) -> None:
    assert forecast(nodes, Pace()) == Forecast(seconds=0.0, n_unknown=len(nodes))
    assert forecast([], Pace()) == Forecast()


def test_no_number_of_processes_is_faster_than_the_longest_chain(nodes: Sequence[Node], make_entry: MakeEntry) -> None:
    pace = Pace.of([make_entry(node) for node in nodes])
    alone, shared, crowd = (forecast(nodes, pace, n_workers=n).seconds for n in (1, 2, 1000))
    one_of_each = {node.stage.name: node for node in nodes}.values()
    assert crowd == pytest.approx(forecast(list(one_of_each), pace).seconds)
    assert crowd <= shared <= alone


def test_the_outcome_under_way_counts_for_what_is_left_of_it(nodes: Sequence[Node]) -> None:
    dense = nodes[0]
    now = Underway(node=dense, share=0.75, seconds_per_epoch=10.0)
    assert forecast([dense], Pace(), underway=now) == Forecast(seconds=2 * 0.25 * 10.0)


def test_reports_are_few_and_the_last_is_never_left_out(
    nodes: Sequence[Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Progress] = []
    clock = iter(x * 0.01 + 1.0 for x in range(10_000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    standing = Standing(ledger=Ledger(tmp_path / "none.jsonl"))
    standing.refresh()
    report = Reporter(nodes=nodes, waiting=nodes, standing=standing, node=nodes[0], on_progress=seen.append)
    for step in range(1001):
        report("train", step, 1000)
    assert len(seen) < 60
    assert (seen[0].step, seen[-1].step, seen[-1].n, seen[-1].doing) == (0, 1000, len(nodes), nodes[0].words)


def test_a_training_that_goes_on_is_not_taken_for_a_fast_one(
    nodes: Sequence[Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts at half; ten seconds for the next quarter are twenty an epoch, not five."""
    times = iter([100.0, 110.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    seen: list[Progress] = []
    standing = Standing(ledger=Ledger(tmp_path / "none.jsonl"))
    dense = nodes[0]
    report = Reporter(nodes=[dense], waiting=[dense], standing=standing, node=dense, on_progress=seen.append)
    report("train", 50, 100)
    report("train", 75, 100)
    assert [now.forecast for now in seen] == [Forecast(n_unknown=1), Forecast(seconds=10.0)]


def test_finished_steps_of_an_ancestor_do_not_count(nodes: Sequence[Node], tmp_path: Path) -> None:
    seen: list[Progress] = []
    standing = Standing(ledger=Ledger(tmp_path / "none.jsonl"))
    tuned = nodes[-1]
    report = Reporter(nodes=nodes, waiting=[tuned], standing=standing, node=tuned, on_progress=seen.append)
    report.finished(nodes[0], 1)
    assert report._underway(0, 10, 1.0) == Underway(node=tuned, share=0.0)
    report.finished(tuned, 1)
    assert report._underway(0, 0, 1.0) == Underway(node=tuned, share=1.0)
