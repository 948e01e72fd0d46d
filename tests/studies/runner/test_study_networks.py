"""This file tests networks that a case offers to steps: what enters a key, what is refused, what is made of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dwindle.errors import SettingError
from dwindle.studies.check import require_sound
from dwindle.studies.make import Workshop
from dwindle.studies.plan import Choice, Node, unfold
from dwindle.studies.read import load_study, read_study

NETWORKS = 'networks.small = { build = "mine.py:build", arguments = { width = "$small_width" } }\n'
STAGES = """
[[stages]]
name = "distilled"
after = "dense"
against = "dense"
steps = [{ type = "Distill", student = "small", epochs = 2, distillation = { temperature = 2.0 } }]

[[stages]]
name = "shrunk"
after = "distilled"
against = "dense"
steps = [{ type = "PruneWeights", sparsity = 0.5 }, { type = "FineTune", epochs = 1 }]

[[tables]]
"""


def text_of(study_file: Path, *, width: int = 3, networks: str = NETWORKS, stages: str = STAGES) -> str:
    text = study_file.read_text()
    text = text.replace("epochs = 2\n", f"epochs = 2\nsmall_width = {width}\n", 1)
    text = text.replace('load = "dwindle.data', networks + 'load = "dwindle.data', 1)
    return text.replace("[[tables]]\n", stages, 1)


def nodes_of(text: str) -> dict[str, Node]:
    return {node.stage.name: node for node in unfold(read_study(text, where="mine"), Choice(preset="quick"))}


def test_only_what_names_a_network_has_another_key_for_it(study_file: Path) -> None:
    before = {node.stage.name: node.key for node in unfold(load_study(study_file), Choice(preset="quick"))}
    with_networks = nodes_of(text_of(study_file))
    assert {name: node.key for name, node in with_networks.items() if name in before} == before
    wider = nodes_of(text_of(study_file, width=4))
    differ = {name for name in wider if wider[name].key != with_networks[name].key}
    assert differ == {"distilled", "shrunk"}
    assert with_networks["distilled"].networks["small"]["arguments"] == {"width": 3}
    assert with_networks["shrunk"].networks == {}


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        ("", "a step names the network 'small'; none is known here; say how to build it"),
        (NETWORKS.replace("small =", "smal ="), "names the network 'small'; the nearest known one is 'smal'"),
        (NETWORKS.replace("mine.py:build", "mine.py:biuld"), "has no function 'biuld'"),
        (NETWORKS.replace("width =", "widht ="), "networks.small.build.*widht"),
        ('networks.small = "mine.py:build"\n', "networks.small must be a table"),
        ("networks.small = { arguments = {} }\n", "networks.small: Built needs build"),
        (NETWORKS.replace("$small_width", "$width"), "'\\$width' has no value"),
    ],
)
def test_a_mistake_is_one_clear_error(study_file: Path, networks: str, message: str) -> None:
    text = text_of(study_file, networks=networks)
    with pytest.raises(SettingError, match=message):
        require_sound(list(nodes_of(text).values()), study_file.parent)


def test_a_student_is_made_kept_and_gone_on_with_by_another_process(study_file: Path, tmp_path: Path) -> None:
    nodes = nodes_of(text_of(study_file))
    require_sound(list(nodes.values()), study_file.parent)
    n_dense, n_student = 64 * 8 + 8 + 8 * 10 + 10, 64 * 3 + 3 + 3 * 10 + 10
    first = Workshop(folder=tmp_path / "work", home=study_file.parent)
    entry = first.make(nodes["distilled"])
    assert (entry["n_dense_weights"], entry["n_weights"]) == (n_dense, n_student)
    assert [record["technique"] for record in entry["history"]] == ["Distill"]
    second = Workshop(folder=tmp_path / "work", home=study_file.parent)
    entry = second.make(nodes["shrunk"])
    assert entry["n_dense_weights"] == n_dense
    assert n_student // 2 <= entry["n_weights"] < n_student - 100
    third = Workshop(folder=tmp_path / "work", home=study_file.parent)
    kept = third.model(nodes["shrunk"])
    assert kept.digest() == second.model(nodes["shrunk"]).digest()
    for name, value in kept.network.state_dict().items():
        assert torch.equal(value, second.model(nodes["shrunk"]).network.state_dict()[name])
