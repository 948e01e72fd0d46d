"""What a run's ledger advises: with its own bound and its own metric; figures that are missing or odd are left out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dwindle.bench.ledger import Entry
from dwindle.report.advised_run import advice_of
from dwindle.report.facts import gather
from dwindle.report.page import render
from dwindle.report.words import MINUS


def without(entries: tuple[Entry, ...], *kinds: str) -> list[Entry]:
    return [entry for entry in entries if entry.kind not in kinds]


def figures(entries: Any, name: str, **changes: Any) -> list[Entry]:
    """Return the entries with the figure called `name` changed."""
    return [
        replace(e, data={**e.data, **changes}) if e.data.get("metric", {}).get("name") == name else e for e in entries
    ]


def test_the_budget_of_the_run_is_the_bound(entries: tuple[Entry, ...]) -> None:
    assert advice_of(gather(entries)).paragraph == (
        "If accuracy may get worse by at most 0.5 points, the compressed network will do (1.20 MB as .dwn, 37.2 times "
        f"smaller than the dense .onnx; drop 0.21 [{MINUS}0.05, 0.47] points). "
        "It is faster, too (2.01 [1.96, 2.06] times as fast as the dense one)."
    )
    assert "at most 1 point," in advice_of(gather(without(entries, "budget", "summary"))).paragraph


def test_the_page_says_it(entries: tuple[Entry, ...]) -> None:
    assert advice_of(gather(entries)).paragraph in render(entries)
    assert "The ledger holds nothing that could decide it." in render(())


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.6, 0.9, "No file is shown to get worse in accuracy by at most 0.5 points."),
        (0.2, 0.9, "The compressed network (1.20 MB; drop 0.70 [0.20, 0.90] points) is undecided"),
    ],
)
def test_a_drop_that_is_not_within_the_bound(entries: Any, low: float, high: float, words: str) -> None:
    said = advice_of(gather(figures(entries, "accuracy_drop", value=0.7, low=low, high=high))).paragraph
    assert words in said
    assert "will do" not in said


def test_no_speed_up_is_said_not_to_be_one(entries: Any) -> None:
    said = advice_of(gather(figures(entries, "speedup", value=1.0, low=0.9, high=1.1))).paragraph
    assert "No file within that bound is shown to run faster" in said


@pytest.mark.parametrize("bad", [None, "fast", math.nan, math.inf, True])
def test_odd_figures_are_left_out(entries: Any, bad: Any) -> None:
    said = advice_of(gather(figures(entries, "speedup", low=bad))).paragraph
    assert "will do" in said
    assert "faster" not in said
    assert "will do" not in advice_of(gather(figures(entries, "accuracy_drop", high=bad))).paragraph


@pytest.mark.parametrize("kind", ["artifact", "measurement"])
def test_nothing_is_advised_without_figures(entries: Any, kind: str) -> None:
    said = advice_of(gather(without(entries, kind)))
    assert "smaller" not in said.paragraph
    assert advice_of(gather(without(entries, "artifact", "measurement"))).statements == ()


def test_a_metric_of_its_own_needs_a_bound_of_its_own(make_entry: Callable[..., Entry]) -> None:
    file = make_entry("artifact", role="compressed", path="m.dwn", format="dwn", sha256="f", size_bytes=10)
    error, rise = (
        make_entry(
            "measurement", role="compressed", metric={"name": name, "unit": "mm", "better": -1}, value=value,
            low=value, high=value, n=9, artifact="f",
        )
        for name, value in (("depth_error", 3.0), ("depth_error_drop", 0.25))
    )  # fmt: skip
    assert advice_of(gather([file, error, rise])).statements == ()
    budget = make_entry("budget", bounds={"depth_error_drop": 0.5}, verdict="met", verdicts={})
    said = advice_of(gather([file, error, rise, budget])).paragraph
    assert said.startswith("If depth error may get worse by at most 0.5 mm, the compressed network will do")
    assert "rise 0.250 [0.250, 0.250] mm" in said


def counted(entries: tuple[Entry, ...], counts: list[list[int]]) -> list[Entry]:
    """Return the entries with other answers of the dense network to its classes."""
    names = [str(i) for i in range(len(counts))]
    answers = Entry("confusion", {"role": "dense", "class_names": names, "counts": counts}, "")
    return [*without(entries, "confusion"), answers]


@pytest.mark.parametrize(
    ("counts", "figures_said"),
    [
        ([[0, 90], [0, 10]], "50.00 [50.00, 50.00] % on average, and guessing 50.00 %"),  # 10 % right
        ([[52, 48], [49, 51]], "51.50 [44.57, 58.43] % on average, and guessing 50.00 %"),
        ([[0, 0, 0], [0, 30, 20], [0, 30, 20]], "50.00 [40.40, 59.60] % on average, and guessing 50.00 %"),
    ],
)
def test_a_dense_network_that_guesses_has_nothing_to_lose(
    entries: tuple[Entry, ...], counts: list[list[int]], figures_said: str
) -> None:
    said = advice_of(gather(counted(entries, counts))).paragraph
    assert said.startswith("The dense network is not shown to tell its classes apart: of the examples of a class it")
    assert figures_said in said
    assert "will do" not in said


@pytest.mark.parametrize("counts", [[[855, 95], [5, 45]], [[60, 40], [30, 70]], [[100]], [[0, 0], [3, 7]], []])
def test_where_classes_are_told_apart_or_nobody_knows_there_is_advice(
    entries: tuple[Entry, ...], counts: list[list[int]]
) -> None:
    assert "will do" in advice_of(gather(counted(entries, counts))).paragraph


def test_without_a_compressed_file_nothing_is_said_of_a_dense_one_that_guesses(entries: tuple[Entry, ...]) -> None:
    alone = [e for e in counted(entries, [[1, 1], [1, 1]]) if e.data.get("role") != "compressed"]
    assert not advice_of(gather(alone)).statements
