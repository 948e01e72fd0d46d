"""This file tests how the report speaks of metrics other than accuracy, and of what such a run does not have."""

from __future__ import annotations

from typing import Any

import pytest

from dwindle.report.comparison import judged_metric, rows_of, tiles_of, verdict_of
from dwindle.report.facts import Facts, gather
from dwindle.report.page import render


def facts_of(make_entry: Any, *measured: dict[str, Any]) -> Facts:
    return gather(make_entry("measurement", **m) for m in measured)


def measurement(name: str, unit: str, values: tuple[float, float, float], **more: Any) -> dict[str, Any]:
    value, low, high = values
    base = {"role": "compressed", "artifact": "a", "runtime": "r", "protocol": "t", "machine": "m", "conditions": {}}
    metric = {"name": name, "unit": unit, "better": more.pop("better", -1)}
    return {**base, "metric": metric, "value": value, "low": low, "high": high, "n": 50, **more}


def test_a_rising_error_is_a_rise_in_its_own_unit(make_entry: Any) -> None:
    facts = facts_of(
        make_entry,
        measurement("depth_error", "mm", (3.0, 2.5, 3.5)),
        measurement("depth_error", "mm", (2.0, 1.5, 2.5), role="dense", artifact="d"),
        measurement("depth_error_drop", "mm", (1.0, 0.5, 1.5), protocol="paired"),
    )
    assert judged_metric(facts) == "depth_error"
    verdict = verdict_of(facts)
    assert verdict.accuracy == "depth error rise 1.00 mm"
    assert verdict.interval == "[0.500, 1.50]"
    assert (
        verdict.reading
        == "The interval lies above zero: by this metric, the compressed network is worse than the dense one."
    )
    (tile,) = tiles_of(facts)
    assert tile.label == "Depth error"
    assert tile.before is not None
    assert (tile.before.value, tile.after.value if tile.after else "") == ("2.00 mm", "3.00 mm")


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(-1.0, -0.5, "below zero: by this metric, the compressed network is better"), (-1.0, 0.5, "cannot be told apart")],
)
def test_what_the_interval_means(make_entry: Any, low: float, high: float, words: str) -> None:
    drop = measurement("f1_macro_drop", "points", ((low + high) / 2, low, high), protocol="paired")
    assert words in verdict_of(facts_of(make_entry, drop, measurement("f1_macro", "fraction", (0.5, 0.4, 0.6)))).reading


def test_accuracy_stays_the_judge_where_it_was_measured(make_entry: Any) -> None:
    drops = [measurement(f"{name}_drop", "points", (1.0, 0.0, 2.0)) for name in ("recall_macro", "accuracy")]
    assert judged_metric(facts_of(make_entry, *drops)) == "accuracy"
    assert judged_metric(facts_of(make_entry)) == "accuracy"


def test_metrics_of_the_user_stand_before_the_drop_and_keep_their_unit(make_entry: Any) -> None:
    facts = facts_of(
        make_entry,
        measurement("latency", "ms", (1.0, 0.9, 1.1)),
        measurement("mine_drop", "points", (1.0, 0.0, 2.0)),
        measurement("memory_peak", "bytes", (66_500_000.0, 66_400_000.0, 66_600_000.0)),
        measurement("mine", "fraction", (0.5, 0.4, 0.6), better=1),
        measurement("error", "target unit", (0.5, 0.4, 0.6)),
    )
    rows = rows_of(facts)
    assert [row.label for row in rows] == [
        "Mine", "Error (target unit)", "Mine: drop, paired", "Latency, mean", "Memory, peak of the process",
    ]  # fmt: skip
    assert rows[-1].compressed is not None
    assert rows[-1].compressed.interval == "[66.4 MB, 66.6 MB]"


def test_a_dense_time_stands_beside_the_file_it_was_taken_with(make_entry: Any) -> None:
    timed = [
        measurement("latency", "ms", (ms, ms, ms), role=role, artifact=file, conditions=conditions)
        for ms, role, file, conditions in (
            (1.0, "dense", "d", {"beside": "a"}),
            (2.0, "dense", "d", {"beside": "b"}),
            (5.0, "compressed", "a", {}),
            (6.0, "compressed", "b", {}),
        )
    ]
    rows = rows_of(facts_of(make_entry, *timed))
    shown = [(row.dense.value, row.compressed.value) for row in rows if row.dense and row.compressed]
    assert shown == [("1.00 ms", "5.00 ms"), ("2.00 ms", "6.00 ms")]
    assert len(rows) == 2


def test_a_file_that_grew_is_not_called_smaller(make_entry: Any) -> None:
    facts = facts_of(make_entry, measurement("compression_ratio", "x", (0.5, 0.5, 0.5), better=1))
    assert verdict_of(facts).size == "2.00\N{MULTIPLICATION SIGN} larger file"


def test_a_run_about_no_classes_has_no_section_about_classes(make_entry: Any) -> None:
    entries = [
        make_entry(
            "run", name="thermal", data={"input_shapes": [[1, 8, 8], [4]]}, task={"loss": "mse", "metrics": ["r2"]}
        ),
        make_entry("stage", technique="QuantizeStatic", settings={}, curve=[], digest="d"),
        make_entry("measurement", **measurement("r2_drop", "share of variance", (0.1, 0.05, 0.15), protocol="paired")),
    ]
    page = render(entries)
    assert "What is mistaken for what" not in page
    assert "a confusion matrix" not in page
    assert "No stage of this recipe trained." in page
    assert "1 \N{MULTIPLICATION SIGN} 8 \N{MULTIPLICATION SIGN} 8 and 4" in page
    assert "accuracy" not in page.partition("</header>")[0].partition("</style>")[2].replace('class="accuracy"', "")
