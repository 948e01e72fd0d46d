"""This file lists the techniques of the package by name; a class is imported when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from dwindle.technique import Technique


class Catalogue(Mapping[str, type[Technique]]):
    """Technique classes by name, from a table of the modules that hold them."""

    def __init__(self, modules: Mapping[str, str]) -> None:
        self._modules: Final = dict(modules)

    def __getitem__(self, name: str) -> type[Technique]:
        found: Any = getattr(importlib.import_module(self._modules[name]), name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


TECHNIQUES: Final[Mapping[str, type[Technique]]] = Catalogue(
    {
        "Binarize": "dwindle.techniques.binarize",
        "CastHalf": "dwindle.techniques.cast_half",
        "Cluster": "dwindle.techniques.cluster",
        "CorrectBias": "dwindle.techniques.correct_bias",
        "Densify": "dwindle.techniques.densify",
        "Distill": "dwindle.techniques.distill",
        "FineTune": "dwindle.techniques.fine_tune",
        "FoldBatchNorm": "dwindle.techniques.fold_batchnorm",
        "MixedPrecision": "dwindle.techniques.mixed_precision",
        "PruneChannels": "dwindle.techniques.prune_channels",
        "PruneWeights": "dwindle.techniques.prune_weights",
        "QuantizeAware": "dwindle.techniques.quantize_aware",
        "QuantizeDynamic": "dwindle.techniques.quantize_dynamic",
        "QuantizeStatic": "dwindle.techniques.quantize_static",
        "QuantizeWeights": "dwindle.techniques.quantize_weights",
        "ReestimateBatchNorm": "dwindle.techniques.reestimate_batchnorm",
    }
)
"""What a recipe in TOML and a replay may name."""
