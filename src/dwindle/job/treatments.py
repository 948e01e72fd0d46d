"""This file decides what to do with each layer, and says why in plain words."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from dwindle.job.analysis import Judgement, Treatment
from dwindle.network.layer_costs import LayerCost

FEW_BYTES: Final = 1.0
"""A layer with a smaller share of the bytes, in percent, is not worth a risk."""
HARMLESS: Final = 0.1
"""Binarizing a layer is harmless where the loss grows by less than this share of itself, or of 0.1 if that is more."""
_LEAST_LOSS: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What decides.

    Attributes:
        costs: by layer, in the order of the network.
        decider: the criterion that tells significant layers from others; None where none gave scores.
        binarizing: what binarizing each layer alone does to the validation loss; empty where that is not known.
        base_loss: of the network as it is; None where it is not known.
        multiplied: weights of convolutions and linear layers in the graph, which alone can be binary; empty without a
            graph, None where that is not known.
        used: the layers that the network uses on the example, in the order of use; None where that is not known.
    """

    costs: Mapping[str, LayerCost]
    decider: Judgement | None = None
    binarizing: Mapping[str, float] = field(default_factory=dict[str, float])
    base_loss: float | None = None
    multiplied: Collection[str] | None = None
    used: Sequence[str] | None = None

    @property
    def ends(self) -> tuple[str, str]:
        """The layers that are used first and last; where `used` is None, of those in `costs` that are called."""
        called = [name for name, cost in self.costs.items() if cost.n_calls != 0]
        order = self.used or called or list(self.costs)
        return order[0], order[-1]

    @property
    def total_bytes(self) -> int:
        """Bytes of all layers."""
        return sum(cost.dense_bytes for cost in self.costs.values())


def treatments(found: Findings) -> dict[str, Treatment]:
    """Return what to do with each layer."""
    return {name: _treatment(name, found) for name in found.costs}


def _treatment(name: str, found: Findings) -> Treatment:
    cost = found.costs[name]
    share = 100 * cost.dense_bytes / max(1, found.total_bytes)
    if cost.n_calls == 0:
        return _of_uncalled(f"{share:.1f} % of the bytes", is_used=name in (found.used or ()))
    first, last = found.ends
    if name in {first, last}:
        end = "first layer reads the input itself" if name == first else "last layer gives the answer"
        if first == last:
            end = "only layer does both, reads the input and gives the answer"
        return Treatment(action="keep 8 bits", why=f"The {end}: ends keep precision ({share:.1f} % of the bytes).")
    if share < FEW_BYTES:
        return Treatment(action="keep 8 bits", why=f"Only {share:.2g} % of the bytes: fewer bits are not worth a risk.")
    if found.decider is None or name not in found.decider.judged:
        by = f"{found.decider.title} cannot judge it" if found.decider else "No criterion could judge it"
        return Treatment(action="keep 8 bits", why=f"{by}, so nothing says that fewer bits are safe.")
    if name in found.decider.significant:
        return Treatment(action="keep 8 bits", why=f"Significant: {_scored(name, found.decider)}.{_doubt(name, found)}")
    return _of_insignificant(name, found.decider, found)


def _of_uncalled(share: str, *, is_used: bool) -> Treatment:
    if not is_used:
        return Treatment(action="leave out", why=f"The network never calls it on the example: {share}.")
    why = f"The network uses its weight otherwise than by calling it, so it cannot be judged ({share})."
    return Treatment(action="keep 8 bits", why=why)


def _of_insignificant(name: str, decider: Judgement, found: Findings) -> Treatment:
    scored, rise = _scored(name, decider), found.binarizing.get(name)
    if rise is None:
        why = f"Insignificant: {scored}. What binary weights would do to the loss is not known, so values are shared."
        return Treatment(action="cluster to 16 values", why=why)
    if found.multiplied is not None and name not in found.multiplied:
        why = f"Insignificant: {scored}. Only convolutions and linear layers of a captured graph can be binary."
        return Treatment(action="cluster to 16 values", why=why)
    if _is_harmless(rise, found):
        return Treatment(action="make binary", why=f"Insignificant: {scored}; binary, it {_changes(rise)} alone.")
    why = f"Insignificant: {scored}; but binary, it {_changes(rise)} alone, so it shares values instead."
    return Treatment(action="cluster to 16 values", why=why)


def _scored(name: str, decider: Judgement) -> str:
    """Return the score in words, against the cut."""
    score = decider.scores[name]
    cut = decider.cut
    side = "" if cut is None else f", {'above' if name in decider.significant else 'at or below'} {cut:.3g}"
    if {"dimension_before", "dimension_after"} <= score.details.keys():
        before, after = score.details["dimension_before"], score.details["dimension_after"]
        return f"dimension {before:.3g} before, {after:.3g} after, a change of {score.value:.3g}{side}"
    return f"{decider.title} {score.value:.3g}{side}"


def _doubt(name: str, found: Findings) -> str:
    """Return what the loss says against calling a layer significant, where it does."""
    rise = found.binarizing.get(name)
    judged = found.decider.judged if found.decider else ()
    others = [found.binarizing[other] for other in judged if other != name and other in found.binarizing]
    n_above = 0 if rise is None else sum(other > rise for other in others)
    if rise is None or 2 * n_above <= len(others):
        return ""
    most = "all others" if n_above == len(others) else "most others"
    return f" The loss disagrees: binary, it {_changes(rise)} alone, less than {most}; worth a try with fewer bits."


def _is_harmless(rise: float, found: Findings) -> bool:
    return rise <= HARMLESS * max(_LEAST_LOSS, found.base_loss or 0.0)


def _changes(rise: float) -> str:
    return f"raises the loss by {rise:.2g}" if rise > 0 else f"lowers the loss by {-rise:.2g}"
