"""This file holds the losses that a job may name; each puts targets into the type and shape of the outputs first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor
from torch.nn import functional

from dwindle.errors import DataError
from dwindle.job.resolve import resolve_known
from dwindle.network.fabric_trainer import BaseLoss
from dwindle.network.inputs import as_inputs, describe


def mse(output: Any, target: Any) -> Tensor:
    """Return the mean squared error.

    Raises:
        DataError: outputs and targets differ in number.
    """
    return functional.mse_loss(*_alike(output, target, "mse"))


def l1(output: Any, target: Any) -> Tensor:
    """Return the mean absolute error.

    Raises:
        DataError: outputs and targets differ in number.
    """
    return functional.l1_loss(*_alike(output, target, "l1"))


def smooth_l1(output: Any, target: Any) -> Tensor:
    """Return the Huber-like loss: squared below an error of 1, absolute above.

    Raises:
        DataError: outputs and targets differ in number.
    """
    return functional.smooth_l1_loss(*_alike(output, target, "smooth_l1"))


def bce_with_logits(output: Any, target: Any) -> Tensor:
    """Return the binary cross entropy of logits, for one label or several independent ones.

    Raises:
        DataError: outputs and targets differ in number, or targets lie outside [0, 1].
    """
    logits, labels = _alike(output, target, "bce_with_logits")
    if labels.numel() and not 0 <= float(labels.min()) <= float(labels.max()) <= 1:
        low, high = float(labels.min()), float(labels.max())
        raise DataError(
            f"the loss bce_with_logits needs targets in [0, 1], got [{low:g}, {high:g}]; "
            "renumber the labels, or use cross_entropy for class numbers"
        )
    return functional.binary_cross_entropy_with_logits(logits, labels)


def bce(output: Any, target: Any) -> Tensor:
    """Return the binary cross entropy of probabilities, as a network that ends in a sigmoid gives them.

    Raises:
        DataError: outputs and targets differ in number, or either lie outside [0, 1].
    """
    shares, labels = _alike(output, target, "bce")
    for what, values in (("targets", labels), ("outputs", shares)):
        _require_shares(values, what)
    return functional.binary_cross_entropy(shares, labels)


LOSSES: Final[Mapping[str, BaseLoss]] = {
    "cross_entropy": functional.cross_entropy,
    "mse": mse,
    "l1": l1,
    "smooth_l1": smooth_l1,
    "bce_with_logits": bce_with_logits,
    "bce": bce,
}
THRESHOLDS: Final[Mapping[BaseLoss, float]] = {bce_with_logits: 0.0, bce: 0.5}
"""Above which a network that is trained with the loss, and has one output, answers the second of two classes."""


def loss_of(name: Any, folder: Path, *, where: str) -> BaseLoss:
    """Return the loss called `name`, or that of `package.module:name` or of `file.py:name` in `folder`.

    Raises:
        SettingError: there is none.
    """
    return resolve_known(name, LOSSES, folder, where=where)


def threshold_of(loss: BaseLoss) -> float | None:
    """Return above which one output names the second of two classes; None where `loss` is not about two classes.

    >>> threshold_of(bce), threshold_of(mse)
    (0.5, None)
    """
    return next((threshold for known, threshold in THRESHOLDS.items() if known is loss), None)


def _require_shares(values: Tensor, what: str) -> None:
    if values.numel() == 0:
        return
    low, high = (float(value) for value in values.detach().aminmax())
    if low < 0 or high > 1:  # NaN passes: the trainer names it, and the epoch
        remedy = "renumber the labels" if what == "targets" else "use bce_with_logits where there is no sigmoid"
        raise DataError(f"the loss bce needs {what} in [0, 1], got [{low:g}, {high:g}]; {remedy}")


def _alike(output: Any, target: Any, name: str) -> tuple[Tensor, Tensor]:
    """Return both in one shape and type: (n, 1) against (n,) would otherwise be compared n times n without a word."""
    if not isinstance(output, Tensor) or not isinstance(target, Tensor):
        raise DataError(f"the loss {name} needs one output and one target, got {_words(output)} and {_words(target)}")
    if output.numel() != target.numel() or output.shape[:1] != target.shape[:1]:
        raise DataError(
            f"the loss {name} needs as many targets as outputs, got outputs {describe(output)} and targets "
            f"{describe(target)}; give the network as many outputs as there are targets, or write a loss of your own"
        )
    return output, target.reshape(output.shape).to(output.dtype)


def _words(value: Any) -> str:
    tensors = as_inputs(value)
    return type(value).__name__ if tensors is None else describe(tensors)
