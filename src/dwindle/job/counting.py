"""This file counts right answers while a criterion takes losses, so that its scores also say what accuracy does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from dwindle.network.batches import are_classes
from dwindle.network.labelled import Labelled
from dwindle.network.significance.catalogue import AnyCriterion
from dwindle.network.significance.criterion import Evidence, LayerScore
from dwindle.network.significance.sensitivity import LossSensitivity


@dataclass(slots=True)
class _Counter:
    """A loss that notes how many answers were right in each call; empty where the answers are no classes."""

    base_loss: Callable[[Any, Any], Tensor]
    calls: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    def __call__(self, output: Any, target: Any) -> Tensor:
        if are_classes(output, target):
            self.calls.append((int((output.argmax(1) == target).sum()), len(target)))
        return self.base_loss(output, target)


def counted_scores(
    criterion: AnyCriterion, network: nn.Module, evidence: Evidence, *, names: Sequence[str]
) -> dict[str, LayerScore]:
    """Return the scores of `criterion`; those of a sensitivity hold `accuracy_change`, too, where answers are classes.

    Raises:
        DwindleError: whatever the criterion raises.
    """
    if not isinstance(criterion, LossSensitivity) or evidence.validation is None:
        return criterion.scores(network, evidence, names)
    counter = _Counter(evidence.validation.base_loss)
    labelled = Labelled(batches=evidence.validation.batches, base_loss=counter)
    scores = criterion.scores(network, replace(evidence, validation=labelled), names)
    shares = _shares(counter.calls, n_passes=len(scores) + 1)
    if not shares:
        return scores
    return {
        name: replace(score, details={**score.details, "accuracy_change": share - shares[0]})
        for (name, score), share in zip(scores.items(), shares[1:], strict=True)
    }


def _shares(calls: Sequence[tuple[int, int]], *, n_passes: int) -> list[float]:
    """Return the share of right answers of each pass over the data: as it is, then with each layer changed."""
    n_calls, rest = divmod(len(calls), n_passes)
    if not n_calls or rest:
        return []
    passes = [calls[start : start + n_calls] for start in range(0, len(calls), n_calls)]
    return [sum(right for right, _ in part) / sum(n for _, n in part) for part in passes]
