"""This file makes a small study with outcomes that look like a real run, without training anything."""

from __future__ import annotations

import numpy as np
import pytest

from dwindle.bench.ledger import Entry
from dwindle.studies.make import pack_bits
from dwindle.studies.plan import Choice, unfold
from dwindle.studies.read import read_study

STUDY = """
name = "tiny"
title = "A study of <b>two</b> networks & two data sets"
source = "Nobody, Journal of Nothing, 2026"
differences = ["Half as <i>long</i>."]
training = { learning_rate = 0.1 }

[axes.rate]
"2x" = { sparsity = 0.5 }
"10x" = { sparsity = 0.9 }
[axes.n_bits]
"2" = { codebook_size = 4 }
"4" = { codebook_size = 16 }
[axes.init]
"linear" = { init = "linear" }
"k-means++" = { init = "kmeans++" }

[presets.short]
about = "Minutes."
data = ["Bits", "Pieces"]
seeds = [0, 1, 2]

[as_published]
about = "As the paper did it."

[[stages]]
name = "dense"
steps = [{ type = "FineTune", epochs = 3 }]
[[stages]]
name = "longer"
after = "dense"
steps = [{ type = "FineTune", epochs = 2 }]
[[stages]]
name = "pruned"
after = "dense"
over = ["rate"]
against = "dense"
steps = [{ type = "PruneWeights", sparsity = "$sparsity" }]
[[stages]]
name = "retrained"
after = "pruned"
against = "longer"
steps = [{ type = "FineTune", epochs = 2 }]
[[stages]]
name = "clustered"
after = "retrained"
over = ["n_bits", "init"]
against = "retrained"
steps = [{ type = "Cluster", codebook_size = "$codebook_size", init = "$init" }]

[[cases]]
network = "Wide"
data = "Bits"
build = "a:b"
load = "a:c"
floor = 50.0
[[cases]]
network = "Deep"
data = "Bits"
build = "a:b"
load = "a:c"
build_arguments = { deep = true }
floor = 99.5
[[cases]]
network = "Wide"
data = "Pieces"
build = "a:b"
load = "a:d"
[[cases]]
network = "Deep"
data = "Pieces"
build = "a:b"
load = "a:d"
build_arguments = { deep = true }

[[tables]]
id = "1"
title = "Pruning on Bits"
where = { data = "Bits" }
rows = ["network", "rate"]
columns = [
  { title = "retrained, %", stage = "retrained", quantity = "accuracy", published = "acc" },
  { title = "drop, points", stage = "retrained", quantity = "accuracy_drop" },
  { title = "weights", stage = "retrained", quantity = "n_weights" },
]
published = [{ network = "Wide", rate = "2x", acc = 91.27 }]
[[tables]]
id = "2"
title = "Pruning on Pieces"
where = { data = "Pieces" }
rows = ["network"]
columns = [{ title = "dense, %", stage = "dense", quantity = "accuracy" }]

[[figures]]
id = "ratio"
title = "Against compression"
kind = "against_ratio"
stages = ["longer", "retrained", "clustered"]
[[figures]]
id = "bits"
title = "Against bits"
kind = "against_axis"
stages = ["clustered"]
axis = "n_bits"
where = { rate = "10x" }
[[figures]]
id = "rate"
title = "Against the rate"
kind = "against_axis"
stages = ["pruned", "retrained"]
axis = "rate"
[[figures]]
id = "learning"
title = "Learning"
kind = "curves"
stages = ["dense", "longer", "retrained"]
where = { rate = "10x" }

[[claims]]
id = "fatal"
text = "Pruned ten times and not retrained, Wide loses more than 10 points on Bits."
[[claims.conditions]]
relation = "above"
bound = 10
left = { stage = "pruned", quantity = "accuracy_drop", where = { network = "Wide", data = "Bits", rate = "10x" } }
[[claims]]
id = "bigger"
text = "Pruned ten times, files of Wide are larger at 2 bits than at 4."
is_ours = true
[[claims.conditions]]
relation = "above"
left = { stage = "clustered", quantity = "size_bytes", where = { network = "Wide", rate = "10x", n_bits = "2" } }
right = { stage = "clustered", quantity = "size_bytes", where = { network = "Wide", rate = "10x", n_bits = "4" } }
"""
ACCURACY = {"dense": 0.91, "longer": 0.93, "pruned": 0.85, "retrained": 0.92, "clustered": 0.9}
N_TEST = 400
N_WEIGHTS = 250_000


@pytest.fixture(scope="session")
def study():
    return read_study(STUDY, where="tiny.toml")


@pytest.fixture(scope="session")
def nodes(study):
    return unfold(study, Choice(preset="short"))


@pytest.fixture(scope="session")
def outcomes(nodes):
    """Return one entry for each outcome of the preset."""
    generator = np.random.default_rng(7)
    return tuple(outcome_of(node, generator) for node in nodes)


def outcome_of(node, generator):
    share = ACCURACY[node.stage.name]
    if node.at.get("rate") == "10x" and node.stage.name == "pruned":
        share = 0.3
    if node.at.get("n_bits") == "2":
        share = 0.5
    right = generator.random(N_TEST) < share + 0.02 * generator.standard_normal()
    kept = {"2x": 0.5, "10x": 0.1}.get(node.at.get("rate", ""), 1.0)
    size = N_WEIGHTS * kept * {"2": 2, "4": 4}.get(node.at.get("n_bits", ""), 32) / 8 + 1_000
    return entry("outcome", **{
        **node.label, "key": node.key, "preset": node.preset, "is_as_published": node.is_as_published,
        "version": "0.1.0", "machine": "A <machine>, 2 cores", "epochs": node.epochs, "seconds": 70.0,
        "seconds_to_measure": 5.0, "history": [{"curve": curve_of(node, share, generator)}],
        "n_dense_weights": N_WEIGHTS, "n_weights": round(kept * N_WEIGHTS),
        "measurements": [
            {"metric": {"name": "size"}, "value": size},
            {"metric": {"name": "compression_ratio"}, "value": 4 * N_WEIGHTS / size},
        ],
        "answers": {"n": N_TEST, "right": pack_bits(right)},
    })  # fmt: skip


def curve_of(node, share, generator):
    return [
        {"validation_accuracy": share - 0.1 / (epoch + 1) + 0.01 * generator.standard_normal(), "seconds": 30.0}
        for epoch in range(int(node.epochs))
    ]


def entry(kind, **data):
    return Entry(kind=kind, data=data, time="2026-11-22T08:00:00.000+00:00")
