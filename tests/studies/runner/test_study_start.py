"""This file tests cases that start from another case, losses, stages of single cases, and figures of single layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dwindle.bench.ledger import Ledger
from dwindle.errors import NetworkError, SettingError
from dwindle.studies.check import require_sound
from dwindle.studies.make import Workshop
from dwindle.studies.plan import Choice, Node, unfold
from dwindle.studies.read import read_study
from dwindle.studies.results import Results, Spot, Variant
from dwindle.studies.run import LEDGER, Worker
from dwindle.studies.study import Study
from dwindle.studies.tables import fill

STUDY = """
name = "mine"
title = "Mine"
source = "nobody"

[training]
batch_size = 40
learning_rate = 0.05
loss = "bce"

[layers]
input = ""
hidden = "1.weight"
last = "3.weight"

[criteria]
TwoNN = { type = "TwoNNChange" }
PCA = { type = "PCAChange", view = "flat" }

[presets.quick]
about = "Seconds."
data = ["3/8", "4/9 from 3/8", "4/9 anew"]
seeds = [0]

[[cases]]
network = "Small"
data = "3/8"
build = "mine.py:build"
load = "dwindle.data.cifar10_pair:load_digit_pair"
floor = 60.0

[[cases]]
network = "Small"
data = "4/9 from 3/8"
build = "mine.py:build"
load = "dwindle.data.cifar10_pair:load_digit_pair"
load_arguments = { first = 4, second = 9 }
start = { case = "Small on 3/8", stage = "dense" }

[[cases]]
network = "Small"
data = "4/9 anew"
build = "mine.py:build"
load = "dwindle.data.cifar10_pair:load_digit_pair"
load_arguments = { first = 4, second = 9 }
start = { case = "Small on 3/8", stage = "dense", anew = ["3.*"] }
stages = ["dense", "source"]

[[stages]]
name = "source"
judges_layers = true

[[stages]]
name = "dense"
steps = [{ type = "FineTune", epochs = 6 }]

[[stages]]
name = "shared"
after = "dense"
against = "dense"
steps = [{ type = "Cluster", codebook_size = 4 }]

[[tables]]
id = "values"
title = "Distinct weights"
rows = ["data", "layer"]
where = { network = "Small" }
columns = [
  { title = "shared", stage = "shared", quantity = "distinct_weights", published = "n" },
  { title = "dimension", stage = "source", quantity = "dimension", at = { criterion = "TwoNN" } },
]
is_published_for_all = true
published = [{ layer = "hidden", n = 4 }]
"""
CODE = """
from torch import nn


def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 1), nn.Sigmoid())
"""


def study(text: str = STUDY) -> Study:
    return read_study(text, where="mine")


def nodes_of(text: str = STUDY, **choice: Any) -> dict[tuple[str, str], Node]:
    return {(n.case.data, n.stage.name): n for n in unfold(study(text), Choice(preset="quick", **choice))}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(CODE)
    return tmp_path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("made")
    (folder / "mine.py").write_text(CODE)
    nodes = tuple(nodes_of().values())
    assert Worker(nodes=nodes, folder=folder, home=folder).run() == ()
    return Results.of(Ledger(folder / LEDGER).read(), Variant("quick"), nodes=nodes)


def test_it_starts_from_the_weights_of_the_other_case_and_draws_the_rest(home: Path) -> None:
    nodes = nodes_of()
    shop = Workshop(folder=home, home=home)
    trained, goes_on, anew = (
        shop.model(nodes[key]).network.state_dict()
        for key in (("3/8", "dense"), ("4/9 from 3/8", "source"), ("4/9 anew", "source"))
    )
    fresh = shop.model(nodes["3/8", "source"]).network.state_dict()
    for name, weight in trained.items():
        torch.testing.assert_close(goes_on[name], weight)
        torch.testing.assert_close(anew[name], fresh[name] if name.startswith("3.") else weight)
    assert not torch.equal(trained["3.weight"], fresh["3.weight"])


def test_the_source_is_made_even_where_only_the_target_was_chosen() -> None:
    nodes = nodes_of(data=("4/9 from 3/8",))
    assert {key for key in nodes if key[0] == "3/8"} == {("3/8", "dense")}
    keys = [node.key for node in unfold(study(), Choice(preset="quick"))]
    assert len(set(keys)) == len(keys)


def test_the_teacher_is_the_first_network_of_the_same_case() -> None:
    nodes = nodes_of()
    assert nodes["4/9 from 3/8", "shared"].root is nodes["4/9 from 3/8", "dense"]


def test_what_starts_otherwise_has_another_key() -> None:
    nodes = nodes_of()
    assert nodes["4/9 from 3/8", "dense"].key != nodes["4/9 anew", "dense"].key
    assert nodes["4/9 from 3/8", "dense"].parent is nodes["3/8", "dense"]


def test_a_case_runs_its_stages_alone() -> None:
    assert {stage for data, stage in nodes_of() if data == "4/9 anew"} == {"dense", "source"}


def test_a_study_without_a_loss_has_the_keys_that_it_had() -> None:
    silent = nodes_of(STUDY.replace('loss = "bce"\n', ""))
    assert "loss" not in silent["3/8", "dense"].training
    assert silent["3/8", "dense"].key != nodes_of()["3/8", "dense"].key


def test_layers_are_read_back_from_the_file(made: Results) -> None:
    table = fill(study().table("values"), study(), made)
    cells = {row.names: row.cells for row in table.rows}
    assert cells["3/8", "hidden"][0].value == 4
    assert cells["3/8", "hidden"][0].published == 4
    assert cells["3/8", "input"][0].value is None
    assert cells["4/9 anew", "hidden"][0].value is None
    for layer in ("input", "hidden", "last"):
        dimension = cells["4/9 anew", layer][1].value
        assert dimension is not None
        assert dimension > 0


def test_the_dimension_of_the_input_is_what_the_first_layer_reads(made: Results) -> None:
    found = {
        layer: made.mean("dimension", [Spot(stage="source", network="Small", data="3/8", at=at)])
        for layer in ("input", "hidden")
        if (at := {"layer": layer, "criterion": "PCA"})
    }
    change = made.mean(
        "significance",
        [Spot(stage="source", network="Small", data="3/8", at={"layer": "hidden", "criterion": "PCA"})],
    )
    before, after = found["input"], found["hidden"]
    assert before is not None
    assert after is not None
    assert change is not None
    assert change.value == pytest.approx(after.value - before.value)


def test_one_output_is_right_or_wrong(made: Results) -> None:
    found = made.figure("accuracy", stage="dense", network="Small", data="3/8")
    assert found is not None
    assert found.value > 80.0


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('case = "Small on 3/8", stage = "dense" }', 'case = "Small on 3/9", stage = "dense" }', "no case before it"),
        ('case = "Small on 3/8", stage = "dense" }', 'case = "Small on 3/8", stage = "dnse" }', "stage 'dnse'"),
        ('stages = ["dense", "source"]', 'stages = ["shared"]', "without 'dense', which it needs"),
        ('stages = ["dense", "source"]', 'stages = ["dens"]', "nearest known one is 'dense'"),
        ('hidden = "1.weight"', "hidden = 1", "give the name of a weight"),
        ('"TwoNNChange"', '"TwoNChange"', "TwoNNChange"),
        ("PCA = {", 'PCA = "PCAChange"\nX = {', "must be a table"),
        ("[layers]\n", "[layers]\n[nothing]\n", "nothing"),
        ('"distinct_weights", published', '"significance", published', "criterion"),
        ('layer = "hidden", n', "n", "does not say its layer"),
    ],
)
def test_what_does_not_fit_is_one_error(old: str, new: str, words: str) -> None:
    assert old in STUDY
    with pytest.raises(SettingError, match=words):
        study(STUDY.replace(old, new, 1))


def test_a_loss_that_is_none_shows_before_any_work(home: Path) -> None:
    nodes = nodes_of(STUDY.replace('loss = "bce"', 'loss = "bcee"'))
    with pytest.raises(SettingError, match="nearest known one is 'bce'"):
        require_sound(list(nodes.values()), home)
    nodes = nodes_of(STUDY.replace('loss = "bce"', 'loss = "none"'))
    require_sound(list(nodes.values()), home)


def test_weights_that_nothing_is_called_cannot_start_anew(home: Path) -> None:
    nodes = nodes_of(STUDY.replace('anew = ["3.*"]', 'anew = ["head.*"]'))
    with pytest.raises(NetworkError, match=r"anew names 'head\.\*'"):
        Workshop(folder=home, home=home).model(nodes["4/9 anew", "source"])


def test_half_a_compressed_network_cannot_start_anew(home: Path) -> None:
    text = STUDY.replace('stage = "dense", anew', 'stage = "shared", anew')
    with pytest.raises(NetworkError, match="name a stage that is dense"):
        Workshop(folder=home, home=home).model(nodes_of(text)["4/9 anew", "source"])


def test_a_layer_that_the_network_lacks_is_named(home: Path) -> None:
    node = nodes_of(STUDY.replace('last = "3.weight"', 'last = "9.weight"'))["3/8", "source"]
    with pytest.raises(NetworkError, match=r"no weight '9\.weight'"):
        Workshop(folder=home, home=home).make(node)
