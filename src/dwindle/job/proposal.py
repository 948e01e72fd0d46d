"""This file turns what is proposed for each layer into steps of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import tomli_w

from dwindle.job.analysis import BITS, Action
from dwindle.settings import TAG

EPOCHS: Final = 5.0
"""Passes over the training data that few-bit weights are trained for."""


def proposed_recipe(actions: Mapping[str, Action]) -> str:
    """Return the table `recipe` of a job.toml that does what `actions` say; empty where nothing is left to do.

    A training with few bits leaves float what it does not round, so layers that would keep 8 bits stay float where
    others get fewer.
    """
    shared = tuple(name for name, action in actions.items() if action == "cluster to 16 values")
    few = {name: BITS[action] for name, action in actions.items() if action in {"keep 4 bits", "make binary"}}
    eight = tuple(name for name, action in actions.items() if action == "keep 8 bits")
    steps: list[dict[str, Any]] = []
    if shared:
        steps.append({TAG: "Cluster", "codebook_size": 16, "select": {"names": shared}})
    if few:
        steps.append({TAG: "MixedPrecision", "activations": False, "epochs": EPOCHS, "bits": few})
    elif eight:
        steps.append({TAG: "QuantizeWeights", "n_bits": 8, "select": {"names": eight}})
    return tomli_w.dumps({"recipe": {"steps": steps}}) if steps else ""
