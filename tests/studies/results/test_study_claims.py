"""Claims are decided by intervals of three seeds and more, over all that they are about, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwindle.bench.ledger import Entry
from dwindle.errors import SettingError
from dwindle.report.weighed import N_TRAININGS_NEEDED
from dwindle.settings import from_plain
from dwindle.studies.claims import Ruling, judge
from dwindle.studies.plan import Node
from dwindle.studies.read import load_study
from dwindle.studies.results import Results, Variant
from dwindle.studies.shown import Claim, Condition
from dwindle.studies.study import Study

THREE = Variant("three")
Make = Callable[..., Entry]
Nodes = Callable[..., tuple[Node, ...]]


def claim(*conditions: dict[str, Any]) -> Claim:
    return from_plain(Claim, {"id": "x", "text": "x", "conditions": list(conditions)}, where="x")


def drop(relation: str, bound: float, **where: Any) -> dict[str, Any]:
    return {
        "left": {"stage": "retrained", "quantity": "accuracy_drop", "where": where},
        "relation": relation,
        "bound": bound,
    }


def ruling(tiny: Study, entries: Any, *conditions: dict[str, Any]) -> str:
    return judge(claim(*conditions), tiny, Results.of(entries, THREE)).ruling.value


@pytest.mark.parametrize(
    ("relation", "bound", "expected"),
    [
        ("below", 3.0, "CONFIRMED"),
        ("below", 0.05, "REFUTED"),
        ("below", 1.0, "UNDECIDED"),
        ("above", 0.05, "CONFIRMED"),
        ("above", 3.0, "REFUTED"),
        ("above", 1.0, "UNDECIDED"),
    ],
)
def test_an_interval_decides(
    tiny: Study, ledger: tuple[Entry, ...], relation: str, bound: float, expected: str
) -> None:
    assert ruling(tiny, ledger, drop(relation, bound, rate="2x", network="Small")) == expected


def test_two_sides_are_compared_by_their_difference(tiny: Study, ledger: tuple[Entry, ...]) -> None:
    judged = judge(tiny.claims[1], tiny, Results.of(ledger, THREE))
    more, small = judged.conditions
    assert judged.ruling is more.ruling is small.ruling is Ruling.CONFIRMED
    assert more.left is not None
    assert more.right is not None
    assert more.difference is not None
    assert more.difference.value == pytest.approx(more.left.value - more.right.value)
    assert more.difference.high - more.difference.low < (more.left.high - more.left.low) * 1.5  # paired
    assert small.left is not None
    assert (small.left.low, small.left.high) == (11.0, 13.0)


def test_equal_sides_are_neither_below_nor_above(tiny: Study, ledger: tuple[Entry, ...]) -> None:
    for quantity in ("accuracy_drop", "compression_ratio"):
        side = {"stage": "clustered", "quantity": quantity, "where": {"network": "Small"}}
        for relation in ("below", "above"):
            assert ruling(tiny, ledger, {"left": side, "relation": relation, "right": side}) == "UNDECIDED"


def test_a_bound_may_be_met_exactly(tiny: Study, ledger: tuple[Entry, ...]) -> None:
    side = {"stage": "clustered", "quantity": "compression_ratio", "where": {"network": "Small"}}
    assert ruling(tiny, ledger, {"left": side, "relation": "above", "bound": 11}) == "CONFIRMED"
    assert ruling(tiny, ledger, {"left": side, "relation": "below", "bound": 13}) == "CONFIRMED"
    assert ruling(tiny, ledger, {"left": side, "relation": "above", "bound": 13}) == "UNDECIDED"


@pytest.mark.parametrize("n_seeds", range(1, N_TRAININGS_NEEDED))
def test_too_few_seeds_decide_nothing(tiny: Study, ledger: tuple[Entry, ...], n_seeds: int) -> None:
    fewer = [entry for entry in ledger if entry.data["seed"] < n_seeds]
    for one in tiny.claims:
        judged = judge(one, tiny, Results.of(fewer, THREE))
        assert {condition.ruling for condition in judged.conditions} == {Ruling.UNDECIDED}
    assert ruling(tiny, fewer, drop("below", 99.0)) == "UNDECIDED"
    one_cell = [e for e in ledger if e.data["seed"] < n_seeds or e.data["network"] == "Small"]
    assert ruling(tiny, one_cell, drop("below", 99.0)) == "UNDECIDED"  # the fewest count


def test_what_is_missing_leaves_a_claim_open(tiny: Study, ledger: tuple[Entry, ...]) -> None:
    fewer = [entry for entry in ledger if entry.data["data"] == "Shoes"]
    (condition,) = judge(tiny.claims[0], tiny, Results.of(fewer, THREE)).conditions
    assert (condition.ruling, condition.n_missing) == (Ruling.UNDECIDED, 2)
    assert condition.left is not None
    assert condition.left.n_examples == 1000
    judged = judge(tiny.claims[0], tiny, Results.of((), THREE))
    assert judged.ruling is Ruling.NOT_RUN
    assert judged.conditions[0].left is None
    elsewhere = {"stage": "dense", "quantity": "accuracy", "where": {"data": "Steps", "network": "Small"}}
    assert ruling(tiny, ledger, {"left": elsewhere, "relation": "above", "bound": 0}) == "NOT RUN"


def test_a_drop_against_a_poor_dense_network_decides_nothing(tiny: Study, nodes_of: Nodes, outcome_of: Make) -> None:
    entries = [outcome_of(node, accuracy=75.0) for node in nodes_of()]
    assert ruling(tiny, entries, drop("below", 99.0, network="Big")) == "UNDECIDED"
    assert ruling(tiny, entries, drop("below", 99.0, network="Small")) == "CONFIRMED"
    high = {"stage": "dense", "quantity": "accuracy", "where": {"network": "Big"}}
    assert ruling(tiny, entries, {"left": high, "relation": "above", "bound": 10}) == "CONFIRMED"


def test_one_refuted_condition_refutes(tiny: Study, ledger: tuple[Entry, ...]) -> None:
    yes, no, open_ = drop("below", 99.0), drop("below", 0.05), drop("below", 1.0, rate="2x", network="Small")
    absent = drop("below", 1.0, network="Vast")
    assert ruling(tiny, ledger, yes, yes) == "CONFIRMED"
    assert ruling(tiny, ledger, yes, no) == ruling(tiny, ledger, open_, no) == "REFUTED"
    assert ruling(tiny, ledger, yes, open_) == ruling(tiny, ledger, yes, absent) == "UNDECIDED"
    assert ruling(tiny, ledger, absent, absent) == "NOT RUN"


@settings(max_examples=10)
@given(
    value=st.floats(-50, 50),
    bound=st.floats(-60, 60),
    relation=st.sampled_from(["below", "above"]),
)
def test_both_relations_never_agree(
    tiny: Study, nodes_of: Nodes, outcome_of: Make, value: float, bound: float, relation: str
) -> None:
    nodes = [node for node in nodes_of() if node.case.network == "Small" and node.stage.name.startswith("dense")]
    entries = [outcome_of(node, accuracy=50 + value) for node in nodes]
    side = {"stage": "dense", "quantity": "accuracy", "where": {"network": "Small"}}
    one = ruling(tiny, entries, {"left": side, "relation": relation, "bound": bound + 50})
    other = {"below": "above", "above": "below"}[relation]
    mirrored = ruling(tiny, entries, {"left": side, "relation": other, "bound": bound + 50})
    assert {one, mirrored} in ({"CONFIRMED", "REFUTED"}, {"UNDECIDED"})


def test_a_condition_compares_like_with_like() -> None:
    side = {"stage": "dense", "quantity": "accuracy"}
    with pytest.raises(SettingError, match="exactly one"):
        from_plain(Condition, {"left": side, "relation": "below"}, where="x")
    right = {"stage": "dense", "quantity": "epochs"}
    with pytest.raises(SettingError, match="compare like"):
        from_plain(Condition, {"left": side, "relation": "below", "right": right}, where="x")
    with pytest.raises(SettingError, match="no condition"):
        claim()


def test_the_claims_of_tian_are_about_something() -> None:
    study = load_study("tian")
    assert {one.is_ours for one in study.claims} == {True, False}
    for one in study.claims:
        for condition in judge(one, study, Results.of((), Variant("full"))).conditions:
            assert condition.n_missing > 0, one.id
