"""This file holds the study of Abishek S to its thesis: printed figures are there, every preset unfolds."""

from __future__ import annotations

import pytest

from dwindle.bench.ledger import Ledger
from dwindle.job.resolve import resolve
from dwindle.network.select import weight_names
from dwindle.studies.markdown import study_page
from dwindle.studies.page import render_study
from dwindle.studies.plan import Choice, unfold
from dwindle.studies.read import load_study
from dwindle.studies.results import Results, Variant
from dwindle.studies.run import LEDGER, Worker
from dwindle.studies.search import node_of
from dwindle.studies.tables import fill

PRESETS = ["smoke", "short", "full"]


@pytest.fixture(scope="module")
def abishek():
    return load_study("abishek")


def behind_the_base(node):
    """Return the epochs of its own case behind the base."""
    own = 0.0
    while node is not None and node.stage.name != "base":
        own, node = own + node.epochs, node.parent
    return own


@pytest.mark.parametrize("as_published", [False, True])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_unfolds_into_outcomes_of_their_own(abishek, preset, as_published):
    nodes = unfold(abishek, Choice(preset=preset, seeds=(0,), as_published=as_published))
    assert len({node.key for node in nodes}) == len(nodes)
    assert {node.case.data for node in nodes} == set(abishek.preset(preset).data)
    reform = "dwindle.studies.published:stop_by_the_test_split" if as_published else "none"
    assert {node.training["reform"] for node in nodes} == {reform}


@pytest.mark.parametrize("preset", PRESETS)
def test_no_network_trains_longer_than_the_dense_one_that_it_is_compared_with(abishek, preset):
    nodes = unfold(abishek, Choice(preset=preset, seeds=(0,)))
    dense = {(n.case.name, n.stage.name): n for n in nodes if not n.at}
    compared = [node for node in nodes if node.stage.against is not None and not node.stage.name.startswith("base_")]
    compared = [node for node in compared if node.stage.name != "best_longer"]
    assert compared
    for node in compared:
        against = dense[node.case.name, node.stage.against]
        assert behind_the_base(node) <= behind_the_base(against), node.words


def test_the_published_presets_have_twenty_seeds(abishek):
    assert {len(abishek.preset(preset).seeds) for preset in ("short", "full")} == {20}


def test_the_network_has_the_weights_of_the_thesis_and_layers_are_named(abishek, tmp_path):
    node = unfold(abishek, Choice(preset="short", seeds=(0,)))[0]
    network = resolve(node.case.build, tmp_path, where="test")(**node.build_arguments)
    assert sum(p.numel() for p in network.parameters()) == 545_889
    assert tuple(name for name in abishek.layers.values() if name) == weight_names(network)


def test_printed_tables_are_whole(abishek):
    rows = {table.id: len(table.published) for table in abishek.tables}
    assert rows == {"4.3": 6, "4.4": 6, "4.5": 5, "4.6": 6, "4.7": 7, "4.8": 4, "4.9": 6, "4.9 drops": 0, "ours": 0}
    clusters = [row for row in abishek.table("4.8").published if row.get("linear1") == 16]
    assert len(clusters) == 2


def test_every_published_figure_stands_in_its_table(abishek):
    results = Results(variant=Variant("short"), outcomes=())
    for table in abishek.tables:
        printed = [cell.published for row in fill(table, abishek, results).rows for cell in row.cells if cell.published]
        factors = {column.published: column.published_factor for column in table.columns}
        figures = [v * factors[k] for row in table.published for k, v in row.items() if k not in {"method", "layer"}]
        assert sorted(printed) == pytest.approx(sorted(figures)), table.id


def test_the_search_starts_from_the_published_setting(abishek, tmp_path):
    search = abishek.search
    assert set(search.published) == set(search.space)
    published = node_of(abishek, search, "short", settings=search.published)
    base = unfold(abishek, Choice(preset="short", seeds=(0,)))[0]
    assert published.key == base.key
    other = node_of(abishek, search, "short", settings={**search.published, "filters1": 16, "batch_size": 512})
    assert other.training["batch_size"] == 512
    assert other.build_arguments["filters"] == [16, 64]


@pytest.mark.slow
def test_the_smoke_preset_runs_and_shows_everything(abishek, tmp_path):
    nodes = unfold(abishek, Choice(preset="smoke"))
    assert Worker(nodes=nodes, folder=tmp_path, home=tmp_path).run() == ()
    entries = Ledger(tmp_path / LEDGER).read()
    results = Results.of(entries, Variant("smoke"), nodes=nodes)
    clusters = {row.names[1]: row.cells for row in fill(abishek.table("4.8"), abishek, results).rows}
    for method in ("clustered", "cluster-preserving QAT"):
        assert [cell.value for cell in clusters[method][1:6]] == [16] * 5
    page, html = study_page(abishek, entries), render_study(abishek, entries)
    for text in (page, html):
        assert "Abishek S" in text
    assert html.count('class="chart panel"') >= 6
