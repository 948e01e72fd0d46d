"""This file holds the one interface of everything that says how much a layer matters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import nn

from dwindle.network.capture import Captured
from dwindle.network.inputs import Inputs
from dwindle.network.labelled import Labelled
from dwindle.network.train import Progress


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evidence:
    """The data that a criterion may look at.

    Attributes:
        example: one input batch, for capturing the network's graph.
        inputs: input batches without labels, iterable more than once; None where there are none.
        validation: labelled batches and the loss; None where there are none.
        seed: what every random choice derives from.
        report_progress: called with (what, done, total) during work of more than a second.
        captured: the network's graph as `capture` gave it for the example, where it is known already.
    """

    example: Inputs
    inputs: Iterable[Inputs] | None = None
    validation: Labelled | None = None
    seed: int = 0
    report_progress: Progress | None = None
    captured: Captured | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerScore:
    """How much one layer matters.

    Attributes:
        value: larger matters more; its unit is the criterion's.
        details: what the value was made of, by name: the dimensions before and after the layer, and the like.
    """

    value: float
    details: Mapping[str, float] = field(default_factory=dict[str, float])


class Criterion(Protocol):
    """One way to say how much layers matter: a frozen keyword-only dataclass; settings are its fields."""

    @property
    def needs_inputs(self) -> bool:
        """Whether it looks at inputs without labels."""
        ...

    @property
    def needs_labels(self) -> bool:
        """Whether it looks at labelled validation data."""
        ...

    def scores(self, network: nn.Module, evidence: Evidence, names: Sequence[str]) -> dict[str, LayerScore]:
        """Return a score for each of `names`, parameters of layers of the float `network`, which stays as it is.

        A layer that the criterion cannot judge (a recurrent layer has no representation of the next one's kind, say) is
        left out.

        Raises:
            DataError: the evidence lacks what the criterion needs, or holds too little of it.
            NetworkError: the network cannot be run on it.
        """
        ...
