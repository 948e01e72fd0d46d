"""This file holds heatmaps of operations and bubbles to the outcomes that they are made from."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dwindle.errors import StudyError
from dwindle.studies.asked import Asked
from dwindle.studies.bubbles import bubbles
from dwindle.studies.heatmaps import heatmap
from dwindle.studies.markdown import study_page
from dwindle.studies.page import render_study
from dwindle.studies.results import Results, Variant
from dwindle.studies.shown import Figure

SHARES = {"convolution": 0.7, "engine": 0.2, "quantize": 0.05, "pooling": 0.004}


def profiled(entries, **shares):
    """Return `entries`, those of the network Wide with a profile and a speed-up."""
    found = []
    for entry in entries:
        if entry.kind == "outcome" and entry.data["network"] == "Wide":
            profile = {"shares": shares or SHARES, "quantizing": 0.05}
            speed = {
                "metric": {"name": "speedup"}, "value": 2.0, "low": 1.9, "high": 2.1, "artifact": "o"
            }  # fmt: skip
            data = {
                **entry.data,
                "profile": profile,
                "files": {"dwn": entry.data["measurements"][0].get("artifact", ""), "onnx": "o"},
            }
            data["measurements"] = [*entry.data["measurements"], speed]
            entry = replace(entry, data=data)
        found.append(entry)
    return found


@pytest.fixture
def asked(study, outcomes):
    def ask(kind, entries=None, **changes):
        figure = Figure(id="f", title="T", kind=kind, stages=("retrained",), **changes)
        results = Results.of(outcomes if entries is None else entries, Variant("short"))
        return Asked(figure=figure, study=study, results=results)

    return ask


def test_a_row_for_each_outcome_that_was_profiled_in_the_order_of_classes(asked, outcomes):
    found = heatmap(asked("operators", profiled(outcomes)))
    assert found.classes == ("convolution", "quantize", "engine")  # pooling is below 1 % everywhere
    names = [name for name, _ in found.rows]
    assert names == [f"Wide on {data}: retrained, {rate}" for data in ("Bits", "Pieces") for rate in ("2x", "10x")]
    assert [cell.words for cell in found.rows[0][1]] == ["70.0", "5.0", "20.0"]
    assert [cell.is_deep for cell in found.rows[0][1]] == [True, False, False]


def test_without_profiles_there_are_no_rows(asked):
    assert heatmap(asked("operators")).rows == ()


def test_a_class_that_one_outcome_lacks_counts_as_no_time_there(asked, outcomes):
    some = profiled(outcomes)
    first = next(i for i, e in enumerate(some) if e.data.get("profile"))
    some[first] = replace(some[first], data={**some[first].data, "profile": {"shares": {"convolution": 1.0}}})
    assert heatmap(asked("operators", some)).classes == ("convolution", "quantize", "engine")


def test_a_share_that_is_no_number_is_refused(asked, outcomes):
    with pytest.raises(StudyError, match=r"profile\.convolution is .* not a finite number"):
        heatmap(asked("operators", profiled(outcomes, convolution="all")))


def test_a_bubble_for_each_outcome_with_a_speed(asked, outcomes):
    picture = bubbles(asked("bubbles", profiled(outcomes)))
    assert [panel.title for panel in picture.panels] == ["Bits", "Pieces"]
    for panel in picture.panels:
        assert len(panel.shapes) == 2  # one network, two rates
        assert all("size-" in shape.role and "2.00 times faster" in shape.words for shape in panel.shapes)
    assert bubbles(asked("bubbles")).panels == ()


def test_pages_hold_both(study, outcomes):
    figures = (
        Figure(id="heat", title="Heat", kind="operators", stages=("retrained",)),
        Figure(id="bubble", title="Bubble", kind="bubbles", stages=("retrained",)),
    )
    drawn = replace(study, figures=figures)
    entries = profiled(outcomes)
    page = render_study(drawn, entries)
    assert page.count('style="--tint:70.0%"') == 4
    assert "size-" in page
    assert "| Wide on Bits: retrained, 2x | 70.0 | 5.0 | 20.0 |" in study_page(drawn, entries)
