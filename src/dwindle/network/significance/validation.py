"""This file reads the labelled examples that criteria look at, and takes the loss of a network on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from dwindle.errors import DataError, NetworkError
from dwindle.network.inputs import Inputs, Targets, are_finite, as_inputs, as_tuple, call, describe, n_examples, take
from dwindle.network.significance.criterion import Evidence
from dwindle.network.train import Batch

BaseLoss = Callable[[Any, Any], Tensor]


def first_batches(evidence: Evidence, n: int, network: nn.Module) -> tuple[list[Batch], BaseLoss]:
    """Return the first `n` labelled examples in their batches, where the network is, and the loss.

    Raises:
        DataError: no labelled data, none of it, or something that is no batch of inputs with as many targets.
    """
    if evidence.validation is None:
        raise DataError("this criterion looks at labelled data, and there are none; give validation=Labelled(...)")
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    found: list[Batch] = []
    n_taken = 0
    for i, batch in enumerate(cast("Iterable[Any]", evidence.validation.batches)):
        inputs, targets = _require_pair(batch, i)
        part = slice(0, n - n_taken)
        found.append((_to(take(inputs, part), device), _to(take(targets, part), device)))
        n_taken += n_examples(found[-1][0])
        if n_taken >= n:
            break
    if not found:
        raise DataError("the validation data are empty (or a generator that ran out); give a list or a data loader")
    return found, evidence.validation.base_loss


def mean_loss(network: nn.Module, batches: list[Batch], base_loss: BaseLoss, *, seed: int) -> float:
    """Return the mean loss over the examples; what the network draws at random depends on `seed` only."""
    total = 0.0
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for batch in batches:
            total += float(loss_of(network, batch, base_loss)) * n_examples(batch[0])
    return total / sum(n_examples(inputs) for inputs, _ in batches)


def loss_of(network: nn.Module, batch: Batch, base_loss: BaseLoss) -> Tensor:
    """Return the loss on one batch, a scalar.

    Raises:
        DataError: the loss does not take the answer and the targets, or is no single number.
        NetworkError: the network does not run on the inputs.
    """
    inputs, targets = batch
    return judged(answer_of(network, inputs), targets, base_loss)


def answer_of(network: nn.Module, inputs: Inputs) -> Any:
    """Return what `network` answers to `inputs`.

    Raises:
        NetworkError: it does not run on them.
    """
    try:
        return call(network, inputs)
    except Exception as error:  # a user's own code
        raise NetworkError(
            f"{type(network).__name__} does not run on the validation inputs, {describe(inputs)}: "
            f"{type(error).__name__}: {error}; give inputs like the example"
        ) from error


def judged(answer: Any, targets: Targets, base_loss: BaseLoss) -> Tensor:
    """Return the loss of `answer` to a batch with `targets`, a scalar.

    Raises:
        DataError: the loss does not take them, or is no single number.
    """
    try:
        loss: Any = base_loss(answer, targets)
    except Exception as error:  # a user's own code
        raise DataError(
            f"the loss on the validation data cannot be taken: {type(error).__name__}: {error}; the targets must be as "
            "base_loss(output, target) wants them"
        ) from error
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
        what = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise DataError(f"base_loss must return one number, the mean over the examples of a batch, got {what}")
    return loss.reshape(())


def require_finite_loss(loss: float, what: str) -> float:
    """Return `loss` once it has proved to be finite.

    Raises:
        DataError: it is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise DataError(
            f"the loss on the validation data is {loss} {what}; take a loss that stays finite, such as cross "
            "entropy of logits, and data without NaN"
        )
    return loss


def _require_pair(batch: Any, number: int) -> tuple[Inputs, Inputs]:
    parts = cast("tuple[Any, ...]", batch) if isinstance(batch, tuple | list) else ()
    inputs, targets = (as_inputs(parts[0]), as_inputs(parts[1])) if len(parts) == 2 else (None, None)
    if inputs is None or targets is None:
        raise DataError(
            f"validation batch {number} is a {type(batch).__name__}; give pairs (inputs, targets) of tensors"
        )
    if any(tensor.ndim == 0 for tensor in (*as_tuple(inputs), *as_tuple(targets))):
        raise DataError(f"validation batch {number} holds single numbers; the first axis counts the examples")
    if len({len(tensor) for tensor in (*as_tuple(inputs), *as_tuple(targets))}) > 1 or n_examples(inputs) == 0:
        raise DataError(
            f"validation batch {number} holds {n_examples(inputs)} inputs and {n_examples(targets)} targets; give "
            "equally many, at least one"
        )
    if not are_finite(inputs):
        raise DataError(f"validation batch {number} holds NaN or infinite inputs; repair the data")
    return inputs, targets


def _to(tensors: Inputs, device: torch.device) -> Inputs:
    return tensors.to(device) if isinstance(tensors, Tensor) else tuple(tensor.to(device) for tensor in tensors)
