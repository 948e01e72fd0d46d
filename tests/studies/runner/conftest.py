"""A small study of a user's own: two stages of a small network on the digits, made in seconds or faked at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dwindle.studies.plan import Choice, Node, unfold
from dwindle.studies.read import load_study

STUDY = """
name = "mine"
title = "Mine"
source = "nobody"

[values]
epochs = 2
augment = "none"

[training]
batch_size = 400
learning_rate = 0.1
augment = "$augment"

[axes.rate]
"2x" = { sparsity = 0.5 }
"10x" = { sparsity = 0.9 }

[presets.quick]
about = "Seconds."
data = ["Digits"]
seeds = [0]

[presets.longer]
about = "More seconds."
data = ["Digits"]
seeds = [0]
values = { epochs = 3 }

[[cases]]
network = "Small"
data = "Digits"
build = "mine.py:build"
build_arguments = { width = 8 }
load = "dwindle.data.digits:load_digits_splits"

[[stages]]
name = "dense"
steps = [{ type = "FineTune", epochs = "$epochs" }]

[[stages]]
name = "pruned"
after = "dense"
over = ["rate"]
against = "dense"
steps = [{ type = "PruneWeights", sparsity = "$sparsity" }]

[[stages]]
name = "tuned"
after = "pruned"
against = "dense"
steps = [{ type = "FineTune", epochs = 1 }]

[[tables]]
id = "1"
title = "Pruned"
rows = ["network", "rate"]
where = { data = "Digits" }
columns = [{ title = "drop", stage = "tuned", quantity = "accuracy_drop", published = "drop" }]
published = [{ network = "Small", rate = "10x", drop = 1.5 }]
"""

CODE = """
import os
from pathlib import Path

from torch import nn


def build(width):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def counted(inputs, generator):
    with Path(os.environ["COUNTED"]).open("a") as file:
        file.write("x")
    return inputs


def breaks(inputs, generator):
    raise RuntimeError("out of luck")
"""


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    """Return the path of a study, its functions in a file beside it."""
    (tmp_path / "mine.py").write_text(CODE)
    path = tmp_path / "mine.toml"
    path.write_text(STUDY)
    return path


def entry_of(node: Node) -> dict[str, Any]:
    """Return what a ledger needs to hold of an outcome for the runner and the forecast."""
    curve = [{"seconds": 2.0}] * int(node.epochs)
    return {
        **node.label, "key": node.key, "study": node.study, "preset": node.preset, "is_as_published": False,
        "epochs": node.epochs, "seconds": 1.0, "seconds_to_measure": 0.5, "history": [{"curve": curve}],
    }  # fmt: skip


class FakeShop:
    """Makes every outcome at once, except those of a stage in `broken`."""

    broken: dict[str, Exception]
    made: list[str]

    def __init__(self, **_: object) -> None:
        self.report_progress: Callable[[str, int, int], None] | None = None
        self.on_step: Callable[[Node, int], None] | None = None

    def make(self, node: Node) -> dict[str, Any]:
        type(self).made.append(node.words)
        for step in range(1, 101):
            assert self.report_progress is not None
            self.report_progress("train", step, 100)
        if (error := self.broken.get(node.stage.name)) is not None:
            raise error
        return entry_of(node)

    def remembers(self, node: Node) -> bool:
        return False


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> type[FakeShop]:
    """Return the class that makes outcomes in these tests."""
    fresh = type("Shop", (FakeShop,), {"broken": {}, "made": []})
    monkeypatch.setattr("dwindle.studies.run.Workshop", fresh)
    monkeypatch.setattr("dwindle.studies.run.WAIT_SECONDS", 0.01)
    return fresh


@pytest.fixture
def make_entry() -> Callable[[Node], dict[str, Any]]:
    """Return what gives the ledger entry of an outcome."""
    return entry_of


@pytest.fixture
def nodes(study_file: Path) -> tuple[Node, ...]:
    """Return the plan of the study: dense, two pruned, two tuned."""
    return unfold(load_study(study_file), Choice(preset="quick"))
