"""Tables have the rows of the study in its order, ours beside the published; what is missing or too poor shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dwindle.bench.ledger import Entry
from dwindle.errors import SettingError
from dwindle.studies.matching import dense_stage
from dwindle.studies.plan import Node
from dwindle.studies.results import Results, Variant
from dwindle.studies.shown import Column
from dwindle.studies.study import Study
from dwindle.studies.tables import figure_words, fill

THREE = Variant("three")


def test_rows_are_those_of_the_study_in_its_order(tiny: Study, ledger: tuple[Entry, ...]) -> None:
    table = fill(tiny.table("1"), tiny, Results.of(ledger, THREE))
    assert table.row_titles == ("network", "rate")
    assert [row.names for row in table.rows] == [("Big", "2x"), ("Big", "10x"), ("Small", "2x"), ("Small", "10x")]
    assert [heading.has_published for heading in table.headings] == [True, True, False]
    weights, accuracy, drop = table.rows[0].cells
    assert (weights.value, weights.published, weights.is_exact) == (5_000_000, 5_000_000, True)
    assert (accuracy.published, accuracy.n_seeds, accuracy.n_examples) == (90.5, 3, 1000)
    assert drop.published is None
    assert drop.low is not None
    assert drop.high is not None
    assert drop.value is not None
    assert drop.low < drop.value < drop.high
    assert table.rows[2].cells[0].published is None
    assert (table.n_seeds, table.is_empty) == (3, False)


def test_a_preset_has_its_own_rows(
    tiny: Study, nodes_of: Callable[..., tuple[Node, ...]], outcome_of: Callable[..., Entry]
) -> None:
    results = Results.of([outcome_of(node) for node in nodes_of("one")], Variant("one"))
    assert [row.names for row in fill(tiny.table("1"), tiny, results).rows] == [("Big", "10x"), ("Small", "10x")]
    with pytest.raises(SettingError, match="no preset 'many'"):
        fill(tiny.table("1"), tiny, Results.of((), Variant("many")))


def test_a_mean_over_data_sets_needs_all_of_those_that_a_network_has(tiny: Study, ledger: tuple[Entry, ...]) -> None:
    whole = fill(tiny.table("2"), tiny, Results.of(ledger, THREE))
    assert [row.cells[0].n_examples for row in whole.rows] == [1400, 1400, 1000, 1000]
    fewer = [entry for entry in ledger if entry.data["data"] == "Shoes"]
    part = fill(tiny.table("2"), tiny, Results.of(fewer, THREE))
    assert [row.cells[0].value is None for row in part.rows] == [True, True, False, False]


def test_missing_outcomes_and_seeds_show(tiny: Study, ledger: tuple[Entry, ...]) -> None:
    fewer = [e for e in ledger if e.data["seed"] == 0 or e.data["network"] != "Big"]
    fewer = [e for e in fewer if e.data["network"] != "Small" or e.data["at"].get("rate") != "2x"]
    table = fill(tiny.table("1"), tiny, Results.of(fewer, THREE))
    assert [row.cells[2].n_seeds for row in table.rows] == [1, 1, 0, 3]
    assert table.rows[2].cells[2].value is None
    assert fill(tiny.table("1"), tiny, Results.of((), THREE)).is_empty


@pytest.mark.parametrize(("accuracy", "is_poor"), [(85.0, False), (75.0, True)])
def test_a_drop_against_a_poor_dense_network_is_flagged(
    tiny: Study,
    nodes_of: Callable[..., tuple[Node, ...]],
    outcome_of: Callable[..., Entry],
    accuracy: float,
    is_poor: bool,
) -> None:
    results = Results.of([outcome_of(node, accuracy=accuracy) for node in nodes_of()], THREE)
    table = fill(tiny.table("1"), tiny, results)
    flags = [[cell.is_below_floor for cell in row.cells] for row in table.rows]
    assert flags == [[False, False, is_poor]] * 2 + [[False] * 3] * 2  # Small has no floor
    shared = fill(tiny.table("2"), tiny, results)
    assert not any(cell.is_below_floor for row in shared.rows for cell in row.cells)  # not against a dense network


def test_the_dense_network_is_what_most_drops_are_taken_against(tiny: Study) -> None:
    assert dense_stage(tiny) is tiny.stage("dense_longer")
    alone = replace(tiny, stages=(tiny.stage("dense"),))
    assert dense_stage(alone) is None


@pytest.mark.parametrize("where", [{}, {"data": ["Shoes", "Steps"]}])
def test_a_cell_that_could_be_several_outcomes_is_an_error(
    tiny: Study, ledger: tuple[Entry, ...], where: dict[str, Any]
) -> None:
    table = replace(tiny.table("1"), where=where)
    with pytest.raises(SettingError, match="has a figure for each data; name it"):
        fill(table, tiny, Results.of(ledger, THREE))


@pytest.mark.parametrize("value", ["5", True, float("nan")])
def test_a_published_figure_that_is_no_number_is_an_error(tiny: Study, ledger: tuple[Entry, ...], value: Any) -> None:
    table = replace(tiny.table("1"), published=({"network": "Big", "rate": "2x", "weights": value},))
    with pytest.raises(SettingError, match=r"published weights .* is no finite number"):
        fill(table, tiny, Results.of(ledger, THREE))


def test_figures_have_the_digits_of_their_kind(tiny: Study, ledger: tuple[Entry, ...]) -> None:
    weights, accuracy, drop = fill(tiny.table("1"), tiny, Results.of(ledger, THREE)).headings
    assert figure_words(11_200_010, weights) == "11.20M"
    assert figure_words(11_200_000, weights, is_published=True) == "11.2M"
    assert figure_words(54_772, weights) == "54,772"
    assert figure_words(93.1, accuracy, is_published=True) == "93.10"
    assert (figure_words(93.1, accuracy), figure_words(-0.5, drop)) == ("93.1", "-0.50")


def test_axes_that_a_stage_lacks_are_passed_over(tiny: Study, ledger: tuple[Entry, ...]) -> None:
    column = Column(title="dense", stage="dense", quantity="accuracy")
    table = fill(replace(tiny.table("1"), columns=(column,)), tiny, Results.of(ledger, THREE))
    assert len({row.cells[0].value for row in table.rows[:2]}) == 1
