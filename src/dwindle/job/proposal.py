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

    Values are shared first; then a training with the integers of the file keeps them shared and gives all layers 8
    bits (the pipeline of Abishek 2022, figure 3.4). A training of binary layers leaves the others float instead.
    """
    shared = tuple(name for name, action in actions.items() if action == "cluster to 16 values")
    binary = {name: BITS[action] for name, action in actions.items() if action == "make binary"}
    steps: list[dict[str, Any]] = []
    if shared:
        steps.append({TAG: "Cluster", "codebook_size": 16, "select": {"names": shared}})
    if binary:
        steps.append({TAG: "MixedPrecision", "activations": False, "epochs": EPOCHS, "bits": binary})
    elif "keep 8 bits" in actions.values() or shared:
        steps.append({TAG: "QuantizeAware", "epochs": EPOCHS})
    return tomli_w.dumps({"recipe": {"steps": steps}}) if steps else ""
