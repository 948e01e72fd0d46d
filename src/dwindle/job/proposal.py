"""This file turns what is proposed for each layer into steps of a recipe."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import tomli_w

from dwindle.job.analysis import FLOAT_BITS, Action
from dwindle.settings import TAG

EPOCHS: Final = 5.0
"""Passes over the training data that few-bit weights are trained for."""


def proposed_recipe(actions: Mapping[str, Action], *, multiplied: Collection[str]) -> str:
    """Return the table `recipe` of a job.toml that does what `actions` say; empty where nothing is left to do.

    Values are shared first; then a training with the integers of the file keeps them shared and gives the layers that
    engines multiply integers with 8 bits (the pipeline of Abishek 2022, figure 3.4). Without such layers, as of a
    network that cannot be captured, the weights are rounded to 8 bits without a training. A training of binary layers
    leaves the others float instead. Nothing takes a layer out of the network.

    Args:
        actions: by layer.
        multiplied: weights of convolutions and linear layers in the graph; empty where there is no graph.
    """
    shared = tuple(name for name, action in actions.items() if action == "cluster to 16 values")
    binary = {name: 1 for name, action in actions.items() if action == "make binary"}
    steps: list[dict[str, Any]] = []
    if shared:
        steps.append({TAG: "Cluster", "codebook_size": 16, "select": {"names": shared}})
    if binary:
        steps.append({TAG: "MixedPrecision", "activations": False, "epochs": EPOCHS, "bits": binary})
    elif _are_rounded(actions):
        steps.append({TAG: "QuantizeAware", "epochs": EPOCHS} if multiplied else {TAG: "QuantizeWeights"})
    return tomli_w.dumps({"recipe": {"steps": steps}}) if steps else ""


def stored_bits(actions: Mapping[str, Action], *, multiplied: Collection[str]) -> dict[str, int]:
    """Return the bits of a weight of each layer after `proposed_recipe` of the same: float where no step stores less.

    >>> stored_bits({"a": "make binary", "b": "keep 8 bits", "c": "leave out"}, multiplied=("a", "b"))
    {'a': 1, 'b': 32, 'c': 32}
    >>> stored_bits({"a": "keep 8 bits", "lstm": "keep 8 bits", "b": "cluster to 16 values"}, multiplied=("a", "b"))
    {'a': 8, 'lstm': 32, 'b': 4}
    """
    rounds_all = _are_rounded(actions) and not multiplied
    rounded = set(actions if rounds_all else multiplied if _are_rounded(actions) else ())
    own: dict[Action, int] = {"make binary": 1, "cluster to 16 values": 4}
    return {name: own.get(action, 8 if name in rounded else FLOAT_BITS) for name, action in actions.items()}


def _are_rounded(actions: Mapping[str, Action]) -> bool:
    """Return whether a step rounds whole networks to 8 bits: not beside a training of binary layers."""
    found = set(actions.values())
    return "make binary" not in found and not found.isdisjoint({"keep 8 bits", "cluster to 16 values"})
