"""The page says what is in the ledger and in the study, in tables that Markdown reads, and nothing else."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwindle.bench.ledger import Entry, Ledger
from dwindle.errors import SettingError, StudyError
from dwindle.studies.markdown import MOST_COLUMNS, study_page
from dwindle.studies.plan import Node
from dwindle.studies.read import load_study
from dwindle.studies.study import Study

GOLDEN = Path(__file__).parent / "golden"


def tables(page: str) -> list[list[list[str]]]:
    found = re.findall(r"(?:^\|.*\|\n)+", page, flags=re.MULTILINE)
    return [[re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines()] for table in found]


def test_the_page_of_a_smoke_run_is_as_it_was() -> None:
    page = study_page(load_study(GOLDEN / "digits.toml"), Ledger(GOLDEN / "digits.jsonl").read())
    assert page == (GOLDEN / "digits.md").read_text(encoding="utf-8")


@settings(max_examples=5)
@given(seed=st.integers(0, 100))
def test_the_order_of_entries_does_not_matter(tiny: Study, ledger: tuple[Entry, ...], seed: int) -> None:
    mixed = [*ledger, *ledger[:5]]
    random.Random(seed).shuffle(mixed)
    assert study_page(tiny, mixed) == study_page(tiny, ledger)


def test_tables_are_tables(tiny: Study, ledger: tuple[Entry, ...]) -> None:
    found = tables(study_page(tiny, ledger))
    assert len(found) == 3
    for table in found:
        assert len({len(line) for line in table}) == 1
        assert len(table[0]) <= MOST_COLUMNS


def test_every_variant_has_its_part(
    tiny: Study, ledger: tuple[Entry, ...], nodes_of: Callable[..., tuple[Node, ...]], outcome_of: Callable[..., Entry]
) -> None:
    others = [outcome_of(node) for node in (*nodes_of("one"), *nodes_of("three", as_published=True))]
    page = study_page(tiny, [*ledger, *others])
    parts = [line for line in page.splitlines() if line.startswith("## ") and line.endswith(": tables")]
    assert parts == ["## Preset one: tables", "## Preset three: tables", "## Preset three, as published: tables"]
    assert "As published: Zeros are included." in page
    assert "| three | Shoes | Big, Small | 0, 1, 2 | 48 of 48 | 54 | 12.0 |" in page
    assert "Recorded 2026-05-01 to 2026-05-03 with dwindle 0.1.0. Machine: a machine." in page
    assert "What we claim:\n\n- **CONFIRMED** 10x costs more than 2x, and files are small." in page


def test_seeds_that_differ_are_a_column(tiny: Study, ledger: tuple[Entry, ...]) -> None:
    fewer = [e for e in ledger if e.data["seed"] == 0 or e.data["network"] != "Big"]
    page = study_page(tiny, fewer)
    assert "n = 1 or 3 seeds, 1,000 test examples." in page
    head, _, *rows = tables(page)[1]
    assert [cell.strip() for cell in head[:3]] == ["network", "rate", "n"]
    assert [row[2].strip() for row in rows] == ["1", "1", "3", "3"]


def test_rows_with_nothing_to_show_are_named_once(tiny: Study, ledger: tuple[Entry, ...]) -> None:
    page = study_page(tiny, [e for e in ledger if e.data["network"] != "Small"])
    assert "Not run: Small." in page
    assert "| Small |" not in page
    half = [e for e in ledger if e.data["network"] != "Small" or e.data["at"].get("rate") != "2x"]
    assert "Not run: Small 2x." in study_page(tiny, half)
    published = study_page(tiny, [e for e in ledger if e.data["at"].get("rate") != "2x"])
    assert "| Big | 2x | - | 5.0M | - | 90.50 | - |" in published


def test_poor_dense_networks_are_marked(
    tiny: Study, nodes_of: Callable[..., tuple[Node, ...]], outcome_of: Callable[..., Entry]
) -> None:
    page = study_page(tiny, [outcome_of(node, accuracy=75.0) for node in nodes_of()])
    assert "† dense below the floor of 80 (Big on Shoes: " in page
    assert len(re.findall(r"^\| Big .*† \|$", page, flags=re.MULTILINE)) == 2
    assert "†" not in study_page(tiny, [outcome_of(node) for node in nodes_of()])


def test_failures_and_stale_outcomes_are_said(tiny: Study, ledger: tuple[Entry, ...], changed: Any) -> None:
    label = {key: ledger[0].data[key] for key in ("network", "data", "seed", "stage", "at")}
    failure = Entry("failure", {**label, "key": "x", "error": "no | room\n<b>"}, "2026-05-09T00:00:00Z")
    page = study_page(tiny, [changed(ledger[0], key="old"), *ledger[1:], failure])
    assert "- Big on Shoes, seed 0: dense: no \\| room &lt;b>" in page
    assert "Preset three: 1 outcome made by settings other than those of today." in page
    assert "Failed" not in study_page(tiny, ledger)


@pytest.mark.parametrize("text", ["a | b", "two\nlines", "<script>alert(1)</script>", "", "é"])
def test_texts_of_the_ledger_stay_texts(tiny: Study, ledger: tuple[Entry, ...], changed: Any, text: str) -> None:
    page = study_page(tiny, [changed(entry, machine=text, version=text) for entry in ledger])
    assert "<script" not in page
    assert len(tables(page)) == 3


def test_without_outcomes_there_is_no_page(tiny: Study, ledger: tuple[Entry, ...], changed: Any) -> None:
    with pytest.raises(StudyError, match="no outcome of study tiny"):
        study_page(tiny, ())
    with pytest.raises(SettingError, match="no preset 'many'"):
        study_page(tiny, [changed(ledger[0], preset="many")])


def test_seeds_beyond_the_preset_count(
    tiny: Study, nodes_of: Callable[..., tuple[Node, ...]], outcome_of: Callable[..., Entry], changed: Any
) -> None:
    entries = [outcome_of(node) for node in nodes_of("one")]
    more = [changed(entry, seed=7, key="another") for entry in entries]
    assert "| one | Shoes | Big, Small | 0 | 10 of 10 |" in study_page(tiny, entries)
    page = study_page(tiny, [*entries, *more])
    assert "| one | Shoes | Big, Small | 0, 7 | 20 of 20 |" in page
    assert "n = 2 seeds" in page


def test_outcomes_of_networks_that_the_study_lacks_are_left_out(
    tiny: Study, ledger: tuple[Entry, ...], changed: Any
) -> None:
    others = [changed(entry, network="Vast", data="Faces", key="other") for entry in ledger]
    assert "Vast" not in study_page(tiny, [*ledger, *others])
    assert study_page(tiny, others[:1]).startswith("# Tiny networks, pruned")
