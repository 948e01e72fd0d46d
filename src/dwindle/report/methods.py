"""This file reads from the steps of a recipe what was done to a network: pruned, clustered, on integers, replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

Step = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Methods:
    """What steps have made of a network.

    Attributes:
        is_pruned: single weights are zero.
        sparsity: the most that a step asked for; 0 where none said.
        is_thinned: whole channels are gone.
        is_clustered: weights share values.
        codebook_size: how many, the fewest that a step asked for; 0 where none did.
        weight_bits: width of integer weights; 0 where they are floats.
        activation_bits: width of integer activations with fixed ranges; 0 where they are floats.
        is_dynamic: activations become integers at run time.
        is_half: weights are 16-bit floats.
        is_aware: integers were trained with.
        is_student: another network has taken its place.
        is_taught: and was taught by the one before it.
        trains: whether a step trained.
    """

    is_pruned: bool = False
    sparsity: float = 0.0
    is_thinned: bool = False
    is_clustered: bool = False
    codebook_size: int = 0
    weight_bits: int = 0
    activation_bits: int = 0
    is_dynamic: bool = False
    is_half: bool = False
    is_aware: bool = False
    is_student: bool = False
    is_taught: bool = False
    trains: bool = False

    @property
    def kinds(self) -> frozenset[str]:
        """Which kinds of compression they are, for comparing one with several."""
        found = {
            "pruning": self.is_pruned,
            "channel pruning": self.is_thinned,
            "clustering": self.is_clustered,
            "integers": bool(self.weight_bits),
            "half floats": self.is_half,
            "another network": self.is_student,
        }
        return frozenset(kind for kind, is_there in found.items() if is_there)

    def is_only(self, kind: str) -> bool:
        """Return whether they are of this kind and of no other."""
        return self.kinds == frozenset({kind})

    @property
    def is_int8(self) -> bool:
        """Whether weights and activations are integers of at most 8 bits."""
        return 0 < self.weight_bits <= _BYTE and 0 < self.activation_bits <= _BYTE


_BYTE: Final = 8


def methods_of(steps: Iterable[Step]) -> Methods:
    """Return what `steps`, as they stand in a recipe or in a history, do together; unknown ones do nothing.

    >>> found = methods_of([{"type": "PruneWeights", "sparsity": 0.9}, {"type": "QuantizeStatic"}])
    >>> sorted(found.kinds), found.is_int8, found.trains
    (['integers', 'pruning'], True, False)
    """
    found = Methods()
    for step in steps:
        technique = str(step.get("type"))  # a ledger may hold anything
        if _number(step, "epochs", 1.0 if technique in _TRAINING else 0.0) > 0:
            found = replace(found, trains=True)
        apply = _EFFECTS.get(technique)
        found = found if apply is None else apply(found, step)
    return found


def _number(step: Step, key: str, default: float = 0.0) -> float:
    value = step.get(key, default)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def _sparsity(step: Step) -> float:
    """Return the share of weights that a step asked to be zero, as a number or as n of every m that stay."""
    pattern = step.get("pattern")
    if not isinstance(pattern, Mapping):
        return _number(step, "sparsity")
    m = _number(pattern, "m", 4)  # pyright: ignore[reportUnknownArgumentType]
    return 1 - _number(pattern, "n", 2) / m if m else 0.0  # pyright: ignore[reportUnknownArgumentType]


def _cluster(found: Methods, step: Step) -> Methods:
    size = int(_number(step, "codebook_size", 16))
    return replace(found, is_clustered=True, codebook_size=min(size, found.codebook_size or size))


def _static(found: Methods, step: Step) -> Methods:
    return replace(
        found,
        weight_bits=int(_number(step, "weights", 8)) or found.weight_bits,
        activation_bits=int(_number(step, "activations", 8)) or found.activation_bits,
    )


def _distill(found: Methods, step: Step) -> Methods:
    given = step.get("distillation")
    distillation: Step = given if isinstance(given, Mapping) else {}  # pyright: ignore[reportUnknownVariableType]
    has_hints = bool(distillation.get("hints")) and distillation.get("hint_weight", 1.0) != 0
    return Methods(is_student=True, is_taught=distillation.get("alpha", 0.5) != 1.0 or has_hints, trains=True)


def _fewest_bits(step: Step) -> int:
    """Return the width that most saves: files hold the settled widths of layers in `bits`."""
    widths = step.get("bits")
    values = [n for n in widths.values() if isinstance(n, int)] if isinstance(widths, Mapping) else []  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    return min(values, default=int(_number(step, "insignificant", 1)))  # pyright: ignore[reportUnknownArgumentType]


_TRAINING: Final = {"FineTune", "QuantizeAware", "Binarize", "MixedPrecision", "Distill"}
"""Techniques that train for one epoch where a step does not say how long."""
_EFFECTS: Final[Mapping[str, Callable[[Methods, Step], Methods]]] = {
    "PruneWeights": lambda found, step: replace(found, is_pruned=True, sparsity=max(found.sparsity, _sparsity(step))),
    "PruneChannels": lambda found, step: replace(found, is_thinned=True),
    "Cluster": _cluster,
    "Densify": lambda found, step: replace(
        found, is_pruned=False, sparsity=0.0, is_clustered=False, codebook_size=0, weight_bits=0, is_half=False
    ),
    "QuantizeWeights": lambda found, step: replace(found, weight_bits=int(_number(step, "n_bits", 8))),
    "QuantizeStatic": _static,
    "QuantizeDynamic": lambda found, step: replace(_static(found, {"activations": None, **step}), is_dynamic=True),
    "QuantizeAware": lambda found, step: replace(_static(found, step), is_aware=True),
    "Binarize": lambda found, step: replace(found, weight_bits=int(_number(step, "n_bits", 1)), is_aware=True),
    "MixedPrecision": lambda found, step: replace(found, weight_bits=_fewest_bits(step), is_aware=True),
    "CastHalf": lambda found, step: replace(found, is_half=True),
    "Distill": _distill,
}
