"""This file scores layers by the curvature of the loss: the traces of the Fisher information and of the Hessian.

A loss at its minimum grows by 1/2 d^T H d when the weights change by d. LeCun, Denker and Solla (1989, "Optimal brain
damage") keep the diagonal of H of it. Dong et al. (2019, "HAWQ") order layers by the largest eigenvalue of their block
of H, and in 2020 ("HAWQ-V2") by the mean of the block's eigenvalues, trace / n, times |W - Q(W)|^2, which with `change`
is the score here. The Fisher information stands in for H where the loss is a negative log likelihood: it needs
first derivatives only, and is never negative.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor, nn

from dwindle.errors import DataError, SettingError
from dwindle.network.inputs import n_examples, take
from dwindle.network.significance.change import Change, squared_error
from dwindle.network.significance.counts import require_counts
from dwindle.network.significance.criterion import Evidence, LayerScore
from dwindle.network.significance.gradients import differentiable, gradients, require_finite_traces
from dwindle.network.significance.validation import BaseLoss, answer_of, first_batches, judged, loss_of
from dwindle.network.significance.weights import twin_of, weights_of
from dwindle.network.train import Batch

Labels = Literal["given", "sampled"]
"""At which labels gradients are taken: at those of the data (the empirical Fisher information), or at labels that the
network itself draws (the true one; Kunstner et al. 2019 show how far the two can lie apart)."""
N_TOGETHER: Final = 32
"""So many examples are differentiated twice at a time: their graph stays in memory for all samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FisherTrace:
    """The diagonal of the Fisher information, the mean over examples of the squared gradient, summed over the layer.

    Gradients are taken example by example: vectorized over examples they cost more time on a processor, not less.

    Attributes:
        labels: "given": the empirical Fisher information, at the labels of the data. "sampled": the true one, at labels
            drawn from the softmax of the answers; the loss must be their cross entropy.
        change: with it the score is the mean of the diagonal times |W - Q(W)|^2; without it, the trace.
        n_examples: how many validation examples are looked at, at most.
    """

    labels: Labels = "given"
    change: Change | None = None
    n_examples: int = 128

    def __post_init__(self) -> None:
        if self.labels not in get_args(Labels):
            raise SettingError(f"FisherTrace: labels must be one of {', '.join(get_args(Labels))}, got {self.labels!r}")
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
        """Score `names` in the order given; see `Criterion`. A layer that is never called has the score 0.

        Raises:
            DataError: no labelled data, a loss that cannot be taken, or labels that cannot be drawn.
            NetworkError: a weight or a gradient is NaN or infinite, or the network cannot be copied.
        """
        twin = twin_of(network)
        weights = weights_of(twin, names)
        batches, base_loss = first_batches(evidence, self.n_examples, twin)
        total = sum(n_examples(inputs) for inputs, _ in batches)
        squares = {name: torch.zeros(total, dtype=torch.float64) for name in weights}
        generator = torch.Generator().manual_seed(evidence.seed)
        with differentiable(twin, weights):
            torch.manual_seed(evidence.seed)
            for i, example in enumerate(_pieces(batches, 1)):
                loss = self._loss(twin, example, base_loss, generator=generator)
                for name, gradient in gradients(loss, weights).items():
                    squares[name][i] = torch.linalg.vector_norm(gradient).double().square()
                if evidence.report_progress is not None:
                    evidence.report_progress("take gradients", i + 1, total)
        require_finite_traces(squares, "gradient")
        return _scores(squares, weights, self.change)

    def _loss(self, network: nn.Module, example: Batch, base_loss: BaseLoss, *, generator: torch.Generator) -> Tensor:
        inputs, targets = example
        answer = answer_of(network, inputs)
        if self.labels == "sampled":
            targets = _drawn_label(answer, generator)
        return judged(answer, targets, base_loss)


@dataclass(frozen=True, slots=True, kw_only=True)
class HessianTrace:
    """The trace of the layer's block of the Hessian of the loss, by Hutchinson's method, with its standard error.

    For a vector v of random signs the mean of v^T H v is the trace (M. F. Hutchinson, "A stochastic estimator of the
    trace of the influence matrix for Laplacian smoothing splines", 1990). One product with the Hessian of all judged
    weights together serves every layer: what v takes from the other layers has mean zero. That widens the standard
    error, but by less than one product for each layer would cost.

    Attributes:
        n_samples: how many random vectors are multiplied with the Hessian.
        change: with it the score is the mean of the diagonal times |W - Q(W)|^2 (HAWQ-V2); without it, the trace.
        n_examples: how many validation examples are looked at, at most.
    """

    n_samples: int = 16
    change: Change | None = None
    n_examples: int = 128

    def __post_init__(self) -> None:
        require_counts(self, n_samples=1, n_examples=1)

    @property
    def needs_inputs(self) -> bool:
        """It needs no inputs without labels."""
        return False

    @property
    def needs_labels(self) -> bool:
        """It looks at labelled data."""
        return True

    def scores(self, network: nn.Module, evidence: Evidence, names: Sequence[str]) -> dict[str, LayerScore]:
        """Score `names` in the order given; see `Criterion`. A layer that is never called has the score 0.

        Raises:
            DataError: no labelled data, or a loss that cannot be taken.
            NetworkError: a weight or a derivative is NaN or infinite, or an operation has no second derivative.
        """
        twin = twin_of(network)
        weights = weights_of(twin, names)
        batches, base_loss = first_batches(evidence, self.n_examples, twin)
        total = sum(n_examples(inputs) for inputs, _ in batches)
        forms = {name: torch.zeros(self.n_samples, dtype=torch.float64) for name in weights}
        n_done = 0
        with differentiable(twin, weights):
            torch.manual_seed(evidence.seed)
            for piece in _pieces(batches, N_TOGETHER):
                n = n_examples(piece[0])
                self._add_forms(forms, weights, loss_of(twin, piece, base_loss) * (n / total), seed=evidence.seed)
                n_done += n
                if evidence.report_progress is not None:
                    evidence.report_progress("take second derivatives", n_done, total)
        require_finite_traces(forms, "second derivative")
        return _scores(forms, weights, self.change)

    def _add_forms(
        self, forms: Mapping[str, Tensor], weights: Mapping[str, nn.Parameter], loss: Tensor, *, seed: int
    ) -> None:
        """Add v^T H v of `loss`, of each layer and sample; the samples are the same for every loss."""
        slopes = gradients(loss, weights, again=True)
        generator = torch.Generator().manual_seed(seed)
        for sample in range(self.n_samples):
            signs = {name: _signs(weight, generator) for name, weight in weights.items()}
            terms = [(slope * signs[name]).sum() for name, slope in slopes.items()]
            if not terms:
                return
            for name, product in gradients(torch.stack(terms).sum(), weights, keep=True).items():
                forms[name][sample] += float((product * signs[name]).sum(dtype=torch.float64))


def _pieces(batches: Sequence[Batch], size: int) -> list[Batch]:
    return [
        (take(inputs, slice(start, start + size)), take(targets, slice(start, start + size)))
        for inputs, targets in batches
        for start in range(0, n_examples(inputs), size)
    ]


def _signs(weight: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randint(0, 2, tuple(weight.shape), generator=generator, dtype=torch.int8)
    return (drawn * 2 - 1).to(weight.device, weight.dtype)


def _drawn_label(answer: Any, generator: torch.Generator) -> Tensor:
    """Return (1,) int64, drawn from the softmax of `answer` (1, classes).

    Raises:
        DataError: the answer is no such tensor, or not finite.
    """
    if not isinstance(answer, Tensor) or answer.ndim != 2 or not bool(answer.isfinite().all()):
        what = f"shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else type(answer).__name__
        raise DataError(
            f"labels can be drawn from finite logits (batch, classes) only, this network answers {what}; take "
            'FisherTrace(labels="given")'
        )
    probabilities = answer.detach().double().softmax(1).cpu()
    return torch.multinomial(probabilities, 1, generator=generator).flatten().to(answer.device)


def _scores(
    samples: Mapping[str, Tensor], weights: Mapping[str, nn.Parameter], change: Change | None
) -> dict[str, LayerScore]:
    """Return the mean of the samples of each layer's trace as its score, weighed by `change`."""
    scores: dict[str, LayerScore] = {}
    for name, weight in weights.items():
        n, n_weights = len(samples[name]), weight.numel()
        trace = float(samples[name].mean())
        details = {"trace": trace, "n_samples": float(n), "n_weights": float(n_weights)}
        if n > 1:
            details["standard_error"] = float(samples[name].std()) / math.sqrt(n)
        value = trace
        if change is not None:
            details["squared_error"] = squared_error(weight, change)
            value = trace / max(1, n_weights) * details["squared_error"]
        scores[name] = LayerScore(value=value, details=details)
    return scores
