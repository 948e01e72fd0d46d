"""This file holds the HTML page of a study to what its ledger says, and to what a page may contain."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from dwindle.bench.ledger import Entry
from dwindle.errors import SettingError, StudyError
from dwindle.studies.markdown import study_page
from dwindle.studies.page import render_study, write_study_page

HOSTILE = "<script>alert(1)</script>\"'&{{ 7 * 7 }}"


class Checker(HTMLParser):
    """Collects what would load something, and tags that are not closed."""

    def __init__(self):
        super().__init__()
        self.loads, self.open, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in {"meta", "link", "br", "path", "rect"}:
            self.open.append(tag)
        self.loads += [
            (tag, value) for name, value in attrs if name in {"src", "href"} and not value.startswith(("#", "data:"))
        ]

    def handle_endtag(self, tag):
        if tag not in {"path", "rect"}:
            assert self.open.pop() == tag


def check(page):
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.loads == []
    assert "script" not in checker.tags
    return checker


@pytest.fixture(scope="module")
def page(study, outcomes):
    return render_study(study, outcomes)


def text_of(page):
    body = re.sub(r"<style>.*?</style>|<svg.*?</svg>", " ", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_is_one_whole_file_that_loads_nothing(page):
    check(page)
    assert "url(" not in page
    assert "@import" not in page


def test_headline_says_what_was_run_and_where(page, nodes):
    words = text_of(page)
    assert f"{len(nodes)} of {len(nodes)}" in words
    assert "2 networks, 2 data sets, 3 seeds" in words
    assert "Preset short" in words
    assert "A &lt;machine&gt;, 2 cores" in words
    assert "54 min 0 s" in words  # 108 epochs of 30 s
    assert "What is missing" not in words


def test_what_the_study_says_is_escaped(page):
    assert "A study of &lt;b&gt;two&lt;/b&gt; networks &amp; two data sets" in page
    assert "Half as &lt;i&gt;long&lt;/i&gt;." in page


def test_published_stands_beside_ours(page):
    row = re.search(r"<tr[^>]*><th scope=\"row\">(?:(?!</tr>).)*?Wide(?:(?!</tr>).)*?2x.*?</tr>", page, re.DOTALL)[0]
    assert '<td class="num published">91.27</td>' in row
    assert re.search(r"95 % interval \[[0-9.]+, [0-9.]+\], 3 seeds of 400 examples, published 91\.27", row)
    assert "0.12M" in row or "0.13M" in row


def test_columns_without_published_figures_keep_no_place_for_them(page):
    head = re.search(r"Pruning on Bits.*?<thead>(.*?)</thead>", page, re.DOTALL)[1]
    assert head.count("published") == 2  # the class and the word of one column


def test_a_dense_network_below_its_floor_is_flagged(page):
    rows = re.findall(r"<tr.*?</tr>", re.search(r"Pruning on Bits.*?</table>", page, re.DOTALL)[0], re.DOTALL)
    flagged = {("Deep" in row, "dense below 99.50 %" in row) for row in rows[1:]}
    assert flagged == {(True, True), (False, False)}


def test_claims_are_ruled_with_the_figure_that_decides(page):
    words = text_of(page)
    assert "1 of 2 1 refuted" in words
    fatal, bigger = re.findall(r'<li>\s*<span class="ruling (.*?)</div>', page, re.DOTALL)
    assert fatal.startswith("confirmed")
    assert "the paper's claim" in fatal.replace("&#39;", "'")
    assert "above 10.00" in fatal
    assert bigger.startswith("refuted")
    assert "our claim" in bigger
    assert "10x, 2 bits" in bigger


def test_same_ledger_same_bytes_in_any_order(study, outcomes, page):
    assert render_study(study, tuple(reversed(outcomes))) == page


def test_empty_ledger_is_said(study):
    page = render_study(study, ())
    check(page)
    assert "The ledger holds no outcome of this study." in page


def test_one_outcome_is_a_page_and_the_rest_is_missing(study, outcomes):
    page = render_study(study, outcomes[:1])
    check(page)
    words = text_of(page)
    assert "Wide on Bits: 41 of 42" in words
    assert "Nothing of these was run: Pruning on Bits; Pruning on Pieces." in words
    assert "2 not run" in words
    assert words.count("The ledger holds nothing of this figure.") == 3


def test_counts_are_those_of_the_markdown_page_whatever_seeds_were_run(study, outcomes):
    """Seeds beyond the preset are in the plan of both pages; what the study does not plan is in neither."""
    first = [e for e in outcomes if e.data["seed"] == 0]
    beyond = [Entry(e.kind, {**e.data, "seed": 7, "key": f"beyond {i}"}, e.time) for i, e in enumerate(first)]
    strange = [Entry(e.kind, {**e.data, "network": "Vast", "key": "strange"}, e.time) for e in first[:1]]
    entries = [*outcomes, *beyond, *strange]
    words, markdown = text_of(render_study(study, entries)), study_page(study, entries)
    n = len(outcomes) + len(first)
    assert f"{n} of {n} 2 networks, 2 data sets, 4 seeds" in words
    assert markdown.count(f"| 0, 1, 2, 7 | {n // 2} of {n // 2} |") == 2
    assert f"would make otherwise today: {len(beyond)}." in words
    assert f"{len(beyond)} outcomes made by settings other than those of today" in markdown


def test_one_data_set_draws_one_panel(study, outcomes):
    page = render_study(study, [e for e in outcomes if e.data["data"] == "Pieces"])
    check(page)
    assert re.findall(r'chart-title">([^<]*)<', page).count("Pieces") == 3
    assert "Bits</span>" not in page
    assert "Nothing of these was run: Pruning on Bits." in text_of(page)


def test_both_protocols_stand_apart(study, outcomes):
    as_published = [
        Entry("outcome", {**e.data, "is_as_published": True, "key": f"p{i}"}, e.time) for i, e in enumerate(outcomes)
    ]
    page = render_study(study, [*outcomes, *as_published])
    check(page)
    assert "As the paper did it." in page
    assert '<a href="#part-2">short, as published</a>' in page
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_failures_are_listed_until_made(study, outcomes):
    failed = {
        **{key: outcomes[0].data[key] for key in ("network", "data", "seed", "stage", "at", "key")},
        "error": HOSTILE,
    }
    failure = Entry("failure", failed, "2026-11-22T07:00:00.000+00:00")
    page = render_study(study, [failure, *outcomes[1:]])
    check(page)
    assert "Wide on Bits, seed 0: dense: &lt;script&gt;" in page
    assert "What failed" not in render_study(study, [failure, *outcomes])


def test_hostile_names_stay_text(study, outcomes):
    hostile = replace(
        study,
        name=HOSTILE,
        title=HOSTILE,
        source=HOSTILE,
        differences=(HOSTILE,),
        presets={HOSTILE: study.presets["short"]},
        tables=tuple(replace(table, title=HOSTILE, about=HOSTILE) for table in study.tables),
        figures=tuple(replace(figure, title=HOSTILE, about=HOSTILE) for figure in study.figures),
        claims=tuple(replace(claim, text=HOSTILE) for claim in study.claims),
    )
    entries = [
        Entry("outcome", {**e.data, "preset": HOSTILE, "machine": HOSTILE, "version": HOSTILE}, e.time)
        for e in outcomes
    ]
    page = render_study(hostile, entries)
    check(page)
    assert "49" not in re.findall(r"<h1>(.*?)</h1>", page)[0]


def test_unknown_preset_names_those_there_are(study, outcomes):
    entries = [Entry("outcome", {**outcomes[0].data, "preset": "shorty"}, outcomes[0].time)]
    with pytest.raises(SettingError, match=r"no preset 'shorty'.*short"):
        render_study(study, entries)


def test_an_earlier_page_stays_where_the_ledger_is_broken(study, outcomes, tmp_path):
    path = write_study_page(study, outcomes, tmp_path / "new" / "study.html")
    before = path.read_bytes()
    broken = Entry("outcome", {**outcomes[0].data, "answers": {"n": 3, "right": "??"}}, outcomes[0].time)
    with pytest.raises(StudyError, match="base64"):
        write_study_page(study, [*outcomes, broken], path)
    assert path.read_bytes() == before


def test_a_folder_in_place_of_the_page_is_refused(study, outcomes, tmp_path):
    with pytest.raises(StudyError, match="cannot be written"):
        write_study_page(study, outcomes[:1], tmp_path)


@pytest.mark.parametrize("history", [[{}], [{"curve": 3}], [{"curve": [None, {"validation_accuracy": "x"}, {}]}]])
def test_a_history_without_figures_draws_no_curve(study, outcomes, history):
    entries = [Entry("outcome", {**outcomes[0].data, "history": history}, outcomes[0].time)]
    page = render_study(study, entries)
    check(page)
    assert text_of(page).count("The ledger holds nothing of this figure.") == 4


def test_a_history_that_is_none_is_one_clear_error(study, outcomes):
    entries = [Entry("outcome", {**outcomes[0].data, "history": "x"}, outcomes[0].time)]
    with pytest.raises(StudyError, match="history is no list"):
        render_study(study, entries)
