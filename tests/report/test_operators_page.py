"""This file tests what the report shows of two profiles, and that odd ones break nothing."""

from __future__ import annotations

import numpy as np
import pytest

from dwindle.bench.layer_facts import FileFacts, LayerFacts
from dwindle.bench.ledger import Entry
from dwindle.bench.probes.operator_times import profile_of
from dwindle.bench.profiled import Profiled
from dwindle.report.facts import gather
from dwindle.report.operators import bars_of, operations_of
from dwindle.report.page import render
from dwindle.runtimes.call_times import CallTimes, Kernel
from dwindle.settings import to_plain


def profiled(*kernels, name="net.onnx", zeros=0):
    ms = np.array([[ms for _, _, ms in kernels]] * 3)
    times = CallTimes(
        kernels=tuple(Kernel(name=f"<{kind}> {i}", kind=kind, numbers=n) for i, (kind, n, _) in enumerate(kernels)),
        ms=ms,
        engine_ms=np.full(3, 0.25),
        wall_ms=ms.sum(axis=1) + 0.25,
    )
    layers = (
        LayerFacts(
            name="w", kind="Conv", n_weights=10, n_zeros=zeros, weights="float32", inputs="float32", outputs="float32"
        ),
    )
    return Profiled(
        name=name,
        size_bytes=1_000,
        profile=profile_of(times, "onnxruntime 1.0", artifact="a" * 64, unprofiled_ms=2.0),
        facts=FileFacts(layers=layers),
    )


BEFORE = profiled(("Conv", "float32", 4.0), ("MaxPool", "float32", 1.0))
AFTER = profiled(("Conv", "float32", 4.0), ("QuantizeLinear", "int8", 0.5), zeros=9)


def entries(**by_role):
    found = [{"role": role, **plain} for role, plain in by_role.items()]
    return [Entry(kind="profile", data=data, time="2026-11-23T00:00:00.000+00:00") for data in found]


def plain(value):
    return {key: item for key, item in to_plain(value).items() if key != "type"}


def test_bars_words_and_the_slowest():
    page = render(entries(dense=plain(BEFORE), compressed=plain(AFTER)))
    assert "Where the time goes" in page
    assert "90 % of the weights are zero" in page
    assert "&lt;Conv&gt; 0" in page  # names of operations are text, never markup
    found = operations_of(gather(entries(dense=plain(BEFORE), compressed=plain(AFTER))))
    assert found is not None
    assert [bar.name for bar in found.bars] == ["convolution", "pooling", "quantize", "engine"]
    assert [(round(bar.raw), round(bar.encoded)) for bar in found.bars][:3] == [(100, 100), (25, 0), (0, 12)]
    assert "100.0 % and 100.0 % of the time" in found.about
    alone = [f"{100 * each.profile.coverage_of_operations:.1f} %" for each in (BEFORE, AFTER)]
    assert f"operations alone {' and '.join(alone)}" in found.about
    assert [slow.file for slow in found.slowest] == ["dense", "dense", "compressed", "compressed"]


def test_a_speedup_that_was_timed_in_turn_is_the_one_answer_of_the_page():
    speedup = {
        "role": "compressed", "metric": {"name": "speedup", "unit": "x", "better": 1}, "value": 0.7, "low": 0.65,
        "high": 0.75, "artifact": "c", "runtime": "r",
    }  # fmt: skip
    sides = entries(dense=plain(BEFORE), compressed=plain(AFTER))
    page = render([*sides, Entry(kind="measurement", data=speedup, time=sides[0].time)])
    assert "Timed in turn, the compressed file is 0.700\u00d7 [0.650, 0.750] as fast as the dense one." in page
    assert "A call took about" not in page
    assert "A call took about" in render(sides)


def test_a_ledger_without_profiles_has_no_such_part():
    assert operations_of(gather([])) is None
    assert "Where the time goes" not in render([])


def test_bars_of_profiles_without_time():
    nothing = profiled(("Conv", "float32", 0.0)).profile
    assert [bar.name for bar in bars_of(nothing, nothing)] == ["engine"]


def test_a_profile_that_failed_says_why():
    page = render(entries(dense=plain(BEFORE), compressed={"problem": "the engine <refused> it"}))
    assert "the engine &lt;refused&gt; it" in page


SLOWEST = plain(AFTER)["profile"]["operations"][0]


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"profile": 3},
        {"name": "x", "size_bytes": 1, "profile": {}},
        plain(AFTER) | {"more": 1},
        plain(AFTER) | {"profile": plain(AFTER)["profile"] | {"wall_ms": 0}},
        plain(AFTER) | {"profile": plain(AFTER)["profile"] | {"wall_ms": 10**400}},
        plain(AFTER) | {"profile": plain(AFTER)["profile"] | {"coverage": "all"}},
        plain(AFTER) | {"profile": plain(AFTER)["profile"] | {"operations": [SLOWEST | {"ms": float("nan")}]}},
        plain(AFTER) | {"facts": {"layers": [{}]}},
    ],
    ids=range(9),
)
def test_odd_profiles_break_nothing(odd):
    page = render(entries(dense=plain(BEFORE), compressed=odd))
    assert "No profile of both files" in page


def test_only_one_of_both():
    assert "does not hold both profiles" in render(entries(dense=plain(BEFORE)))
