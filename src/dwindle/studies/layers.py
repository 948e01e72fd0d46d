"""This file says what an outcome's single layers are like: how many values its file holds, and what judges them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from torch import nn

from dwindle.container import read_weights
from dwindle.errors import NetworkError
from dwindle.network.significance.criterion import Criterion, Evidence, LayerScore
from dwindle.network.significance.significance import Significance
from dwindle.settings import from_plain, nearest
from dwindle.studies.study import Values

INPUT: Final = ""
"""The name of no weight: stands for what the network reads."""
BEFORE: Final = "dimension_before"
AFTER: Final = "dimension_after"
"""What a criterion that measures dimensions calls them."""


def criterion_of(plain: Values, *, where: str) -> Criterion:
    """Return the criterion that `plain` describes.

    Raises:
        SettingError: it describes none.
    """
    return from_plain(Significance, {"by": plain, "share": 1.0}, where=where).by


def distinct_weights(file: Path, layers: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return for each of `layers`, name -> weight, how many values the `.dwn` at `file` holds of it.

    A weight that the file does not hold under its name, because another network took its place, is left out.
    """
    weights = read_weights(file)
    return {
        layer: {"distinct_weights": int(np.unique(weights[name]).size)}
        for layer, name in layers.items()
        if name in weights
    }


def judged_layers(
    network: nn.Module, evidence: Evidence, layers: Mapping[str, str], *, criteria: Mapping[str, Values]
) -> dict[str, dict[str, Any]]:
    """Return for each of `layers` what each of `criteria` says of it; of the input, its dimension alone.

    Raises:
        NetworkError: the network has no such layer.
        DwindleError: whatever a criterion raises.
    """
    names = [name for name in layers.values() if name != INPUT]
    _require_known(network, names)
    found: dict[str, dict[str, Any]] = {layer: {} for layer in layers}
    for criterion, plain in criteria.items():
        scores = criterion_of(plain, where=f"criteria.{criterion}").scores(network, evidence, names)
        for layer, name in layers.items():
            if (figures := _figures(name, names, scores)) is not None:
                found[layer][criterion] = figures
    return {layer: {"criteria": figures} for layer, figures in found.items()}


def together(*parts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what several `parts` say of layers, by layer.

    >>> together({"a": {"x": 1}}, {"a": {"y": 2}, "b": {"y": 3}})
    {'a': {'x': 1, 'y': 2}, 'b': {'y': 3}}
    """
    layers = dict.fromkeys(layer for part in parts for layer in part)
    return {layer: {k: v for part in parts for k, v in part.get(layer, {}).items()} for layer in layers}


def _figures(name: str, names: list[str], scores: Mapping[str, LayerScore]) -> dict[str, float] | None:
    if name == INPUT:
        first = scores.get(names[0]) if names else None
        return None if first is None or BEFORE not in first.details else {"dimension": first.details[BEFORE]}
    score = scores.get(name)
    if score is None:
        return None
    dimension = {"dimension": score.details[AFTER]} if AFTER in score.details else {}
    return {"significance": score.value, **dimension}


def _require_known(network: nn.Module, names: Iterable[str]) -> None:
    known = [name for name, _ in network.named_parameters()]
    for name in names:
        if name not in known:
            raise NetworkError(f"the network has no weight {name!r}; {nearest(name, known)}")
