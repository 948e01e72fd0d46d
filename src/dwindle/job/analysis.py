"""This file holds what is known about each layer of a network, and what would be done with it: values for any page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from dwindle.core.ranks import rank_correlation
from dwindle.network.layer_costs import LayerCost
from dwindle.network.significance.criterion import LayerScore

Action = Literal["leave out", "keep 8 bits", "make binary", "cluster to 16 values"]
FLOAT_BITS: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Treatment:
    """What would be done with a layer, and why in plain words."""

    action: Action
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerView:
    """Everything known about one weight.

    Attributes:
        name: of the weight.
        cost: kind, shape, bytes, multiplications.
        time_ms: the engine's time for the operations that the layer takes part in; None where it was not measured.
        operations: what the engine merged into these operations.
        timed_with: further weights of the same operations, which share `time_ms` (the gates of an LSTM).
        scores: by name of the criterion; one that could not judge the layer is absent.
        significant: names of the criteria that call the layer significant; of those that were cut, see `Judgement`.
        treatment: what would be done with it.
        stored_bits: of each of its weights after the proposed recipe; scales, codebooks and entropy coding aside.
    """

    name: str
    cost: LayerCost
    time_ms: float | None = None
    operations: tuple[str, ...] = ()
    timed_with: tuple[str, ...] = ()
    scores: Mapping[str, LayerScore] = field(default_factory=dict[str, LayerScore])
    significant: tuple[str, ...] = ()
    treatment: Treatment
    stored_bits: int = FLOAT_BITS


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One criterion over all layers.

    Attributes:
        name: short, as on the command line.
        title: in words.
        unit: of its scores.
        settings: of the criterion, as plain values.
        scores: by layer, in the order of the network.
        judged: the layers that the cut was made among: neither the first nor the last.
        significant: those of them that are significant.
        cut: scores above it are significant; None where nothing was cut.
        problem: why there are no scores; empty where there are.
        seconds: processor time that it took.
    """

    name: str
    title: str
    unit: str
    settings: Mapping[str, Any]
    scores: Mapping[str, LayerScore] = field(default_factory=dict[str, LayerScore])
    judged: tuple[str, ...] = ()
    significant: tuple[str, ...] = ()
    cut: float | None = None
    problem: str = ""
    seconds: float = 0.0

    def to_plain(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "name": self.name,
            "title": self.title,
            "unit": self.unit,
            "settings": dict(self.settings),
            "cut": self.cut,
            "judged": list(self.judged),
            "significant": list(self.significant),
            "problem": self.problem,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """Where the engine's time went, beside the layers: times in ms of one call with one example.

    Attributes:
        others: by kind of operation.
        problem: why nothing was timed; empty where something was.
    """

    total_ms: float = 0.0
    others: Mapping[str, float] = field(default_factory=dict[str, float])
    runtime: str = ""
    n_runs: int = 0
    n_threads: int = 1
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What is known about the layers of a network.

    Attributes:
        name: of the network or the job.
        layers: in the order of the network.
        judgements: one for each criterion.
        decided_by: name of the criterion whose cut decides about layers; empty where none gave scores.
        spectra: by layer, the share of the variance of its values that the first 1, 2, ... components explain.
        other_bytes: of parameters and buffers that belong to no layer (biases, batch norms), as float32.
        timed: where the time went beside the layers.
        about: seed, data, machine and the like, for the page.
        remarks: what the reader should know, one sentence each.
        recipe: steps that do what is proposed, as TOML; empty where no recipe can.
    """

    name: str
    layers: tuple[LayerView, ...]
    judgements: tuple[Judgement, ...]
    decided_by: str
    spectra: Mapping[str, tuple[float, ...]] = field(default_factory=dict[str, tuple[float, ...]])
    other_bytes: int = 0
    timed: Timed = field(default_factory=Timed)
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])
    remarks: tuple[str, ...] = ()
    recipe: str = ""

    @property
    def dense_bytes(self) -> int:
        """Bytes of all weights as float32."""
        return self.other_bytes + sum(layer.cost.dense_bytes for layer in self.layers)

    @property
    def planned_bytes(self) -> float:
        """Bytes as the proposed recipe stores the weights, bits of weights alone; everything else as float32."""
        bits = sum(layer.stored_bits * layer.cost.n_weights for layer in self.layers)
        return self.other_bytes + bits / 8

    @property
    def agreement(self) -> dict[str, dict[str, float | None]]:
        """Spearman's rank correlation of every two criteria, over the layers that both judged."""
        told = [judgement for judgement in self.judgements if judgement.scores]
        return {a.name: {b.name: _agreement(a.scores, b.scores) for b in told} for a in told}

    def to_plain(self) -> dict[str, Any]:
        """Return it as JSON values; what is not finite becomes None."""
        plain = {
            "name": self.name,
            "decided_by": self.decided_by,
            "dense_bytes": self.dense_bytes,
            "planned_bytes": self.planned_bytes,
            "other_bytes": self.other_bytes,
            "layers": [_plain_layer(layer) for layer in self.layers],
            "criteria": [judgement.to_plain() for judgement in self.judgements],
            "agreement": self.agreement,
            "explained_variance": {name: list(shares) for name, shares in self.spectra.items()},
            "time": {
                "total_ms": self.timed.total_ms,
                "others_ms": dict(self.timed.others),
                "runtime": self.timed.runtime,
                "n_runs": self.timed.n_runs,
                "n_threads": self.timed.n_threads,
                "problem": self.timed.problem,
            },
            "about": dict(self.about),
            "remarks": list(self.remarks),
            "recipe_toml": self.recipe,
        }
        return _finite(plain)


def _agreement(first: Mapping[str, LayerScore], second: Mapping[str, LayerScore]) -> float | None:
    both = [name for name in first if name in second]
    return rank_correlation([first[name].value for name in both], [second[name].value for name in both])


def _plain_layer(layer: LayerView) -> dict[str, Any]:
    return {
        "name": layer.name,
        "kind": layer.cost.kind,
        "shape": list(layer.cost.shape),
        "n_weights": layer.cost.n_weights,
        "dense_bytes": layer.cost.dense_bytes,
        "macs": layer.cost.macs,
        "n_calls": layer.cost.n_calls,
        "time_ms": layer.time_ms,
        "operations": list(layer.operations),
        "timed_with": list(layer.timed_with),
        "scores": {name: {"value": score.value, **score.details} for name, score in layer.scores.items()},
        "significant": list(layer.significant),
        "action": layer.treatment.action,
        "why": layer.treatment.why,
    }


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value
