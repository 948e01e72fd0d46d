"""This file tests budgets: verdicts from intervals, and quantities in text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwindle.bench.budget import Budget, Verdict, parse_quantity
from dwindle.bench.measurement import ACCURACY, ACCURACY_DROP, AT_LEAST, LATENCY, SIZE, Measurement, Metric
from dwindle.errors import SettingError


def measured(metric: Metric, low: float, high: float) -> Measurement:
    middle = (low + high) / 2
    return Measurement(
        metric=metric, value=middle, low=low, high=high, n=5, artifact="a", runtime="r", machine="m", protocol="p"
    )


@pytest.mark.parametrize(
    ("metric", "low", "high", "verdict"),
    [
        (LATENCY, 4.0, 5.0, Verdict.MET),
        (LATENCY, 4.0, 5.1, Verdict.UNDECIDED),
        (LATENCY, 5.0, 5.1, Verdict.UNDECIDED),
        (LATENCY, 5.1, 6.0, Verdict.VIOLATED),
        (ACCURACY, 5.0, 6.0, Verdict.MET),
        (ACCURACY, 4.9, 6.0, Verdict.UNDECIDED),
        (ACCURACY, 4.0, 4.9, Verdict.VIOLATED),
    ],
)
def test_the_interval_decides(metric: Metric, low: float, high: float, verdict: Verdict) -> None:
    assert Budget({metric.name: 5.0}).judge([measured(metric, low, high)]) is verdict


@pytest.mark.parametrize(
    ("better", "low", "verdict"),
    [(-1, 4.0, Verdict.UNDECIDED), (-1, 6.0, Verdict.VIOLATED), (1, 6.0, Verdict.MET), (1, 4.0, Verdict.UNDECIDED)],
)
def test_a_lower_end_breaks_an_upper_bound_and_keeps_a_lower_one(better: int, low: float, verdict: Verdict) -> None:
    found = replace(measured(Metric("m", "", better), low, low), conditions={AT_LEAST: "yes"})
    assert Budget({"m": 5.0}).judge([found]) is verdict


def test_what_was_not_measured_is_undecided() -> None:
    budget = Budget({"latency": 5.0, "size": 10.0})
    assert budget.judge([measured(LATENCY, 1, 2)]) is Verdict.UNDECIDED
    assert budget.verdicts([measured(LATENCY, 1, 2)]) == {"latency": Verdict.MET, "size": Verdict.UNDECIDED}
    assert budget.judge([measured(LATENCY, 6, 7)]) is Verdict.VIOLATED
    assert Budget({}).judge([]) is Verdict.MET


@given(st.permutations([(1.0, 2.0), (4.0, 6.0), (7.0, 8.0)]), st.integers(1, 3))
def test_of_several_measurements_the_worst_counts(spans: list[tuple[float, float]], n: int) -> None:
    found = {(1.0, 2.0): 2, (4.0, 6.0): 1, (7.0, 8.0): 0}
    expected = [Verdict.VIOLATED, Verdict.UNDECIDED, Verdict.MET][min(found[span] for span in spans[:n])]
    assert Budget({"latency": 5.0}).judge([measured(LATENCY, *span) for span in spans[:n]]) is expected


def test_a_table_names_bounds_with_their_direction() -> None:
    table = {"max_size": "250KB", "max_accuracy_drop": "0.5pt", "max_latency_ms": 5, "min_accuracy": "91 %"}
    budget = Budget.from_plain(table, where="budget")
    assert budget.bounds == pytest.approx({"size": 250e3, "accuracy_drop": 0.5, "latency": 5.0, "accuracy": 0.91})
    assert budget.max_size_bytes == 250_000
    assert Budget({}).max_size_bytes is None


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"max_sise": 1}, r"job\.toml: unknown key 'max_sise'; the nearest known one is 'max_size'"),
        ({"min_latency": 1}, r"unknown key 'min_latency'"),
        ({"max_size": 1, "max_size_bytes": 2}, "size is bounded twice"),
        ({"max_size": "5 ms"}, r"job\.toml\.max_size = '5 ms' is no quantity in bytes; give a number, or text with B"),
        ({"max_size": True}, "True is no quantity"),
        ({"max_accuracy_drop": "half"}, "'half' is no quantity in points"),
        ({"max_latency": float("nan")}, "bounds latency by nan"),
        ({"max_size": 10**400}, "bounds size by inf"),
        (
            {"min_accuracy": 85},
            r"job\.toml\.min_accuracy = 85 is no share from 0 to 1; for 85 % write 0.85, or \"85%\"",
        ),
        ({"min_f1_macro": -0.1}, "is no share from 0 to 1"),
        ({"max_size": -5}, r"max_size = -5 is below 0, .* fewer than 0 bytes; give 0 or more"),
        ({"min_top5_accuracy": "101 %"}, "is no share from 0 to 1"),
    ],
)
def test_a_table_that_cannot_work_is_refused(table: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Budget.from_plain(table, where="job.toml")


@given(
    st.integers(0, 10**6),
    st.sampled_from([("B", 1), ("kB", 1000), ("MiB", 2**20), ("", 1)]),
    st.sampled_from(["", " "]),
)
def test_sizes_read_as_written(number: int, unit: tuple[str, int], space: str) -> None:
    assert parse_quantity(f"{number}{space}{unit[0]}", SIZE, where="x") == number * unit[1]


def test_decimals_are_read_exactly_so_that_a_file_of_that_size_keeps_its_bound() -> None:
    assert parse_quantity("2.3 MB", SIZE, where="x") == 2_300_000  # 2.3 * 1e6 is less
    assert parse_quantity("95 %", ACCURACY, where="x") == 0.95


@pytest.mark.parametrize("text", ["max_size = " + "1" * 5_000, "a = " + "[" * 5_000])
def test_a_file_that_is_no_budget_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "budget.toml").write_text(text)
    with pytest.raises(SettingError, match=r"budget\.toml"):
        Budget.read(str(tmp_path / "budget.toml"))


def test_a_name_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(SettingError, match="nor a TOML file that can be read"):
        Budget.read("a\0b")


def test_other_units() -> None:
    assert parse_quantity("0.2s", LATENCY, where="x") == pytest.approx(200)
    assert parse_quantity(".5 pt", ACCURACY_DROP, where="x") == 0.5
