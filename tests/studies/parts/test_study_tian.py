"""This file holds the study of Tian et al. to its paper: every printed row is there, every preset unfolds."""

from __future__ import annotations

import pytest

from dwindle.studies.plan import Choice, unfold
from dwindle.studies.read import load_study


@pytest.fixture(scope="module")
def tian():
    return load_study("tian")


@pytest.mark.parametrize("table", ["3", "4", "5"])
def test_pruning_tables_hold_twelve_rows_and_drops_that_follow_from_them(tian, table):
    found = tian.table(table)
    assert len(found.published) == 12
    dense = {row["network"]: row["acc"] for row in tian.table("dense").published if row["data"] == found.where["data"]}
    for row in found.published:
        assert row["drop"] == pytest.approx(dense[row["network"]] - row["acc"], abs=1e-6)


def test_the_clustering_table_holds_thirty_six_rows(tian):
    rows = tian.table("6").published
    assert len({(row["network"], row["rate"], row["n_bits"]) for row in rows}) == 36


@pytest.mark.parametrize("as_published", [False, True])
@pytest.mark.parametrize("preset", ["smoke", "short", "laptop", "full"])
def test_every_preset_unfolds_into_trees_of_equal_shape(tian, preset, as_published):
    nodes = unfold(tian, Choice(preset=preset, as_published=as_published))
    n_cases = 1 if preset == "smoke" else 12
    n_seeds = len(tian.preset(preset).seeds)
    n_rates = len(tian.preset(preset).axes.get("rate", tian.axes["rate"]))
    n_bits = len(tian.preset(preset).axes.get("n_bits", tian.axes["n_bits"]))
    of_a_case = 4 + n_rates * (2 + 2 * n_bits)
    assert len(nodes) == n_cases * n_seeds * of_a_case
    assert len({node.key for node in nodes}) == len(nodes)


@pytest.mark.parametrize("preset", ["smoke", "short", "laptop", "full"])
def test_a_compressed_network_and_the_one_it_is_compared_with_train_equally(tian, preset):
    for node in unfold(tian, Choice(preset=preset)):
        if node.stage.name not in {"retrained", "gradual", "best"}:
            continue
        longer = next(
            other
            for other in unfold(tian, Choice(preset=preset, networks=(node.case.network,), data=(node.case.data,)))
            if other.stage.name == node.stage.against and other.seed == node.seed
        )
        assert node.epochs == pytest.approx(longer.epochs)


def test_the_laptop_preset_trains_as_long_as_was_asked_for(tian):
    epochs = {
        (node.case.data, node.stage.name): node.epochs for node in unfold(tian, Choice(preset="laptop")) if node.trains
    }
    assert (epochs["UCI-HAR", "dense"], epochs["UCI-HAR", "retrained"]) == (25, 10)
    assert (epochs["Fashion-MNIST", "dense"], epochs["Fashion-MNIST", "retrained"]) == (15, 5)


def test_the_front_of_sensor_networks_is_never_pruned(tian):
    for node in unfold(tian, Choice(preset="laptop", data=("UCI-HAR",), seeds=(0,))):
        for step in node.steps:
            if step["type"] == "PruneWeights":
                assert "front.*" in step["select"]["exclude"]
