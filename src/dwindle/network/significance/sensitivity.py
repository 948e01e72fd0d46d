"""This file scores layers by sensitivity: how much the loss grows when only this layer is changed.

No second-order model stands between the change and the loss, unlike in LeCun, Denker and Solla (1989, "Optimal brain
damage"), who predict the growth from the diagonal of the Hessian: the network is run, once for each layer.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from dwindle.network.significance.change import Binary, Change, apply_change
from dwindle.network.significance.counts import require_counts
from dwindle.network.significance.criterion import Evidence, LayerScore
from dwindle.network.significance.validation import first_batches, mean_loss, require_finite_loss
from dwindle.network.significance.weights import twin_of, weights_of


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
        require_counts(self, n_examples=1)

    @property
    def needs_inputs(self) -> bool:
        """It needs no inputs without labels."""
        return False

    @property
    def needs_labels(self) -> bool:
        """It looks at labelled data."""
        return True

    def scores(self, network: nn.Module, evidence: Evidence, names: Sequence[str]) -> dict[str, LayerScore]:
        """Score `names` in the order given; see `Criterion`.

        Raises:
            DataError: no labelled data, or a loss that is not finite.
            NetworkError: a weight is NaN or infinite, or the network cannot be copied.
            SettingError: a granularity that a weight's shape does not have.
        """
        twin = twin_of(network)
        weights = weights_of(twin, names)
        batches, base_loss = first_batches(evidence, self.n_examples, twin)
        before = require_finite_loss(mean_loss(twin, batches, base_loss, seed=evidence.seed), "as the network is")
        scores: dict[str, LayerScore] = {}
        for name, weight in weights.items():
            with _changed(weight, self.change):
                after = mean_loss(twin, batches, base_loss, seed=evidence.seed)
            require_finite_loss(after, f"after {self.change} of {name!r}")
            scores[name] = LayerScore(value=after - before, details={"loss_before": before, "loss_after": after})
            if evidence.report_progress is not None:
                evidence.report_progress("measure sensitivities", len(scores), len(weights))
        return scores


@contextmanager
def _changed(weight: nn.Parameter, change: Change) -> Generator[None]:
    """Change `weight` until the block is left; then it is what it was, bit for bit."""
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.copy_(apply_change(kept, change))
        yield
    finally:
        with torch.no_grad():
            weight.copy_(kept)
