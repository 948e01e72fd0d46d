"""This file holds the figures of a study to its results: a mark for each outcome, where it belongs, told apart."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from dwindle.bench.ledger import Entry
from dwindle.studies.asked import Asked
from dwindle.studies.curves import learning_curves
from dwindle.studies.figures import against_axis, against_ratio
from dwindle.studies.results import Results, Variant

KEPT = {"against_ratio": against_ratio, "against_axis": against_axis, "curves": learning_curves}


@pytest.fixture
def drawn(study, outcomes):
    def draw(name, entries=outcomes, **changes):
        figure = replace(next(f for f in study.figures if f.id == name), **changes)
        results = Results.of(entries, Variant("short"))
        return KEPT[figure.kind](Asked(figure=figure, study=study, results=results))

    return draw


def marks(panel):
    return [shape for shape in panel.shapes if "mark" in shape.role]


def places(panel):
    """Return (x, y) of each mark, y upwards, by its words."""
    found = {}
    for shape in marks(panel):
        x, y = re.fullmatch(r"M(\S+) (\S+)h0", shape.path).groups()
        found[shape.words.partition(":")[0]] = (float(x), 100 - float(y))
    return found


def test_a_panel_for_each_data_set_and_a_mark_for_each_outcome(drawn):
    picture = drawn("ratio")
    assert [panel.title for panel in picture.panels] == ["Bits", "Pieces"]
    n = 2 * (1 + 2 + 8)  # networks, times outcomes of the three stages
    assert [len(marks(panel)) for panel in picture.panels] == [n, n]
    assert [sample.label for sample in picture.colours] == ["Wide", "Deep"]
    assert [sample.label for sample in picture.styles] == ["longer", "retrained", "clustered"]


def test_smaller_files_stand_to_the_right_and_better_ones_above(drawn):
    found = places(drawn("ratio").panels[0])
    assert found["Wide, longer"][0] < found["Wide, retrained, 2x"][0] < found["Wide, retrained, 10x"][0]
    assert found["Wide, clustered, 10x, 2, linear"][1] < found["Wide, clustered, 10x, 4, linear"][1]
    assert all(0 <= part <= 100 for place in found.values() for part in place)


def test_each_mark_says_its_figure_interval_and_seeds(drawn):
    words = next(shape.words for shape in marks(drawn("ratio").panels[0]) if "Wide, longer" in shape.words)
    assert re.fullmatch(r"Wide, longer: 9\d\.\d\d \[\d\d\.\d\d, \d+\.\d\d\], 3 seeds, 0\.999. smaller", words)


def test_along_an_axis_the_other_axis_is_told_apart(drawn):
    picture = drawn("bits")
    assert [sample.label for sample in picture.styles] == ["linear", "k-means++"]
    lines = [shape.role for shape in picture.panels[0].shapes if "line" in shape.role]
    assert lines == [f"series-{colour} style-{style} line" for colour in (0, 1) for style in (0, 1)]
    ticks = {tick.label: tick.at for tick in picture.panels[0].x_ticks}
    assert list(ticks) == ["2", "4"]
    for words, (x, _) in places(picture.panels[0]).items():
        assert abs(x - ticks[words.split(", ")[3]]) < 5  # beside their tick, whatever the shift between networks
    assert "stretched" in picture.note


def test_stages_are_told_apart_along_an_axis(drawn):
    picture = drawn("rate")
    assert [sample.label for sample in picture.styles] == ["pruned", "retrained"]
    assert all("10x" in shape.words or "2x" in shape.words for shape in marks(picture.panels[0]))


def test_good_accuracies_alone_stand_on_a_plain_scale(drawn):
    picture = drawn("rate", stages=("retrained",))
    assert "stretched" not in picture.note
    assert picture.styles == drawn("rate", stages=("retrained",)).styles


def test_where_takes_one_value_or_a_list(drawn):
    assert [panel.title for panel in drawn("ratio", where={"data": "Pieces"}).panels] == ["Pieces"]
    assert len(marks(drawn("ratio", where={"network": ["Wide"], "rate": ["2x", "10x"]}).panels[0])) == 11


def test_a_drop_is_drawn_where_there_is_something_to_compare_with(drawn):
    picture = drawn("ratio", quantity="accuracy_drop")
    assert [sample.label for sample in picture.styles] == ["retrained", "clustered"]
    assert "points" in picture.note


def test_values_of_the_axis_that_were_not_run_keep_no_place(drawn, outcomes):
    entries = [e for e in outcomes if e.data["at"].get("n_bits") != "2"]
    picture = drawn("bits", entries)
    (tick,) = picture.panels[0].x_ticks
    assert tick.label == "4"
    assert all(abs(x - tick.at) < 8 for x, _ in places(picture.panels[0]).values())


def test_nothing_run_is_a_picture_without_panels(drawn, outcomes):
    for name in ("ratio", "bits", "rate", "learning"):
        assert drawn(name, [e for e in outcomes if e.data["stage"] == "none"]).panels == ()


def test_more_networks_and_styles_than_colours_begin_anew(study, outcomes):
    networks = [f"N{i}" for i in range(9)]
    cases = tuple(replace(study.cases[0], network=name) for name in networks)
    entries = [
        Entry("outcome", {**e.data, "network": name, "key": f"{name}{e.data['key']}"}, e.time)
        for name in networks
        for e in outcomes
        if (e.data["network"], e.data["data"], e.data["stage"]) == ("Wide", "Bits", "clustered")
    ]
    figure = replace(study.figures[1], where={})
    asked = Asked(figure=figure, study=replace(study, cases=cases), results=Results.of(entries, Variant("short")))
    picture = against_axis(asked)
    assert len(picture.colours) == 9
    assert {sample.role for sample in picture.colours} == {f"series-{i}" for i in range(6)}
    assert len(picture.styles) == 4
    assert picture.styles[0].label == "2x, linear"


def test_learning_curves_go_on_where_the_stage_before_ended(drawn):
    picture = drawn("learning")
    assert [panel.title for panel in picture.panels] == [
        "Wide on Bits", "Deep on Bits", "Wide on Pieces", "Deep on Pieces",
    ]  # fmt: skip
    panel = picture.panels[0]
    assert [tick.label for tick in panel.x_ticks] == ["1", "2", "3", "4", "5"]
    strokes = {shape.role: shape.path for shape in panel.shapes}
    assert set(strokes) == {f"series-{i}{thin} line" for i in (0, 1, 2) for thin in ("", " thin")}
    starts = {role: float(re.match(r"M(\S+) ", path)[1]) for role, path in strokes.items() if "thin" not in role}
    assert starts == {"series-0 line": 10.0, "series-1 line": 70.0, "series-2 line": 70.0}
    assert strokes["series-0 thin line"].count("M") == 3


def test_the_mean_over_seeds_is_drawn_alone_where_there_is_one_seed(drawn, outcomes):
    picture = drawn("learning", [e for e in outcomes if e.data["seed"] == 1])
    assert {shape.role for shape in picture.panels[0].shapes} == {"series-0 line", "series-1 line", "series-2 line"}


def test_a_loss_that_was_not_finite_leaves_a_gap(drawn, outcomes):
    dense = outcomes[0]
    curve = [{"validation_accuracy": value} for value in (0.5, float("nan"), 0.9)]
    picture = drawn("learning", [Entry("outcome", {**dense.data, "history": [{"curve": curve}]}, dense.time)])
    (path,) = [shape.path for shape in picture.panels[0].shapes]
    assert path.count("M") == 2
    assert "nan" not in path
