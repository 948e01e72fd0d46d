"""This file checks the parts of the report: words for numbers, geometry, and what each section takes from a ledger."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwindle.report import bounds, comparison, confusion, curves, layers, story
from dwindle.report.facts import gather
from dwindle.report.figures import Axis, bin_counts, line, nice_step, quantile, steps
from dwindle.report.words import (
    bare_value,
    duration,
    fixed,
    human_bytes,
    metric_value,
    plain_number,
    settings,
    significant,
)

MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
FINITE = st.floats(-1e9, 1e9)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (significant(2.4e-7), f"2.40 {TIMES} 10\N{SUPERSCRIPT MINUS}\N{SUPERSCRIPT SEVEN}"),
        (significant(0), "0"),
        (significant(-0.05, 2), f"{MINUS}0.050"),
        (significant(1000.0), "1,000"),
        (fixed(-1234.5, 1), f"{MINUS}1,234.5"),
        (bare_value(-0.05, "points"), f"{MINUS}0.05"),
        (metric_value(37.24, "x"), f"37.2{TIMES}"),
        (metric_value(1_204_377, "bytes"), "1.20 MB"),
        (metric_value(0.5, "max absolute difference"), "0.500"),
        (human_bytes(1), "1 byte"),
        (human_bytes(0), "0 bytes"),
        (human_bytes(999_600), "1.00 MB"),
        (human_bytes(3e15), "3,000 TB"),
        (duration(59.96), "60.0 s"),
        (duration(3600), "1 h 0 min"),
        (plain_number(44_800_040.0), "44,800,040"),
        (plain_number(math.nan), "not a finite number"),
        (settings({}), "none"),
        (settings({"a": [], "select": {"type": "Select", "names": []}, "rule": {"type": "Mse"}}), "rule Mse"),
        (settings([None, True, {"type": "T"}]), "none, yes, T"),
    ],
)
def test_numbers_are_written_for_people(written, expected):
    assert written == expected


@given(st.lists(FINITE, min_size=1, max_size=5))
def test_axis_shows_every_value_and_its_ticks_lie_on_it(values):
    axis = Axis.around(values, margin=0.1)
    assert all(-1e-6 <= axis.at(value) <= 100 + 1e-6 for value in values)
    ticks = axis.ticks(5)
    assert 1 <= len(ticks) <= 21
    assert all(-1e-3 <= tick.at <= 100 + 1e-3 for tick in ticks)
    assert [tick.at for tick in ticks] == sorted(tick.at for tick in ticks)


@given(st.floats(1e-9, 1e9))
def test_a_nice_step_is_near(rough):
    step = nice_step(rough)
    assert 0.5 < step / rough < 2
    assert f"{step:e}"[0] in "125"


@given(st.lists(st.floats(0, 10), max_size=30))
def test_every_value_in_range_is_counted_once(values):
    assert sum(bin_counts(values, [0.0, 1.0, 4.0, 10.0])) == len(values)
    assert bin_counts([*values, -1.0, 11.0], [0.0, 10.0]) == [len(values)]


def test_quantiles():
    assert [quantile([1.0, 2.0, 4.0], q) for q in (0.0, 0.5, 0.75, 1.0)] == [1.0, 2.0, 3.0, 4.0]


def test_lines_have_gaps_and_histograms_close():
    axes = Axis(0, 10), Axis(0, 1)
    assert line([(0, 0.0), (5, 1.0), (6, math.nan), (10, 0.5)], axes) == "M0.00 100.00h0L50.00 0.00M100.00 50.00h0"
    assert steps([0, 5, 10], [1, 0.5], axes=axes) == "M0.00 100.00V0.00H50.00V50.00H100.00V100.00Z"


def test_bars_share_one_scale_and_the_rest_has_none(entries):
    bars = layers.bars_of(gather(entries))
    assert [bar.raw for bar in bars[:-1]] == sorted((bar.raw for bar in bars[:-1]), reverse=True)
    assert bars[0].raw == 100
    assert bars[0].encoded == pytest.approx(100 * 4 / 150, rel=0.2)
    assert (bars[-1].name, bars[-1].raw, bars[-1].encoded) == ("7 smaller tensors", 0, 0)


def test_strips_hold_every_byte(entries):
    strips = layers.strips_of(gather(entries))
    assert strips is not None
    assert sum(segment.width for segment in strips.raw) == pytest.approx(100)
    assert sum(segment.width for segment in strips.encoded) == pytest.approx(100)
    assert 2 < strips.encoded_width < 3


def test_what_is_no_tensor_is_the_rest_of_the_file(entries, make_entry):
    tensors = sum(e.data["encoded_bytes"] for e in entries if e.kind == "tensor")
    assert human_bytes(1_204_377 - tensors) in layers.overhead_words(gather(entries))
    too_small = make_entry("artifact", role="compressed", format="dwn", size_bytes=9)
    assert not layers.overhead_words(gather((*entries, too_small)))


def test_a_histogram_over_magnitudes_is_logarithmic(make_entry):
    counts = [1] * 9 + [1_000_000]
    tensor = {"name": "w", "n_weights": 1_000_009, "centroids": [0.5, 99.0]}
    made = make_entry("tensor", **tensor, histogram={"edges": list(range(11)), "counts": counts})
    (chart,) = layers.histograms_of(gather([made]))
    assert chart.note == "1,000,009 weights, on a log scale"
    assert chart.legend[0].label == "2 centroids"
    broken = make_entry("tensor", **tensor, histogram={"edges": [0, 1], "counts": counts})
    assert layers.histograms_of(gather([broken])) == []


def test_curves_lie_end_to_end(entries):
    loss, accuracy = curves.learning_charts(gather(entries))
    assert [band.label for band in loss.bands] == ["1 PruneWeights", "2 FineTune", "3 Cluster"]
    assert [round(band.end - band.start) for band in loss.bands] == [32, 48, 20]
    assert loss.bands[-1].end == pytest.approx(100)
    assert accuracy.title == "Validation accuracy (%)"
    assert len(re.findall(r"[ML]", loss.shapes[0].path)) == 25


def test_latency_keeps_slow_runs_from_squeezing_the_rest(make_entry):
    times = {"dense": [10.0 + i / 100 for i in range(200)], "compressed": [5.0] * 199 + [900.0]}
    made = [
        make_entry("latency_samples", role=role, samples_ms=ms, runtime="r", n_threads=2) for role, ms in times.items()
    ]
    (chart,) = curves.latency_charts(gather(made))
    assert chart.title == "r, 2 threads"
    assert chart.note == "1 slower run beyond the right edge."
    assert [item.label for item in chart.legend] == ["Dense", "Compressed"]


def test_only_the_file_that_ran_in_turn_is_drawn_over_the_dense_one(entries):
    later = next(e for e in entries if e.kind == "latency_samples" and e.data["role"] == "compressed")
    onnx = next(e.data["sha256"] for e in entries if e.kind == "artifact" and e.data["path"] == "model.onnx")
    later = replace(later, data={**later.data, "artifact": onnx, "samples_ms": [99.0]})
    (alone,) = curves.latency_charts(gather(entries))
    beside, other = curves.latency_charts(gather((*entries, later)))
    assert [item.label for item in other.legend] == ["Compressed"]
    assert (beside.shapes, beside.legend) == (alone.shapes, alone.legend)
    assert beside.title == f"model.dwn, {alone.title}"
    assert other.title == f"model.onnx, {alone.title}"


def test_samples_of_a_file_that_was_written_anew_are_left_out(entries, make_entry):
    old = make_entry("artifact", role="compressed", path="model.dwn", format="dwn", sha256="old")
    stale = make_entry("latency_samples", role="compressed", artifact="old", runtime="r", samples_ms=[1.0, 2.0])
    at = next(i for i, e in enumerate(entries) if e.kind == "artifact")
    with_stale = (*entries[:at], old, stale, *entries[at:])
    assert curves.latency_charts(gather(with_stale)) == curves.latency_charts(gather(entries))


def test_confusion_tells_the_change_and_the_worst_pairs(make_entry):
    dense = make_entry("confusion", role="dense", class_names=["a", "b"], counts=[[9, 1], [2, 8]])
    small = make_entry("confusion", role="compressed", class_names=["a", "b"], counts=[[7, 3], [0, 10]])
    found = confusion.confusion_of(gather([dense, small]))
    assert found is not None
    assert [[cell.change for cell in row.cells] for row in found.rows] == [[f"{MINUS}2", "+2"], [f"{MINUS}2", "+2"]]
    assert [row.recall for row in found.rows] == ["70.0 %", "100.0 %"]
    assert found.pairs == (("a", "b", 3),)
    alone = confusion.confusion_of(gather([dense]))
    assert alone is not None
    assert (alone.role, alone.compares) == ("dense", False)


@pytest.mark.parametrize("counts", [[], [[1, 2]], [[1, -1], [0, 1]], [[0.5, 1], [1, 1]], "ab", [["a"]]])
def test_what_is_no_confusion_matrix_is_not_shown(make_entry, counts):
    assert confusion.confusion_of(gather([make_entry("confusion", role="compressed", counts=counts)])) is None


def test_many_classes_become_a_picture(make_entry):
    counts = [[5 if i == j else int(j == i + 1) for j in range(30)] for i in range(30)]
    found = confusion.confusion_of(gather([make_entry("confusion", role="compressed", counts=counts)]))
    assert found is not None
    assert found.rows == ()
    assert sum(shape.path.count("z") for shape in found.shapes) == 59
    assert found.class_names[29] == "class 29"


def test_a_metric_written_twice_is_shown_once(entries):
    typed = tuple(
        replace(e, data={"type": "Measurement", **e.data, "metric": {"type": "Metric", **e.data["metric"]}})
        for e in entries
        if e.kind == "measurement"
    )
    assert len(comparison.rows_of(gather((*entries, *typed)))) == len(comparison.rows_of(gather(entries)))


def test_a_dense_partner_ran_in_the_same_runtime(entries):
    moved = tuple(
        replace(e, data={**e.data, "runtime": "other 1.0"}) if e.data.get("role") == "dense" else e for e in entries
    )
    rows = {(row.label, row.runtime): row for row in comparison.rows_of(gather(moved))}
    assert rows["Accuracy, top-1", "onnxruntime 1.25.1"].dense is None
    assert rows["Accuracy, top-1", "other 1.0"].compressed is None


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0.1, 0.5, "less accurate"), (-0.5, -0.1, "more accurate"), (-0.1, 0.1, "a loss of 0.10 points is not ruled out")],
)
def test_the_verdict_reads_its_interval(make_entry, low, high, words):
    summary = {"accuracy_drop_points": (low + high) / 2, "accuracy_drop_low": low, "accuracy_drop_high": high}
    verdict = comparison.verdict_of(gather([make_entry("summary", compression_ratio=4.0, **summary)]))
    assert words in verdict.reading
    assert verdict.area == pytest.approx(50)
    assert not verdict.examples


def test_the_worst_bound_speaks_where_no_verdict_was_written(make_entry):
    made = make_entry("budget", bounds={"size": 5, "latency": 2}, verdicts={"size": "met", "latency": "undecided"})
    verdict, found = bounds.budget_of(gather([made]))
    assert verdict == "UNDECIDED"
    assert [bound.words for bound in found] == ["File size: bound 5.00", "Latency, mean: bound 2.00"]
    assert bounds.budget_of(gather([make_entry("summary", budget="met")])) == ("MET", [])


def test_each_file_is_judged_on_its_engine_where_there_are_several(make_entry):
    files = [
        {
            "file": f"model.{suffix}",
            "runtime": "engine 1",
            "verdict": verdict,
            "bounds": {"size": f"{verdict}: 5 bytes"},
        }
        for suffix, verdict in (("dwn", "met"), ("onnx", "violated"), ("pte", "strange"))
    ]
    found = bounds.budget_files_of(gather([make_entry("budget", files=[*files, "no file", 3])]))
    assert [bound.tone for bound in found] == ["met", "violated", "undecided"]
    assert found[0].words == "model.dwn on engine 1: File size met: 5 bytes"
    assert bounds.budget_files_of(gather([make_entry("budget", files=files[:1])])) == []
    assert bounds.budget_files_of(gather([make_entry("budget")])) == []


def test_machine_and_run_are_told(entries, make_entry):
    facts = gather(entries)
    assert ("Memory", "8.20 GB") in story.machine_details(facts)
    assert ("Input shape", f"1 {TIMES} 33 {TIMES} 33") in story.run_details(facts)
    assert ("Wall time of the whole run", "41 min 45 s") in story.run_details(facts)
    lone = make_entry("measurement", machine="a board")
    assert story.machine_details(gather([lone])) == [("Machine", "a board")]


def test_decisions_about_layers_have_a_line_each(make_entry):
    decisions = {"tensors": {f"layer{i}": {"sparsity": 0.5} for i in range(70)}}
    (stage,) = story.stages_of(gather([make_entry("stage", technique="T", decisions=decisions)]))
    ((label, lines),) = stage.decisions
    assert (label, lines[0], lines[-1], len(lines)) == (
        "Tensors",
        "layer0: sparsity 0.5",
        "and 10 more in the ledger",
        61,
    )


def test_long_decisions_are_cut_and_say_so(make_entry):
    (stage,) = story.stages_of(gather([make_entry("stage", technique="T", decisions={"found": "x" * 5_000})]))
    assert len(stage.decisions[0][1][0]) < 2_100
    assert stage.decisions[0][1][0].endswith("the ledger has all of it)")


@pytest.mark.parametrize(
    ("low", "high", "word"), [(1.2, 1.4, "faster"), (0.6, 0.8, "slower"), (0.9, 1.1, "neither faster nor slower")]
)
def test_the_tile_of_the_latency_says_which_is_faster(entries, low, high, word):
    faster = [
        replace(e, data={**e.data, "value": (low + high) / 2, "low": low, "high": high})
        if e.kind == "measurement" and e.data["metric"]["name"] == "speedup"
        else e
        for e in entries
    ]
    (tile,) = (tile for tile in comparison.tiles_of(gather(faster)) if tile.label == "Latency, median")
    assert tile.note.startswith(f"{word}: ")


@pytest.mark.parametrize(("first", "size", "ratio"), [("onnx", "6.02 MB", 7.44), ("dwn", "1.20 MB", 37.19)])
def test_the_page_speaks_of_the_file_that_was_written_first(entries, first, size, ratio):
    """As the summary does, whichever format it is and in whatever order it was measured."""
    files = [e for e in entries if e.kind == "artifact"]
    others = [e for e in entries if e.kind != "artifact"]
    files.sort(key=lambda e: e.data["format"] != first)
    facts = gather([*others, *files])
    (tile,) = (tile for tile in comparison.tiles_of(facts) if tile.label == "File size")
    assert tile.after is not None
    assert tile.after.value.replace("\N{NO-BREAK SPACE}", " ") == size
    assert comparison.verdict_of(facts).size.startswith(f"{metric_value(ratio, 'x')} smaller")
