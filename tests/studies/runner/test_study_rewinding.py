"""This file tests stages that rewind to the network of an earlier stage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dwindle.core.encoding import support_of
from dwindle.errors import SettingError
from dwindle.studies.check import require_sound
from dwindle.studies.make import Workshop
from dwindle.studies.plan import Choice, Node, unfold
from dwindle.studies.read import load_study, read_study

REWOUND = """
[[stages]]
name = "longer"
after = "dense"
steps = [{ type = "FineTune", epochs = 1 }]

[[stages]]
name = "rewound"
after = "longer"
early = "dense"
steps = [{ type = "PruneWeights", sparsity = 0.5, rewind = { rounds = 1 }, epochs = 0.01, learning_rate = 1e-9 }]

[[tables]]
"""


def nodes_of(study_file: Path, stages: str = REWOUND) -> dict[str, Node]:
    text = study_file.read_text().replace("[[tables]]\n", stages, 1)
    return {node.stage.name: node for node in unfold(read_study(text, where="mine"), Choice(preset="quick"))}


def test_it_starts_again_from_the_weights_of_that_stage(study_file: Path, tmp_path: Path) -> None:
    nodes = nodes_of(study_file)
    require_sound(list(nodes.values()), study_file.parent)
    shop = Workshop(folder=tmp_path, home=study_file.parent)
    dense, longer, rewound = (shop.model(nodes[name]) for name in ("dense", "longer", "rewound"))
    for name, encoding in rewound.encodings.items():
        kept = support_of(encoding)
        if kept is None:
            continue
        values, early, late = (m.network.state_dict()[name][kept] for m in (rewound, dense, longer))
        torch.testing.assert_close(values, early, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(values, late, atol=1e-5, rtol=1e-4)
    assert nodes["rewound"].epochs == 0.01


def test_only_who_rewinds_has_another_key(study_file: Path) -> None:
    before = {node.stage.name: node.key for node in unfold(load_study(study_file), Choice(preset="quick"))}
    nodes = nodes_of(study_file)
    assert {name: nodes[name].key for name in before} == before
    other = nodes_of(study_file, REWOUND.replace('early = "dense"', 'early = "longer"'))
    assert other["longer"].key == nodes["longer"].key
    assert other["rewound"].key != nodes["rewound"].key


@pytest.mark.parametrize(
    ("early", "message"),
    [
        ("", r"needs EARLY, which the context does not offer; .*a study: early = a stage"),
        ('early = "pruned"\n', "rewinds to 'pruned', which it does not come from; known: dense, longer"),
        ('early = "rewound"\n', "rewinds to 'rewound', which it does not come from"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(study_file: Path, early: str, message: str) -> None:
    stages = REWOUND.replace('early = "dense"\n', early)
    with pytest.raises(SettingError, match=message):
        require_sound(list(nodes_of(study_file, stages).values()), study_file.parent)
