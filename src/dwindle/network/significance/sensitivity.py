"""This file scores layers by sensitivity: how much the loss grows when only this layer is changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from dwindle.errors import SettingError
from dwindle.network.significance.change import Binary, Change
from dwindle.network.significance.criterion import Evidence, LayerScore


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSensitivity:
    """The loss on validation data with only this layer changed, less the loss of the network as it is.

    Attributes:
        change: what happens to the layer.
        n_examples: how many validation examples are looked at, at most.
    """

    change: Change = field(default_factory=Binary)
    n_examples: int = 1000

    def __post_init__(self) -> None:
        if self.n_examples < 1:
            raise SettingError(f"LossSensitivity: n_examples must be at least 1, got {self.n_examples}")

    @property
    def needs_inputs(self) -> bool:
        """It needs no inputs without labels."""
        return False

    @property
    def needs_labels(self) -> bool:
        """It looks at labelled data."""
        return True

    def scores(self, network: nn.Module, evidence: Evidence, names: Sequence[str]) -> dict[str, LayerScore]:
        """Score `names`; see `Criterion`."""
        raise NotImplementedError
