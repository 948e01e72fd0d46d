"""Tables whose rows are stages, figures of the .onnx and of times, and advice: read from a ledger as it should be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dwindle.bench.ledger import Entry
from dwindle.errors import SettingError, StudyError
from dwindle.studies.advised import advice_of
from dwindle.studies.markdown import OF_TIMES, study_page
from dwindle.studies.plan import Node
from dwindle.studies.problems import problems_of
from dwindle.studies.results import Results, Spot, Variant
from dwindle.studies.shown import Advised, Column, Table
from dwindle.studies.study import Study
from dwindle.studies.tables import fill

METHODS = Table(
    id="methods",
    title="Every file",
    rows=("data", "network", "method"),
    stages=("dense", "clustered"),
    columns=(
        Column(title="zip", quantity="zipped_bytes", published="zip"),
        Column(title="s", quantity="test_seconds"),
        Column(title="faster", quantity="speedup"),
        Column(title="s/epoch", quantity="seconds_per_epoch"),
    ),
    published=({"method": "dense", "zip": 7.0}, {"method": "clustered, 10x, 4", "zip": 8.0}),
    is_published_for_all=True,
)
ONE = Variant("one")


def measured(name: str, value: float, file: str, half: float = 0.0) -> dict[str, Any]:
    return {"metric": {"name": name}, "value": value, "low": value - half, "high": value + half, "artifact": file}


def with_files(entry: Entry, n_bytes: float) -> Entry:
    more = {
        "files": {"dwn": "d", "onnx": "o"},
        "n_dense_weights": 1000,
        "measurements": [
            measured("size", n_bytes, "d"),
            measured("compression_ratio", 4000.0 / n_bytes, "d"),
            measured("size", 2 * n_bytes, "o"),
            measured("zipped_size", n_bytes / 2, "o"),
            measured("test_time", 9.0, "o", half=1.0),
            measured("speedup", 2.0, "o", half=0.25),
        ],
        "recipe": [{"type": "Cluster", "codebook_size": 16}],
    }
    return replace(entry, data={**entry.data, **more})


@pytest.fixture
def timed(nodes_of: Callable[..., tuple[Node, ...]], outcome_of: Callable[..., Entry]) -> tuple[Entry, ...]:
    return tuple(with_files(outcome_of(n), 500.0 if n.stage.name == "dense" else 250.0) for n in nodes_of("one"))


def spot(stage: str, **at: str) -> Spot:
    return Spot(stage=stage, network="Big", data="Shoes", at=at)


@pytest.mark.parametrize(
    ("quantity", "value"),
    [
        ("size_bytes", 500.0),
        ("compression_ratio", 8.0),
        ("onnx_bytes", 1000.0),
        ("onnx_ratio", 4.0),
        ("zipped_bytes", 250.0),
        ("zipped_ratio", 16.0),
        ("zip_gain", 4.0),
        ("seconds_per_epoch", 600.0),
    ],
)
def test_figures_are_those_of_the_file_that_they_name(timed: Any, quantity: Any, value: float) -> None:
    found = Results.of(timed, ONE).mean(quantity, [spot("dense")])
    assert found is not None
    assert (found.value, found.low, found.high, found.is_exact) == (value, value, value, True)


@pytest.mark.parametrize(("quantity", "expected"), [("test_seconds", (9.0, 8.0, 10.0)), ("speedup", (2.0, 1.75, 2.25))])
def test_times_keep_their_intervals(timed: Any, quantity: Any, expected: tuple[float, ...]) -> None:
    found = Results.of(timed, ONE).mean(quantity, [spot("dense")])
    assert found is not None
    assert (found.value, found.low, found.high, found.is_exact) == (*expected, False)


def test_times_of_several_seeds_hold_all_their_intervals(
    nodes_of: Callable[..., tuple[Node, ...]], outcome_of: Callable[..., Entry]
) -> None:
    entries: list[Entry] = []
    for node in nodes_of():
        entry = with_files(outcome_of(node), 500.0)
        speedup = measured("speedup", 1.0 + node.seed, "o", half=0.5)
        entries.append(replace(entry, data={**entry.data, "measurements": [speedup]}))
    found = Results.of(entries, Variant("three")).mean("speedup", [spot("dense")])
    assert found is not None
    assert (found.value, found.low, found.high, found.n_seeds) == (2.0, 0.5, 3.5, 3)


def test_entries_of_one_file_read_as_before(ledger: tuple[Entry, ...]) -> None:
    results = Results.of(ledger, Variant("three"))
    assert results.mean("compression_ratio", [spot("dense")]) is not None
    for quantity in ("onnx_bytes", "zipped_ratio", "zip_gain", "test_seconds", "speedup"):
        assert results.mean(quantity, [spot("dense")]) is None  # type: ignore[arg-type]


def test_a_time_that_is_no_number_is_an_error(timed: Any, changed: Callable[..., Entry]) -> None:
    broken = [{**measured("speedup", 2.0, "o"), "low": "slow"}]
    entries = [changed(entry, measurements=broken) for entry in timed]
    with pytest.raises(StudyError, match=r"speedup\.low is 'slow'"):
        Results.of(entries, ONE).mean("speedup", [spot("dense")])


def test_rows_are_stages_and_their_places(tiny: Study, timed: Any) -> None:
    filled = fill(METHODS, tiny, Results.of(timed, ONE))
    assert [row.names for row in filled.rows] == [
        ("Shoes", network, method)
        for network in ("Big", "Small")
        for method in ("dense", "clustered, 10x, 2", "clustered, 10x, 4")
    ]
    zipped = [row.cells[0] for row in filled.rows[:3]]
    assert [(cell.value, cell.published) for cell in zipped] == [(250.0, 7.0), (125.0, None), (125.0, 8.0)]
    assert filled.rows[1].cells[3].value is None  # it was not trained


def test_a_published_row_may_leave_the_case_out_only_where_the_table_says_so(tiny: Study) -> None:
    strict = replace(tiny, tables=(replace(METHODS, is_published_for_all=False),))
    assert "published row 1 does not say its data, network" in next(iter(problems_of(strict)))
    assert not list(problems_of(replace(tiny, tables=(METHODS,))))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stages": ("dens",)}, "names the stage 'dens'"),
        ({"rows": ("method", "network")}, "has to be the last"),
        ({"rows": ("method",)}, "every stage has a figure for each network"),
        ({"columns": (Column(title="t", quantity="accuracy", stage="dense"),)}, "the column 't' names none"),
        ({"published": ({"method": "dens", "zip": 1.0},)}, "about the method 'dens'; the nearest known one is 'dense'"),
        ({"stages": ()}, "names 'method'"),
    ],
)
def test_what_does_not_fit_in_a_table_of_stages_is_said(tiny: Study, changes: Any, words: str) -> None:
    problems = list(problems_of(replace(tiny, tables=(replace(METHODS, **changes),))))
    assert any(words in problem for problem in problems), problems


def test_the_page_says_what_brackets_of_times_hold(tiny: Study, timed: Any) -> None:
    page = study_page(replace(tiny, tables=(METHODS,)), timed)
    assert OF_TIMES in page
    assert "| Shoes | Big | clustered, 10x, 4 | 125 | 8 | 9.00 [8.00, 10.00] | 2.00 [1.75, 2.25] | - |" in page
    assert OF_TIMES not in study_page(tiny, timed)


def test_advice_is_about_the_files_of_each_case(tiny: Study, timed: Any) -> None:
    study = replace(tiny, advice=Advised(dense="dense", stages=("clustered",), max_drop=100.0))
    first, second = advice_of(study, Results.of(timed, ONE))
    assert (first.about, second.about) == ("Big on Shoes", "Small on Shoes")
    assert "If accuracy may get worse by at most 100 points" in first.paragraph
    assert "125 bytes as zipped .onnx, 2.00 times smaller than the dense zipped .onnx" in first.paragraph
    assert "(2.00 [1.75, 2.25] times as fast" in first.paragraph
    page = study_page(study, timed)
    assert first.paragraph in page
    assert all(one.text in page for one in first.tested)


def test_without_the_wish_there_is_no_advice(tiny: Study, timed: Any) -> None:
    assert advice_of(tiny, Results.of(timed, ONE)) == ()
    assert "what to use when" not in study_page(tiny, timed)


def test_advice_on_a_stage_that_is_not_there_is_refused(tiny: Study) -> None:
    for advised in (Advised(dense="dens"), Advised(dense="dense", stages=("best",))):
        assert "advice names the stage" in next(iter(problems_of(replace(tiny, advice=advised))))
    with pytest.raises(SettingError, match="max_drop is in points"):
        Advised(dense="dense", max_drop=-1.0)
