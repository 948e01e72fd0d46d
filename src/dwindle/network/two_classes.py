"""This file reads one output as two classes: an answer above a threshold names the second, any other the first."""

from __future__ import annotations

from typing import Any, Final, Literal

import torch
from torch import Tensor

OneOutput = Literal["logit", "probability"]
"""What one output is: any number, or the probability of the second of two classes."""
_LEAST: Final = 1e-6


def as_scores(output: Any, threshold: float | None) -> Any:
    """Return (batch, 2) scores, 0 and how far it lies above `threshold`, of one output (batch, 1) or (batch,).

    Anything else, and whatever there is no threshold for, is returned as it is. Equal scores name the first class.

    >>> as_scores(torch.tensor([[0.75], [0.5]]), 0.5).tolist()
    [[0.0, 0.25], [0.0, 0.0]]
    """
    if threshold is None or not isinstance(output, Tensor) or not is_single(tuple(output.shape)):
        return output
    above = output.reshape(len(output), 1) - threshold
    return torch.cat([torch.zeros_like(above), above], dim=1)


def as_logits(output: Any, kind: OneOutput | None) -> Any:
    """Return the (batch, 2) logits that one output (batch, 1) or (batch,) stands for; anything else as it is.

    A probability within 1e-6 of 0 or 1 counts as that far from it.

    >>> as_logits(torch.tensor([[0.5], [0.75]]), "probability").softmax(1)[:, 1].tolist()
    [0.5, 0.75]
    """
    if kind is None or not isinstance(output, Tensor) or not is_single(tuple(output.shape)):
        return output
    single = output.float().reshape(len(output), 1)
    logit = torch.logit(single, eps=_LEAST) if kind == "probability" else single
    return torch.cat([torch.zeros_like(logit), logit], dim=1)


def is_single(shape: tuple[int, ...]) -> bool:
    """Return whether outputs of this shape hold one number for each example.

    >>> is_single((8, 1)), is_single((8,)), is_single((8, 2)), is_single(())
    (True, True, False, False)
    """
    return len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
