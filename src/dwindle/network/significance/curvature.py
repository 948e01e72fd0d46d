"""This file scores layers by the curvature of the loss: the traces of the Fisher information and of the Hessian."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn

from dwindle.errors import SettingError
from dwindle.network.significance.change import Change
from dwindle.network.significance.criterion import Evidence, LayerScore

Labels = Literal["given", "sampled"]
"""Whose gradients are squared: at the labels given (the empirical Fisher), or at labels that the network draws (the true one)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FisherTrace:
    """The diagonal of the Fisher information, summed over the layer.

    Attributes:
        labels: "given": the empirical Fisher, at the labels of the data. "sampled": the true one, at labels drawn from
            the softmax of the answers.
        change: with it the score is the mean of the diagonal times |W - Q(W)|^2; without it, the trace.
        n_examples: how many validation examples are looked at, at most.
    """

    labels: Labels = "given"
    change: Change | None = None
    n_examples: int = 256

    def __post_init__(self) -> None:
        if self.labels not in get_args(Labels):
            raise SettingError(f"FisherTrace: labels must be one of {', '.join(get_args(Labels))}, got {self.labels!r}")
        if self.n_examples < 1:
            raise SettingError(f"FisherTrace: n_examples must be at least 1, got {self.n_examples}")

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


@dataclass(frozen=True, slots=True, kw_only=True)
class HessianTrace:
    """The trace of the Hessian of the loss with respect to the layer, by Hutchinson's method.

    Attributes:
        n_samples: how many random vectors are multiplied with the Hessian.
        change: with it the score is the mean of the diagonal times |W - Q(W)|^2 (HAWQ-V2); without it, the trace.
        n_examples: how many validation examples are looked at, at most.
    """

    n_samples: int = 16
    change: Change | None = None
    n_examples: int = 128

    def __post_init__(self) -> None:
        if self.n_samples < 1:
            raise SettingError(f"HessianTrace: n_samples must be at least 1, got {self.n_samples}")
        if self.n_examples < 1:
            raise SettingError(f"HessianTrace: n_examples must be at least 1, got {self.n_examples}")

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
