"""This file tests verdicts on each file and engine, in values and in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from dwindle.artifact import Artifact
from dwindle.bench.budget import Budget, Verdict, parse_quantity, worst
from dwindle.bench.measurement import ACCURACY, ARENA, ENERGY, LATENCY, SIZE, Estimate, Measurement, Metric, Subject
from dwindle.bench.probes.latency import measure_latency
from dwindle.bench.protocol import Timing
from dwindle.bench.verdicts import judge_files
from dwindle.errors import SettingError

BUDGET = Budget({"size": 1000.0, "latency": 5.0, "energy": 2.0})


def measured(metric: Metric, low: float, high: float, *, artifact: str = "a", runtime: str = "r") -> Measurement:
    return Measurement(
        metric=metric, value=(low + high) / 2, low=low, high=high, n=5, artifact=artifact, runtime=runtime, machine="m",
        protocol="p",
    )  # fmt: skip


FOUND = [
    measured(SIZE, 900, 900, runtime="none"),
    measured(LATENCY, 4, 4.5, runtime="one"),
    measured(LATENCY, 5.5, 6, runtime="other"),
    measured(SIZE, 1100, 1100, artifact="b", runtime="none"),
]


def test_each_file_is_judged_on_each_engine_and_its_size_counts_for_all() -> None:
    each = BUDGET.judge_each(FOUND)
    assert {key: [v.value for v in verdicts.values()] for key, verdicts in each.items()} == {
        ("a", "one"): ["met", "met", "undecided"],
        ("a", "other"): ["met", "violated", "undecided"],
        ("b", "none"): ["violated", "undecided", "undecided"],
    }
    assert BUDGET.judge_each([]) == {}


def test_an_arena_that_nobody_bounds_makes_no_engine_that_must_be_judged() -> None:
    found = [*FOUND[:2], measured(ARENA, 700, 700, runtime="one (built-in kernels)")]
    assert [engine for _, engine in Budget({"latency": 5.0}).judge_each(found)] == ["one"]
    bounded = Budget({"arena": 800.0}).judge_each(found)
    assert bounded["a", "one"] == {"arena": Verdict.UNDECIDED}
    assert bounded["a", "one (built-in kernels)"] == {"arena": Verdict.MET}


def test_rulings_say_what_they_rest_on() -> None:
    file = Artifact(path=Path("net.onnx"), format="onnx", sha256="a", size_bytes=900)
    estimate = Estimate(metric=ENERGY, value=0.5, method="a model")
    one, other, alone = judge_files(BUDGET, FOUND, files=[file], estimates={"a": [estimate]})
    assert (one.name, one.runtime, one.verdict) == ("net.onnx", "one", Verdict.UNDECIDED)
    assert [ruling.words() for ruling in one.rulings] == [
        "met: 900 bytes",
        "met: 4.25 ms [4, 4.5]",
        "undecided: not measured; an estimate (0.5 mJ) decides nothing",
    ]
    assert other.verdict is Verdict.VIOLATED
    assert alone.name == "b"
    assert alone.rulings[1].words() == "undecided: not measured"


def test_a_bound_is_told_with_its_unit() -> None:
    budget = Budget.from_plain({"max_size": "60KB", "min_accuracy": "85%", "max_latency": 5}, where="budget")
    found = [measured(ACCURACY, 0.87, 0.89), measured(LATENCY, 4, 4)]
    (judged,) = judge_files(budget, found)
    assert [ruling.asked for ruling in judged.rulings] == [
        "size at most 60,000 bytes",
        "accuracy at least 85 %",
        "latency at most 5 ms",
    ]
    assert judged.rulings[1].words() == "met: 88 % [87, 89]"


def test_a_mean_that_slow_runs_pull_up_points_to_the_median() -> None:
    subject = Subject(artifact="a", runtime="r", machine="m")
    timing = Timing(samples_ms=(*[0.08] * 20, 30.0), level=0.95, stopped_by="time")
    found = measure_latency(subject, timing)
    (mean, median) = (judge_files(Budget({name: 4.0}), found)[0].rulings[0] for name in ("latency", "latency_median"))
    assert mean.words() == (
        "undecided: 1.505 ms [0.08, 4.477]; unstable: bound max_latency_median, which single slow runs do not move"
    )
    assert median.words() == "met: 0.08 ms"
    (zero,) = judge_files(Budget({"latency": 0.0}), found)
    assert zero.verdict is Verdict.VIOLATED


def test_an_estimate_never_decides_however_clear_it_is() -> None:
    for value in (1e-9, 1e9):
        estimate = Estimate(metric=ENERGY, value=value, method="a model")
        (judged,) = judge_files(Budget({"energy": 2.0}), FOUND[:2], estimates={"a": [estimate]})
        assert judged.verdict is Verdict.UNDECIDED


def test_the_worst_counts() -> None:
    assert worst([]) is Verdict.MET
    assert worst([Verdict.MET, Verdict.UNDECIDED]) is Verdict.UNDECIDED
    assert worst([Verdict.UNDECIDED, Verdict.VIOLATED, Verdict.MET]) is Verdict.VIOLATED


@pytest.mark.parametrize(("text", "mj"), [("2 mJ", 2.0), ("500uJ", 0.5), ("0.001 J", 1.0), ("300nJ", 3e-4), (2, 2.0)])
def test_energies_have_units(text: object, mj: float) -> None:
    assert parse_quantity(text, ENERGY, where="budget") == pytest.approx(mj)


def test_a_budget_is_read_from_a_command_line(tmp_path: Path) -> None:
    expected = {"size": 250_000.0, "latency": 5.0, "energy": 0.5}
    assert Budget.read("max_size=250KB, max_latency = 5ms,max_energy=500uJ,").bounds == expected
    path = tmp_path / "budget.toml"
    lines = 'max_size = "250KB"\nmax_latency = "5 ms"\nmax_energy_mJ = 0.5\n'
    path.write_text(lines, encoding="utf-8")
    assert Budget.read(str(path)).bounds == expected
    path.write_text(f"[budget]\n{lines}", encoding="utf-8")
    assert Budget.read(str(path)).bounds == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "bounds nothing"),
        (" , ", "bounds nothing"),
        ("min_accuracy=85", "budget.min_accuracy = '85' is no share from 0 to 1; for 85 % write 0.85, or \"85%\""),
        ("=", "is no bound"),
        ("max_size", "neither a bound"),
        ("max_size=", "is no bound"),
        ("max_size=1KB,max_size=2KB", "given twice"),
        ("max_size=1KB,max_size_bytes=2", "bounded twice"),
        ("max_siz=1KB", "unknown key 'max_siz'"),
        ("max_size=1ms", "is no quantity in bytes"),
        ("max_latency=nan", "is no quantity in ms"),
        ("absent.toml", "neither a bound"),
    ],
)
def test_budgets_that_say_nothing_are_refused(text: str, reason: str) -> None:
    with pytest.raises(SettingError, match=reason):
        Budget.read(text)


def test_files_that_bound_nothing_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "budget.toml"
    path.write_text("", encoding="utf-8")
    with pytest.raises(SettingError, match="bounds nothing"):
        Budget.read(str(path))
    path.write_text("budget = 3", encoding="utf-8")
    with pytest.raises(SettingError, match="budget must be a table"):
        Budget.read(str(path))
    path.write_text("max_size = ", encoding="utf-8")
    with pytest.raises(SettingError, match="neither a bound"):
        Budget.read(str(path))
