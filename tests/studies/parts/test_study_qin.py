"""This file holds the study of Qin et al. to its paper: printed figures are there, every preset unfolds."""

from __future__ import annotations

import pytest

from dwindle.job.resolve import resolve
from dwindle.studies.check import require_sound
from dwindle.studies.plan import Choice, unfold
from dwindle.studies.read import load_study

PRESETS = ["smoke", "laptop", "full"]


@pytest.fixture(scope="module")
def qin():
    return load_study("qin")


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_unfolds_and_is_sound(qin, preset, tmp_path):
    nodes = unfold(qin, Choice(preset=preset))
    require_sound(nodes, tmp_path)
    rates = qin.options_of("rate", qin.preset(preset))
    n_bits = qin.options_of("n_bits", qin.preset(preset))
    per_network = 4 + len(n_bits) + 3 * len(rates)  # dense, trained on, int8, both; fixed; pruned, channels, both
    per_recurrent = 4 + len(n_bits) + 2 * len(rates)
    for case in {node.case.name: node.case for node in nodes}.values():
        n = sum(node.case.name == case.name for node in nodes) / len(qin.preset(preset).seeds)
        assert n == (per_recurrent if case.network == "LSTM" else per_network), case.name


def test_a_pruned_network_trains_as_long_as_what_it_is_compared_with(qin):
    nodes = unfold(qin, Choice(preset="laptop", seeds=(0,)))
    longer = {n.case.name: n.epochs for n in nodes if n.stage.name == "dense_longer"}
    pruned = [n for n in nodes if n.stage.name in {"pruned", "channels"}]
    assert pruned
    assert all(n.epochs == longer[n.case.name] for n in pruned)


def test_the_paper_prunes_from_5_to_75_percent_and_quantizes_to_three_widths(qin):
    assert list(qin.axes["n_bits"]) == ["16", "8", "6"]
    rates = [values["rate"] for values in qin.axes["rate"].values()]
    assert (min(rates), max(rates)) == (0.05, 0.75)
    for name, values in qin.axes["rate"].items():
        assert name == f"{100 * values['rate']:g} %"


def test_what_is_printed_as_reductions_stands_as_ratios(qin):
    printed = {row["method"]: row["ratio"] for row in qin.table("size").published}
    reductions = {"fixed point, 16": 50.2, "fixed point, 8": 75.0, "fixed point, 6": 80.7, "8 bits, then pruned": 76.0}
    for method, percent in reductions.items():
        assert printed[method] == pytest.approx(1 / (1 - percent / 100), abs=0.005)


@pytest.mark.parametrize("case", ["VGG_16 on Fashion-MNIST", "ResNet_50 on Fashion-MNIST", "LSTM on UCI-HAR"])
def test_networks_are_those_that_the_tables_name(qin, case, tmp_path):
    node = next(n for n in unfold(qin, Choice(preset="laptop", seeds=(0,))) if n.case.name == case)
    network = resolve(node.case.build, tmp_path, where="build")(**node.build_arguments)
    n_weights = sum(parameter.numel() for parameter in network.parameters())
    assert n_weights == {"VGG_16": 15_243_978, "ResNet_50": 23_522_250, "LSTM": 217_862}[node.case.network]
