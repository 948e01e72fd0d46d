"""This file holds the study of Predic et al. to its paper: printed figures are there, every preset unfolds."""

from __future__ import annotations

import math

import pytest

from dwindle.bench.ledger import Ledger
from dwindle.job.resolve import resolve
from dwindle.studies.markdown import study_page
from dwindle.studies.page import render_study
from dwindle.studies.plan import Choice, unfold
from dwindle.studies.read import load_study
from dwindle.studies.results import Results, Variant
from dwindle.studies.run import LEDGER, Worker
from dwindle.studies.tables import fill

PRESETS = ["smoke", "short", "laptop", "tiles", "full"]


@pytest.fixture(scope="module")
def predic():
    return load_study("predic")


def line_of(node):
    return [] if node is None else [*line_of(node.parent), node]


def epochs_behind_the_base(node):
    return sum(one.epochs for one in line_of(node)[1:])


@pytest.mark.parametrize("as_published", [False, True])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_unfolds_and_what_two_stages_share_is_made_once(predic, preset, as_published):
    nodes = unfold(predic, Choice(preset=preset, as_published=as_published))
    chosen = predic.preset(preset)
    n_clustered = math.prod(len(predic.options_of(axis, chosen)) for axis in ("init", "n_centroids"))
    n_cases = len(chosen.data) * len(chosen.seeds)
    assert len(nodes) == n_cases * (18 + 2 * 2 + n_clustered)
    shared = {"pcqat_pruned": "pruned", "cqat_clustered": "clustered"}
    by_key = {}
    for node in nodes:
        by_key.setdefault(node.key, []).append(node.stage.name)
    twins = [names for names in by_key.values() if len(names) > 1]
    assert sorted(map(tuple, twins)) == sorted([(full, part) for part, full in shared.items()] * n_cases)


@pytest.mark.parametrize("preset", PRESETS)
def test_no_network_trains_longer_than_the_dense_one_that_it_is_compared_with(predic, preset):
    nodes = unfold(predic, Choice(preset=preset, seeds=(0,)))
    dense = {(n.case.name, n.stage.name): n for n in nodes}
    for node in nodes:
        is_student = any("Distill" in str(step) for one in line_of(node) for step in one.steps)
        if node.stage.against is None or is_student or node.stage.name.startswith("dense"):
            continue
        against = dense[node.case.name, node.stage.against]
        assert epochs_behind_the_base(node) <= epochs_behind_the_base(against), node.words


@pytest.mark.parametrize("preset", PRESETS)
def test_the_plain_student_differs_by_its_teacher_alone(predic, preset):
    nodes = {n.stage.name: n for n in unfold(predic, Choice(preset=preset, seeds=(0,)))}
    taught, plain = (dict(nodes[name].steps[0]) for name in ("distilled", "plain"))
    assert taught.pop("distillation") == {"alpha": 0.1, "temperature": 10.0, "is_balanced": True}
    assert plain.pop("distillation") == {"alpha": 1.0}
    assert taught == plain
    assert nodes["distilled"].networks == nodes["plain"].networks


def test_the_published_distillation_has_no_square_of_the_temperature(predic):
    nodes = {n.stage.name: n for n in unfold(predic, Choice(preset="short", seeds=(0,), as_published=True))}
    assert nodes["distilled"].steps[0]["distillation"]["is_balanced"] is False


@pytest.mark.parametrize("preset", PRESETS)
def test_the_student_has_about_a_third_of_the_weights(predic, preset, tmp_path):
    node = next(n for n in unfold(predic, Choice(preset=preset, seeds=(0,))) if n.stage.name == "distilled")
    student = node.networks["MobileNetV2"]
    built = [
        resolve(build, tmp_path, where="test")(**arguments)
        for build, arguments in ((node.case.build, node.build_arguments), (student["build"], student["arguments"]))
    ]
    teacher, taught = (sum(p.numel() for p in network.parameters()) for network in built)
    assert 1.5 * taught < teacher < 6 * taught


def test_printed_tables_are_whole(predic):
    first, second = predic.table("1").published, predic.table("2").published
    assert {row["method"]: row["acc"] for row in first} == {"base": 78.14, "FP16": 78.24, "INT16": 78.14, "INT8": 79.24}
    assert len(second) == 10
    assert sum(row["seconds"] for row in second) == pytest.approx(11522.15)
    seconds = {row["method"]: row["seconds"] for row in predic.table("time").published}
    faster = next(row["faster"] for row in predic.table("time").published if "faster" in row)
    assert faster == pytest.approx(seconds["base"] / seconds["distilled MobileNetV2"], abs=1e-3)


def test_every_published_figure_stands_in_a_row_of_every_case(predic):
    results = Results(variant=Variant("laptop"), outcomes=())
    for table in predic.tables:
        rows = fill(table, predic, results).rows
        printed = [cell.published for row in rows for cell in row.cells if cell.published is not None]
        figures = [value for row in table.published for key, value in row.items() if key != "method"]
        assert sorted(printed) == sorted([*figures, *figures]), table.id  # two data sets


@pytest.mark.slow
def test_the_smoke_preset_runs_and_shows_everything(predic, tmp_path):
    nodes = unfold(predic, Choice(preset="smoke"))
    assert Worker(nodes=nodes, folder=tmp_path, home=tmp_path).run() == ()
    entries = Ledger(tmp_path / LEDGER).read()
    page, html = study_page(predic, entries), render_study(predic, entries)
    assert "Nothing was run of" not in page
    assert "what to use when" in page
    for text in (page, html):
        assert "In this engine" in text or "fastest" in text
        assert "Predić et al. 2022" in text
    assert html.count('class="chart panel"') >= 2 * 12
