"""A small study that is planned but never run, and ledgers of it whose answers are drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dwindle.bench.ledger import Entry
from dwindle.studies.make import pack_bits
from dwindle.studies.plan import Choice, Node, unfold
from dwindle.studies.read import read_study
from dwindle.studies.study import Study

TEXT = """
name = "tiny"
title = "Tiny networks, pruned"
source = "A. Author, 2020"
differences = ["Nothing is trained."]

[values]
include_zeros = false

[axes.rate]
"2x" = { sparsity = 0.5 }
"10x" = { sparsity = 0.9 }

[axes.n_bits]
"2" = { codebook_size = 4 }
"4" = { codebook_size = 16 }

[presets.three]
about = "Three seeds."
data = ["Shoes", "Steps"]
seeds = [0, 1, 2]

[presets.one]
about = "One seed, one rate."
data = ["Shoes"]
seeds = [0]
axes = { rate = ["10x"] }

[as_published]
about = "Zeros are included."
values = { include_zeros = true }

[[stages]]
name = "dense"
steps = [{ type = "FineTune", epochs = 3 }]

[[stages]]
name = "dense_longer"
after = "dense"
steps = [{ type = "FineTune", epochs = 2 }]

[[stages]]
name = "retrained"
after = "dense"
over = ["rate"]
against = "dense_longer"
steps = [{ type = "PruneWeights", sparsity = "$sparsity" }, { type = "FineTune", epochs = 2 }]

[[stages]]
name = "clustered"
after = "retrained"
over = ["n_bits"]
against = "retrained"
steps = [{ type = "Cluster", codebook_size = "$codebook_size", include_zeros = "$include_zeros" }]

[[cases]]
network = "Big"
data = "Shoes"
build = "nowhere:big"
load = "nowhere:shoes"
floor = 80.0

[[cases]]
network = "Small"
data = "Shoes"
build = "nowhere:small"
load = "nowhere:shoes"

[[cases]]
network = "Big"
data = "Steps"
build = "nowhere:big"
load = "nowhere:steps"

[[tables]]
id = "1"
title = "Pruned"
where = { data = "Shoes" }
rows = ["network", "rate"]
columns = [
  { title = "weights", stage = "retrained", quantity = "n_weights", published = "weights", published_factor = 1e6 },
  { title = "accuracy, %", stage = "retrained", quantity = "accuracy", published = "acc" },
  { title = "drop, points", stage = "retrained", quantity = "accuracy_drop" },
]
published = [
  { network = "Big", rate = "2x", weights = 5, acc = 90.5 },
  { network = "Big", rate = "10x", weights = 1, acc = 88 },
]

[[tables]]
id = "2"
title = "Shared"
rows = ["network", "rate"]
mean_over = ["data"]
columns = [{ title = "4 bits, points", stage = "clustered", at = { n_bits = "4" }, quantity = "accuracy_drop" }]

[[claims]]
id = "keeps"
text = "Pruning costs less than 4 points."
[[claims.conditions]]
left = { stage = "retrained", quantity = "accuracy_drop", where = { data = ["Shoes", "Steps"] } }
relation = "below"
bound = 4

[[claims]]
id = "more"
text = "10x costs more than 2x, and files are small."
is_ours = true
[[claims.conditions]]
left = { stage = "retrained", quantity = "accuracy_drop", where = { network = "Small", rate = "10x" } }
relation = "above"
right = { stage = "retrained", quantity = "accuracy_drop", where = { network = "Small", rate = "2x" } }
[[claims.conditions]]
left = { stage = "clustered", quantity = "compression_ratio", where = { network = "Small" } }
relation = "above"
bound = 10
"""

DROPS = {"dense": 0.0, "dense_longer": 0.0, "retrained": 1.0, "clustered": 2.0}
N_EXAMPLES = {"Shoes": 1000, "Steps": 400}


@pytest.fixture(scope="session")
def tiny() -> Study:
    return read_study(TEXT, where="tiny")


@pytest.fixture(scope="session")
def nodes_of(tiny: Study) -> Callable[..., tuple[Node, ...]]:
    return lambda preset="three", as_published=False: unfold(tiny, Choice(preset=preset, as_published=as_published))


@pytest.fixture(scope="session")
def outcome_of() -> Callable[..., Entry]:
    def make(node: Node, *, accuracy: float = 85.0, drop: float | None = None, time: str = "", **data: Any) -> Entry:
        name = f"{node.case.name}{node.seed}{node.stage.name}{node.at}"
        generator = np.random.default_rng(sum(map(ord, name)))
        hard = np.random.default_rng(3).random(N_EXAMPLES[node.case.data])
        luck = generator.random(hard.size)
        lost = DROPS[node.stage.name] if drop is None else drop
        if node.at.get("rate") == "10x":
            lost *= 3
        right = 100 * (0.9 * hard + 0.1 * luck) < accuracy - lost
        n_weights = {"2x": 5_000_000, "10x": 1_000_000}.get(node.at.get("rate", ""), 10_000_000)
        plain = {
            **node.label,
            "key": node.key,
            "preset": node.preset,
            "is_as_published": node.is_as_published,
            "version": "0.1.0",
            "machine": "a machine",
            "epochs": node.epochs,
            "history": [{"decisions": {}, "curve": [{"epoch": 1.0, "seconds": 1800.0}]}] if node.epochs else [],
            "n_dense_weights": 10_000_000,
            "n_weights": n_weights,
            "measurements": [{"metric": {"name": "compression_ratio"}, "value": 11.0 + node.seed}],
            "answers": {"n": right.size, "right": pack_bits(right)},
            **data,
        }
        return Entry(kind="outcome", data=plain, time=time or f"2026-05-0{1 + node.seed}T10:00:00.000+00:00")

    return make


@pytest.fixture(scope="session")
def ledger(nodes_of: Callable[..., tuple[Node, ...]], outcome_of: Callable[..., Entry]) -> tuple[Entry, ...]:
    return tuple(outcome_of(node) for node in nodes_of())


@pytest.fixture(scope="session")
def changed() -> Callable[..., Entry]:
    return lambda entry, **data: replace(entry, data={**entry.data, **data})
