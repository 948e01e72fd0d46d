"""Figures follow from the ledger whatever the order and the company of its entries; what is broken says so."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwindle.bench.ledger import Entry
from dwindle.core.statistics import mean_interval
from dwindle.errors import StudyError
from dwindle.studies.make import unpack_bits
from dwindle.studies.plan import Node
from dwindle.studies.results import Results, Spot, Variant, failures_of, variants_of

THREE = Variant("three")
BIG = {"stage": "retrained", "network": "Big", "data": "Shoes", "at": {"rate": "2x"}}
DROP = {**BIG, "against": "dense_longer"}
QUANTITIES = (
    "accuracy", "accuracy_drop", "std_multiplier", "sparsity", "n_weights", "weight_ratio", "size_bytes",
    "compression_ratio", "epochs",
)  # fmt: skip


def figures(entries: Any) -> list[Any]:
    results = Results.of(entries, THREE)
    return [results.figure(quantity, **DROP) for quantity in QUANTITIES]  # type: ignore[arg-type]


def right(entries: Any, stage: str, seed: int) -> np.ndarray:
    (found,) = (
        e.data for e in entries
        if (e.data["stage"], e.data["seed"], e.data["network"], e.data["data"]) == (stage, seed, "Big", "Shoes")
        and e.data["at"].get("rate", "2x") == "2x"
    )  # fmt: skip
    return unpack_bits(found["answers"]["right"], found["answers"]["n"])


def test_a_drop_is_paired_by_example_and_averaged_over_seeds(ledger: tuple[Entry, ...]) -> None:
    found = Results.of(ledger, THREE).figure("accuracy_drop", **DROP)  # type: ignore[arg-type]
    by_hand = [
        100.0 * float(right(ledger, "dense_longer", s).mean() - right(ledger, "retrained", s).mean()) for s in range(3)
    ]
    assert found is not None
    assert found.value == pytest.approx(np.mean(by_hand))
    assert (found.n_seeds, found.n_examples, found.is_exact) == (3, 1000, False)
    assert found.low < found.value < found.high
    assert found.high - found.low >= 2 * mean_interval(by_hand).half_width / 4.303 * 1.96


def test_exact_figures_have_the_range_of_the_seeds(ledger: tuple[Entry, ...]) -> None:
    results = Results.of(ledger, THREE)
    ratio = results.figure("compression_ratio", **BIG)  # type: ignore[arg-type]
    assert ratio is not None
    assert (ratio.value, ratio.low, ratio.high, ratio.is_exact, ratio.n_seeds) == (12.0, 11.0, 13.0, True, 3)
    sparsity = results.figure("sparsity", **BIG)  # type: ignore[arg-type]
    assert sparsity is not None
    assert sparsity.value == pytest.approx(0.5)


def test_what_was_not_run_or_not_recorded_has_no_figure(ledger: tuple[Entry, ...]) -> None:
    results = Results.of(ledger, THREE)
    assert results.figure("accuracy", **{**BIG, "at": {"rate": "5x"}}) is None  # type: ignore[arg-type]
    assert results.figure("accuracy", **{**BIG, "network": "Vast"}) is None  # type: ignore[arg-type]
    assert results.figure("accuracy_drop", **BIG) is None  # type: ignore[arg-type]
    assert results.figure("size_bytes", **BIG) is None  # type: ignore[arg-type]
    assert results.figure("std_multiplier", **BIG) is None  # type: ignore[arg-type]
    assert Results.of((), THREE).figure("accuracy", **BIG) is None  # type: ignore[arg-type]


def test_a_drop_takes_the_seeds_that_both_have(ledger: tuple[Entry, ...]) -> None:
    fewer = [e for e in ledger if (e.data["stage"], e.data["seed"]) != ("dense_longer", 1)]
    found = Results.of(fewer, THREE).figure("accuracy_drop", **DROP)  # type: ignore[arg-type]
    assert found is not None
    assert found.n_seeds == 2
    none = [e for e in ledger if e.data["stage"] != "dense_longer"]
    assert Results.of(none, THREE).figure("accuracy_drop", **DROP) is None  # type: ignore[arg-type]


def test_a_mean_over_spots_needs_all_of_them(ledger: tuple[Entry, ...]) -> None:
    results = Results.of(ledger, THREE)
    spots = [Spot(stage="dense", network="Big", data=data) for data in ("Shoes", "Steps")]
    found = results.mean("accuracy", spots)
    assert found is not None
    assert found.n_examples == 1400
    assert results.mean("accuracy", [*spots, Spot(stage="dense", network="Vast", data="Shoes")]) is None
    assert results.mean("accuracy", []) is None
    assert results.mean("epochs", []) is None
    assert results.difference("accuracy", spots, []) is None
    assert results.n_missing("accuracy", [*spots, Spot(stage="dense", network="Vast", data="Shoes")]) == 1


@settings(max_examples=8)
@given(seed=st.integers(0, 1000), n_repeats=st.integers(0, 20))
def test_order_repeats_and_company_do_not_matter(
    ledger: tuple[Entry, ...],
    nodes_of: Callable[..., tuple[Node, ...]],
    outcome_of: Callable[..., Entry],
    seed: int,
    n_repeats: int,
) -> None:
    draw = random.Random(seed)
    mixed = [*ledger, *draw.choices(ledger, k=n_repeats)]
    mixed += [outcome_of(node, drop=30.0) for node in nodes_of("one")]
    mixed += [outcome_of(node, drop=40.0) for node in nodes_of("three", as_published=True)]
    mixed += [Entry(kind="run", data={"name": "something else"}, time="2026-01-01T00:00:00+00:00")]
    draw.shuffle(mixed)
    assert figures(mixed) == figures(ledger)
    assert variants_of(mixed) == (Variant("one"), THREE, Variant("three", is_as_published=True))


@settings(max_examples=8)
@given(seed=st.integers(0, 1000))
def test_the_newest_of_equal_labels_wins(ledger: tuple[Entry, ...], changed: Any, seed: int) -> None:
    old = [changed(Entry(e.kind, e.data, "2025-01-01T00:00:00"), n_weights=1, epochs=99) for e in ledger]
    mixed = [*old, *ledger]
    random.Random(seed).shuffle(mixed)
    assert figures(mixed) == figures(ledger)


def test_equally_old_ones_are_told_apart_without_their_order(ledger: tuple[Entry, ...], changed: Any) -> None:
    other = [changed(entry, n_weights=1) for entry in ledger]
    assert figures([*other, *ledger]) == figures([*ledger, *other])


def test_an_outcome_counts_wherever_its_key_was_made(
    ledger: tuple[Entry, ...], nodes_of: Callable[..., tuple[Node, ...]]
) -> None:
    variant, nodes = Variant("three", is_as_published=True), nodes_of("three", as_published=True)
    shared = Results.of(ledger, variant, nodes=nodes)
    assert {outcome.stage for outcome in shared.outcomes} == {"dense", "dense_longer", "retrained"}
    assert shared.figure("accuracy_drop", **DROP) == figures(ledger)[1]  # type: ignore[arg-type]
    assert Results.of(ledger, variant).outcomes == ()


def test_an_outcome_that_was_called_otherwise_is_found_by_its_key(
    ledger: tuple[Entry, ...], nodes_of: Callable[..., tuple[Node, ...]], changed: Any
) -> None:
    renamed = [changed(e, stage=f"old {e.data['stage']}", at={}) for e in ledger]
    found = Results.of(renamed, THREE, nodes=nodes_of())
    assert [found.figure(q, **DROP) for q in QUANTITIES] == figures(ledger)  # type: ignore[arg-type]
    assert found.n_outdated == 0


def test_outcomes_by_other_settings_are_counted(
    ledger: tuple[Entry, ...], nodes_of: Callable[..., tuple[Node, ...]], changed: Any
) -> None:
    stale = [changed(ledger[0], key="0" * 16), *ledger[1:]]
    assert Results.of(stale, THREE, nodes=nodes_of()).n_outdated == 1
    assert Results.of(ledger, THREE, nodes=nodes_of()).n_outdated == 0
    both = Results.of([*ledger, stale[0]], THREE, nodes=nodes_of())
    assert both.n_outdated == 0
    assert figures([*ledger]) == [both.figure(q, **DROP) for q in QUANTITIES]  # type: ignore[arg-type]


def test_failures_are_those_that_nothing_mended(ledger: tuple[Entry, ...]) -> None:
    data = {**{k: ledger[0].data[k] for k in ("network", "data", "seed", "stage", "at")}, "error": "no room"}
    failed = [
        Entry(kind="failure", data={**data, "key": "later", "error": "first"}, time="2026-05-01T00:00:00+00:00"),
        Entry(kind="failure", data={**data, "key": "later"}, time="2026-05-02T00:00:00+00:00"),
        Entry(kind="failure", data={**data, "key": ledger[0].data["key"]}, time="2026-05-01T00:00:00+00:00"),
    ]
    assert failures_of([*failed, *ledger]) == ("Big on Shoes, seed 0: dense: no room",)
    assert failures_of([Entry(kind="failure", data={}, time="2026-05-01T00:00:00Z")]) == ("? on ?, seed ?: ?: ?",)


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"stage": None}, "stage = None, not a str"),
    ({"seed": "0"}, "seed = '0', not a int"),
    ({"seed": True}, "seed = True"),
    ({"network": 3}, "network = 3"),
    ({"preset": None}, "preset"),
    ({"is_as_published": 0}, "is_as_published = 0"),
    ({"key": None}, "key"),
    ({"at": {"rate": 2}}, "at.rate = 2"),
    ({"answers": None}, "answers.n = None"),
    ({"answers": {"n": 1000}}, "answers.right = None"),
    ({"answers": {"n": 0, "right": ""}}, "0 answers"),
    ({"answers": {"n": -8, "right": ""}}, "-8 answers"),
    ({"answers": {"n": 10**12, "right": "oA=="}}, "cannot be packed into 1 bytes"),
    ({"answers": {"n": 3, "right": "oAoA"}}, "3 answers cannot be packed into 3 bytes"),
    ({"answers": {"n": 3, "right": "!!!"}}, "not base64"),
    ({"answers": {"n": 3, "right": "é"}}, "not base64"),
]


@pytest.mark.parametrize(("data", "message"), BROKEN)
def test_a_broken_outcome_is_one_clear_error(
    ledger: tuple[Entry, ...], changed: Any, data: dict[str, Any], message: str
) -> None:
    broken = [changed(ledger[0], **data), *ledger[1:]]
    with pytest.raises(StudyError, match=message):
        Results.of(broken, THREE)


@pytest.mark.parametrize("time", ["yesterday", "", None, 5])
def test_an_entry_without_a_time_is_one_clear_error(ledger: tuple[Entry, ...], time: Any) -> None:
    with pytest.raises(StudyError, match="written at"):
        Results.of([Entry("outcome", ledger[0].data, time)], THREE)


@pytest.mark.parametrize("data", [[], None, "text", 3])
def test_an_outcome_that_is_no_table_is_one_clear_error(data: Any) -> None:
    with pytest.raises(StudyError, match="answers"):
        Results.of([Entry("outcome", data, "2026-05-01T00:00:00Z")], THREE)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "12", True, [1]])
def test_a_figure_that_is_no_number_is_one_clear_error(ledger: tuple[Entry, ...], changed: Any, value: Any) -> None:
    broken = [changed(entry, epochs=value, measurements=[{"metric": None, "value": 1}]) for entry in ledger]
    results = Results.of(broken, THREE)
    assert results.figure("compression_ratio", **BIG) is None  # type: ignore[arg-type]
    with pytest.raises(StudyError, match=r"epochs is .*not a finite number"):
        results.figure("epochs", **BIG)  # type: ignore[arg-type]


def test_a_history_that_is_no_list_is_one_clear_error(ledger: tuple[Entry, ...], changed: Any) -> None:
    results = Results.of([changed(ledger[0], history="none")], THREE)
    with pytest.raises(StudyError, match="history is no list of tables"):
        _ = results.outcomes[0].seconds_trained


def test_two_test_splits_on_one_data_set_are_one_clear_error(ledger: tuple[Entry, ...], changed: Any) -> None:
    shorter = changed(ledger[0], answers={"n": 8, "right": "/w=="})
    with pytest.raises(StudyError, match=r"answered .* test examples, .* need the same test split"):
        Results.of([shorter, *ledger[1:]], THREE)


def test_no_weights_left_is_no_ratio(ledger: tuple[Entry, ...], changed: Any) -> None:
    results = Results.of([changed(entry, n_weights=0) for entry in ledger], THREE)
    assert results.figure("weight_ratio", **BIG) is None  # type: ignore[arg-type]
    none = Results.of([changed(entry, n_dense_weights=0) for entry in ledger], THREE)
    assert none.figure("sparsity", **BIG) is None  # type: ignore[arg-type]


def test_entries_survive_json(ledger: tuple[Entry, ...]) -> None:
    again = [Entry(e.kind, json.loads(json.dumps(e.data)), e.time) for e in ledger]
    assert figures(again) == figures(ledger)
