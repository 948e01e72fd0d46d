"""This file holds a recipe to its digest in another process, where hashes of strings differ."""

from __future__ import annotations

import os
import subprocess
import sys

import dwindle as dw
from dwindle.testing import small_context, small_network

SCRIPT = """
import dwindle as dw
from dwindle.testing import small_context, small_network
recipe = dw.Recipe.from_toml({toml!r})
print(recipe.run(dw.CompressedModel.dense(small_network()), small_context()).digest())
"""


def test_same_seed_same_digest_in_another_process():
    recipe = dw.Recipe(
        (
            dw.PruneWeights(sparsity=0.6, schedule=dw.Polynomial(frequency=2), epochs=1),
            dw.Cluster(codebook_size=5, init="kmeans++"),
            dw.FineTune(epochs=1),
            dw.QuantizeWeights(),
        )
    )
    here = recipe.run(dw.CompressedModel.dense(small_network()), small_context()).digest()
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": "1"}
    script = SCRIPT.format(toml=recipe.to_toml())
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split()[-1:] == [here], done.stderr
