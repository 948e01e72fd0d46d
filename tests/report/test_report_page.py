"""This file checks the page as a whole: one file, nothing from the network, whole or partial ledgers, hostile names."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwindle.bench.ledger import Entry, Ledger
from dwindle.errors import LedgerError
from dwindle.report.page import render, write_report

VOID = {"meta", "link", "br", "img", "path", "rect"}
SECTIONS = [
    "comparison",
    "advice",
    "bytes",
    "weights",
    "learning",
    "latency",
    "confusion",
    "recipe",
    "history",
    "machine",
    "method",
    "missing",
]
KINDS = ["run", "stage", "artifact", "measurement", "tensor", "latency_samples", "confusion", "budget", "summary"]
HOSTILE = '<script>alert("x")</script>&\'"'


class Page(HTMLParser):
    """Collects tags, attributes and text, and refuses tags that do not close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def values(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]


def parse(entries, **more) -> Page:
    page = Page(render(entries, **more))
    assert page.open == []
    assert [value for value in page.values("id") if not value.startswith("h-")] == SECTIONS
    assert not re.search(r"\b(nan|inf|None|Undefined)\b", page.text)
    return page


def changed(entries, kind, **data):
    return tuple(replace(e, data={**e.data, **data}) if e.kind == kind else e for e in entries)


def test_verdict_in_plain_words(entries):
    page = parse(entries)
    assert "smaller file , accuracy drop 0.21 points [\N{MINUS SIGN}0.05, 0.47] on 10,000 test examples" in page.text
    assert "37.2\N{MULTIPLICATION SIGN} smaller file" in page.text
    assert "the two networks cannot be told apart" in page.text
    assert "Budget met" in page.text
    assert "File size: at most 1.30 MB, measured 1.20 MB met" in page.text
    assert "Nothing that this report knows to ask for" in page.text


def test_table_names_runtime_n_and_protocol(entries):
    page = parse(entries)
    for words in (
        "44,803,212 bytes", "93.42 % [92.92, 93.89]", "93.21 % [92.70, 93.69]", "onnxruntime 1.25.1", "wilson",
        "6.18 ms [5.99, 6.37]", "threads 1, batch 1", "baseline dense.onnx",
    ):  # fmt: skip
        assert words in page.text, words


def test_loads_nothing_from_the_network(entries):
    html = render(entries)
    page = Page(html)
    assert not re.search(r"https?:|//[a-z]", html)
    assert page.tags["script"] == page.tags["img"] == page.tags["iframe"] == 0
    assert page.values("src") == []
    assert all(value.startswith("#") or value == "data:," for value in page.values("href"))
    assert "url(" not in html
    assert "@import" not in html
    assert any("default-src 'none'" in value for value in page.values("content"))


def test_is_accessible(entries):
    html = render(entries)
    page = Page(html)
    assert page.tags["h1"] == 1
    assert page.tags["th"] == len(page.values("scope"))
    labelled = [tag for tag, name, _ in page.attributes if tag == "svg" and name in {"aria-label", "aria-hidden"}]
    assert len(labelled) == page.tags["svg"]
    targets = set(page.values("id"))
    assert {value[1:] for value in page.values("href") if value.startswith("#")} <= targets
    sizes = [float(size) for size in re.findall(r"font-size: (\.?[0-9.]+)rem", html)]
    assert min(sizes) >= 0.75


def test_a_report_that_cannot_be_written_is_one_error_and_spoils_no_earlier_one(entries, tmp_path, monkeypatch):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append(entries[0].kind, entries[0].data)
    with pytest.raises(LedgerError, match=r"ledger\.jsonl/report\.html cannot be written .*choose another folder"):
        write_report(ledger, ledger.path / "report.html")
    written = write_report(ledger, tmp_path / "report.html")
    earlier = written.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(LedgerError, match=r"No space left on device.*make room"):
        write_report(ledger, written)
    assert written.read_bytes() == earlier


def test_same_ledger_gives_same_bytes_and_a_small_file(entries, tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for e in entries:
        ledger.append(e.kind, e.data)
    first = write_report(ledger, tmp_path / "a" / "report.html")
    second = write_report(ledger, tmp_path / "b.html")
    assert first == tmp_path / "a" / "report.html"
    assert first.read_bytes() == second.read_bytes()
    assert first.read_text(encoding="utf-8") == render(entries)
    assert first.stat().st_size < 200_000


def test_a_torn_line_is_reported(entries, tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append("run", entries[0].data)
    with ledger.path.open("ab") as file:
        file.write(b'{"kind": "mea')
    page = Page(write_report(ledger, tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "1 line of the ledger was cut off" in page.text
    assert "2 lines of the ledger were cut off" in parse(entries, n_torn=2).text


def test_empty_ledger_says_so():
    page = parse(())
    assert "No compressed file has been measured" in page.text
    assert "The ledger holds no measurements." in page.text
    assert "the accuracy of the compressed file" in page.text
    assert page.tags["svg"] == 0
    digits = re.sub(r"95 %|1 KB is 1,000 bytes|SHA-256|top-1|top-5|fp32", "", page.text)
    assert not re.search(r"[0-9]", digits)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_may_be_missing_or_alone(entries, kind):
    without = parse(e for e in entries if e.kind != kind)
    alone = parse(e for e in entries if e.kind == kind)
    assert "The ledger does not hold:" in alone.text
    assert ("The ledger does not hold:" in without.text) == (kind != "budget")


def test_every_prefix_of_a_run_gives_a_page(entries):
    assert all(parse(entries[:n]) for n in range(0, len(entries), 5))


def test_hostile_names_are_escaped(entries):
    hostile = changed(entries, "tensor", name=HOSTILE, structure=HOSTILE)
    hostile = changed(hostile, "run", name=HOSTILE, recipe_toml=HOSTILE, command=HOSTILE, machine={HOSTILE: HOSTILE})
    hostile = changed(hostile, "stage", technique=HOSTILE, settings={HOSTILE: HOSTILE}, decisions={HOSTILE: [HOSTILE]})
    hostile = changed(hostile, "confusion", class_names=[HOSTILE] * 10)
    hostile = changed(hostile, "latency_samples", runtime=HOSTILE)
    hostile = changed(hostile, "artifact", path=HOSTILE)
    page = parse((*hostile, Entry(HOSTILE, {}, "")))
    assert page.tags["script"] == 0
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    assert page.text.count(HOSTILE) > 30


def test_figures_that_are_not_finite(entries):
    holes = changed(entries, "measurement", value=math.nan, low=-math.inf, high=None)
    holes = changed(holes, "tensor", encoded_bytes=math.inf, sparsity="?", n_bits=None, centroids=[math.nan])
    holes = changed(
        holes, "stage", curve=[{"epoch": 1, "loss": math.nan, "validation_accuracy": None}, {"loss": 0.5}, 3]
    )
    holes = changed(holes, "latency_samples", samples_ms=[math.nan, 3.0, "x"])
    holes = changed(holes, "summary", compression_ratio=math.nan, accuracy_drop_points=10**400, seconds=True)
    holes = changed(holes, "budget", bounds={"size": math.nan}, verdicts=[])
    page = parse(holes)
    assert "not a finite number" in page.text
    assert "figures are not finite numbers; the line has gaps there." in page.text
    assert "No compressed file has been measured" not in page.text  # the artifact's size is known
    assert "1.20 MB on disk" in page.text


def test_only_one_class_one_epoch_one_run(entries):
    one = changed(entries, "confusion", class_names=["only"], counts=[[7]])
    one = changed(one, "stage", curve=[{"epoch": 1, "loss": 0.5, "validation_accuracy": 1.0}])
    one = changed(one, "latency_samples", samples_ms=[5.0])
    one = changed(one, "tensor", histogram={"edges": [0.0, 1e-300], "counts": [1]}, n_weights=1)
    page = parse(one)
    assert "No example was mistaken." in page.text
    assert "median 5.00 ms of 1 runs" in page.text


def test_two_hundred_layers_with_long_names_stay_small(entries, make_entry):
    tensor = next(e for e in entries if e.kind == "tensor")
    many = [make_entry("tensor", **{**tensor.data, "name": f"{'block.' * 40}{i}.weight"}) for i in range(200)]
    html = render((*entries, *many))
    page = Page(html)
    assert "smaller tensors" in page.text
    assert page.tags["svg"] < 20
    assert len(html) < 1_000_000


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_types_never_break_the_page(entries, kind):
    some = [e for e in entries if e.kind == kind][:2]
    for junk in (None, 3, "text", [], {}, [[]], [None], {"a": {"b": []}}):
        assert all(parse(changed(some, kind, **{key: junk})) for key in some[0].data)


def test_only_the_last_run_is_shown(entries):
    again = changed(entries, "run", name="second try")
    again = changed(again, "stage", seconds=0.01)
    page = parse((*entries, *again))
    assert "second try" in page.text
    assert "resnet18_tian on Fashion-MNIST" not in page.text
    assert "12 min 51 s" in page.text  # when the stage was really run, not when it came from the cache
    assert "The ledger holds 2 starts of a run" in page.text
    assert page.tags == parse(entries).tags | Counter(ul=page.tags["ul"], li=page.tags["li"])


def test_measurements_of_replaced_files_are_left_out(entries, make_entry):
    no_run = tuple(e for e in entries if e.kind != "run")
    newer = make_entry("artifact", role="compressed", path="model.onnx", format="onnx", sha256="e" * 64, size_bytes=5)
    page = parse((*no_run, newer))
    assert "2 measurements belong to files that were written anew since" in page.text
    assert "6.02 MB" not in page.text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_json_gives_a_page(entries, data):
    fields = st.sampled_from(sorted({key for e in entries for key in e.data}))
    facts = st.tuples(st.sampled_from([*KINDS, "other"]), st.dictionaries(fields, JSON, max_size=6))
    found = data.draw(st.lists(facts, max_size=8))
    page = Page(render(Entry(kind, fact, "") for kind, fact in found))
    assert page.open == []
    assert page.tags["h1"] == 1
