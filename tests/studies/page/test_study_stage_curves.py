"""Panels of stages: loss and accuracy, training and validation, for each stage and place; single epochs are marks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dwindle.bench.ledger import Entry
from dwindle.studies.asked import Asked
from dwindle.studies.markdown import study_page
from dwindle.studies.page import render_study
from dwindle.studies.results import Results, Variant
from dwindle.studies.shown import Advised, Figure
from dwindle.studies.stage_curves import stage_curves


@pytest.fixture
def drawn(study, outcomes):
    def draw(entries=outcomes, **changes):
        figure = Figure(id="s", title="Stages", kind="stage_curves", stages=("dense", "retrained"))
        results = Results.of(entries, Variant("short"))
        return stage_curves(Asked(figure=replace(figure, **changes), study=study, results=results))

    return draw


def with_curve(entries, curve):
    return tuple(Entry(kind=e.kind, data={**e.data, "history": [{"curve": list(curve)}]}, time=e.time) for e in entries)


EPOCHS = [{"loss": 1.0 / i, "validation_loss": 1.2 / i, "accuracy": 0.8, "validation_accuracy": 0.7} for i in (1, 2, 3)]


def test_two_panels_for_each_case_stage_and_place(drawn, outcomes):
    picture = drawn(with_curve(outcomes, EPOCHS))
    titles = [panel.title for panel in picture.panels]
    assert len(titles) == 4 * (1 + 2) * 2  # cases, places of both stages, loss and accuracy
    assert titles[:2] == ["Wide on Bits: dense: loss", "Wide on Bits: dense: accuracy, %"]
    assert "Deep on Pieces: retrained, 10x: accuracy, %" in titles
    assert [sample.label for sample in picture.colours] == ["training", "validation"]


def test_one_case_needs_no_name(drawn, outcomes):
    own = [e for e in with_curve(outcomes, EPOCHS) if (e.data["network"], e.data["data"]) == ("Wide", "Bits")]
    assert drawn(own).panels[0].title == "dense: loss"


def test_seeds_are_thin_and_their_mean_is_thick(drawn, outcomes):
    shapes = drawn(with_curve(outcomes, EPOCHS)).panels[0].shapes
    assert [shape.role for shape in shapes] == [
        "series-0 thin line", "series-0 line", "series-1 thin line", "series-1 line",
    ]  # fmt: skip


def test_a_single_epoch_is_a_mark_that_says_its_figure(drawn, outcomes):
    shapes = drawn(with_curve(outcomes, EPOCHS[:1])).panels[1].shapes
    assert [shape.words for shape in shapes] == ["training: 80", "validation: 70"]


def test_figures_that_are_absent_leave_their_panel_out(drawn, outcomes):
    panels = drawn(with_curve(outcomes, [{"loss": 0.5}, {"loss": float("nan")}, {"loss": 0.25}])).panels
    assert {panel.title.rpartition(": ")[2] for panel in panels} == {"loss"}
    assert drawn(with_curve(outcomes, [{}, {"loss": "low"}])).panels == ()
    assert drawn(()).panels == ()


def test_both_pages_advise_in_the_same_words(study, outcomes):
    advised = replace(study, advice=Advised(dense="dense", max_drop=90.0))
    entries = [replace(e, data={**e.data, "recipe": [{"type": "Cluster"}]}) for e in outcomes]
    page, html = study_page(advised, entries), render_study(advised, entries)
    paragraphs = [line for line in page.splitlines() if line.startswith("If accuracy may get worse by at most 90 p")]
    assert len(paragraphs) == 4
    assert all(paragraph in html for paragraph in paragraphs)
