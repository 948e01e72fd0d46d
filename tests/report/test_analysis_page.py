"""This file tests the page of an analysis: whole, with anything missing, and in a browser."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from dwindle.errors import LedgerError
from dwindle.report.analysis import render_analysis, write_analysis
from dwindle.report.analysis_figures import (
    dimension_charts,
    effect_charts,
    scatter_chart,
    significance_charts,
    variance_chart,
)
from dwindle.report.analysis_rows import criteria_of, rows_of
from dwindle.report.analysis_tables import heat_of, layer_rows

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SUSPICIOUS = "<script>alert('layer')</script>"


def layer(i, n_layers, **changes):
    scores = {
        "two_nn": {"value": 0.5 * i, "dimension_before": 4.0 + i, "dimension_after": 4.0 + 1.5 * i},
        "pca": {"value": 3.0 - i, "dimension_before": 10.0, "dimension_after": 13.0 - i},
        "binary": {"value": 0.1 * i, "loss_before": 0.2, "loss_after": 0.2 + 0.1 * i, "accuracy_change": -0.01 * i},
    }
    is_judged = 0 < i < n_layers - 1
    return {
        "name": f"block.{i}.weight", "kind": "Conv2d", "shape": [8, 8, 3, 3], "n_weights": 576, "dense_bytes": 2304,
        "macs": 36864, "n_calls": 1, "time_ms": 0.01 * (i + 1), "operations": ["Conv", "Relu"], "timed_with": [],
        "scores": scores, "significant": ["two_nn"] if is_judged and i > n_layers / 2 else [],
        "action": "make binary" if is_judged else "keep 8 bits", "why": f"Because of {i}.", **changes,
    }  # fmt: skip


def analysis(n_layers=5, **changes):
    layers = [layer(i, n_layers) for i in range(n_layers)]
    judged = [each["name"] for each in layers[1:-1]]
    criteria = [
        {
            "name": name, "title": title, "unit": unit, "settings": {"n_examples": 100}, "cut": 1.0, "judged": judged,
            "significant": [each["name"] for each in layers if "two_nn" in each["significant"]], "problem": "",
            "seconds": 1.0,
        }
        for name, title, unit in (
            ("two_nn", "TwoNN dimension", "dimensions"), ("pca", "PCA dimension", "components"),
            ("binary", "loss when binary", "loss"),
        )
    ]  # fmt: skip
    criteria.append({**criteria[0], "name": "fisher", "title": "Fisher trace", "problem": "no labels", "judged": []})
    return {
        "name": "tiny", "decided_by": "two_nn", "dense_bytes": 12000, "planned_bytes": 3000.0, "layers": layers,
        "criteria": criteria,
        "agreement": {"two_nn": {"two_nn": 1.0, "pca": -1.0}, "pca": {"two_nn": -1.0, "pca": None}},
        "explained_variance": {each["name"]: [0.5, 0.9, 1.0] for each in layers},
        "time": {"total_ms": 0.2, "others_ms": {"Pad": 0.05}, "runtime": "engine 1.0", "problem": ""},
        "about": {"seed": 3, "machine": "a machine"}, "remarks": ["A remark."], "recipe_toml": "[recipe]\n", **changes,
    }  # fmt: skip


class Checker(HTMLParser):
    """Every tag that opens is closed, and nothing is loaded or run."""

    VOID = frozenset({"meta", "link", "br", "path", "rect", "input"})

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.loads = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.loads += [value for key, value in attrs if key in {"src", "href", "onclick", "onload"}]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def checked(plain):
    page = render_analysis(plain)
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    assert "script" not in checker.tags
    assert all(value.startswith(("#", "data:,")) for value in checker.loads)
    return page


def test_the_page_shows_every_layer_and_every_reason():
    page = checked(analysis())
    for i in range(5):
        assert f"block.{i}" in page
        assert f"Because of {i}." in page
    for words in (
        "TwoNN dimension",
        "Fisher trace: no labels",
        "A remark.",
        "[recipe]",
        "4.00\N{MULTIPLICATION SIGN}",
        "Pad 25.0 %",
    ):
        assert words in page


def test_the_same_values_give_the_same_page():
    assert render_analysis(analysis()) == render_analysis(analysis())


def test_names_are_text_and_no_markup():
    bad = layer(0, 2, name=f"{SUSPICIOUS}.weight", why=SUSPICIOUS, kind=SUSPICIOUS)
    page = checked(analysis(layers=[bad, layer(1, 2)], name=SUSPICIOUS, explained_variance={}))
    assert SUSPICIOUS not in page


@pytest.mark.parametrize("key", sorted(analysis()))
def test_any_part_may_be_missing(key):
    plain = analysis()
    del plain[key]
    assert "<h1>" in checked(plain)


@pytest.mark.parametrize("plain", [{}, {"layers": None}, {"layers": [3, {}]}, {"criteria": [None, {}]}])
def test_nothing_at_all_is_a_page_too(plain):
    assert "What is missing" in checked(plain)


@pytest.mark.parametrize("key", sorted(layer(1, 4)))
def test_a_layer_may_lack_anything(key):
    layers = [layer(i, 4) for i in range(4)]
    del layers[1][key]
    checked(analysis(layers=layers))


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), -1e300, "three"])
def test_scores_may_be_anything(value):
    layers = [layer(i, 4) for i in range(4)]
    layers[2]["scores"] = {name: dict.fromkeys(score, value) for name, score in layers[2]["scores"].items()}
    assert "nan" not in re.sub(r"<style>.*?</style>", "", checked(analysis(layers=layers)), flags=re.DOTALL).lower()


@pytest.mark.parametrize("n_layers", [1, 2, 3, 60, 200])
def test_any_number_of_layers_has_legible_ticks(n_layers):
    plain = analysis(n_layers)
    checked(plain)
    rows, criteria = rows_of(plain), criteria_of(plain)
    charts = [
        *dimension_charts(rows, criteria),
        *significance_charts(rows, criteria, "two_nn"),
        *effect_charts(rows),
        *filter(None, (variance_chart(plain["explained_variance"], rows), scatter_chart(rows, "binary", "loss"))),
    ]
    assert len(charts) >= 6
    for chart in charts:
        places = [tick.at for tick in chart.x_ticks]
        assert places == sorted(places)
        assert all(-0.01 <= place <= 100.01 for place in places)
        assert all(right - left > 4 for left, right in pairwise(places))
        for shape in chart.shapes:
            assert all(math.isfinite(float(number)) for number in re.findall(r"-?\d+\.?\d*", shape.path))


def test_columns_stand_on_zero_and_the_cut_lies_where_it_is():
    rows, criteria = rows_of(analysis()), criteria_of(analysis())
    (chart, other) = significance_charts(rows, criteria, "two_nn")
    sides = [shape.role for shape in chart.shapes]
    assert sides == [
        "column aside",
        "column insignificant",
        "column insignificant",
        "column significant",
        "column aside",
        "cut",
    ]
    (floor,) = {re.search(r"M[\d.]+ ([\d.]+)V", shape.path)[1] for shape in chart.shapes[:-1]}
    assert floor == "100.00"
    assert other.title == "PCA dimension"


def test_losses_that_are_not_positive_have_a_linear_axis():
    layers = [layer(i, 4) for i in range(4)]
    for each in layers:
        each["scores"]["binary"] |= {"loss_before": -1.0, "loss_after": -0.5}
    rows = rows_of(analysis(layers=layers))
    assert effect_charts(rows)[0].y_label == "loss"
    assert scatter_chart(rows, "binary", "loss").y_label == "loss when it is binary"


def test_labels_of_marks_do_not_cover_each_other():
    rows = rows_of(analysis(40))
    labels = scatter_chart(rows, "binary", "loss").labels
    assert 1 <= len(labels) < 40
    heights = sorted(label.y for label in labels)
    assert all(high - low > 6 for low, high in pairwise(heights))


def test_a_weight_that_shares_its_operation_says_with_whom():
    layers = [layer(0, 2), layer(1, 2, time_ms=0.0, timed_with=["block.0.weight"])]
    lines = layer_rows(rows_of(analysis(layers=layers)), total_ms=0.2)
    assert lines[1].costs[2].words == "with block.0.weight"
    assert lines[0].costs[2].words == "10.0 \N{MICRO SIGN}s"


def test_tints_run_from_the_smallest_to_the_largest():
    plain = analysis()
    grid = heat_of(rows_of(plain), criteria_of(plain))
    assert [cells[0].tint for _, _, cells in grid.rows] == [0, 25, 50, 75, 100]
    assert [cells[0].is_marked for _, _, cells in grid.rows] == [False, False, False, True, False]


def test_a_page_that_cannot_be_written_is_one_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LedgerError, match="cannot be written"):
        write_analysis(analysis(), tmp_path / "file" / "page.html")


PHONE = """<!doctype html><title>waiting</title>
<iframe src="page.html" style="width:390px;height:800px;border:0"></iframe>
<script>
onload = () => {
  const page = document.querySelector("iframe").contentDocument, width = page.documentElement.scrollWidth;
  const fonts = [...page.querySelectorAll("body *")].filter(e => e.textContent.trim() && !e.closest(".sr"))
    .map(e => parseFloat(getComputedStyle(e).fontSize));
  document.title = `width ${width} font ${Math.min(...fonts)} sections ${page.querySelectorAll("section").length}`;
};
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine, so nothing was drawn")
def test_fits_a_phone_and_says_nothing_on_the_console(tmp_path):
    write_analysis(analysis(12), tmp_path / "page.html")
    (tmp_path / "phone.html").write_text(PHONE)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--allow-file-access-from-files", "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"]
    flags += ["--window-size=800,900", "--virtual-time-budget=5000", "--dump-dom"]
    command = [str(CHROMIUM), *flags, (tmp_path / "phone.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"<title>width (\d+) font ([0-9.]+) sections (\d+)</title>", done.stdout)
    assert found is not None, done.stdout[:300]
    assert "CONSOLE" not in done.stderr
    assert int(found[1]) <= 390
    assert float(found[2]) >= 12
    assert int(found[3]) == 9
