"""This file holds losses that compare two networks' answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from dwindle.errors import DataError


def divergence(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Return the mean Kullback-Leibler divergence KL(teacher || student) of class distributions, both softened.

    A temperature above 1 shows what the teacher thinks of the wrong classes, too. The gradient shrinks by about its
    square, which whoever mixes this with another loss may want to make up for.

    Reference: G. Hinton, O. Vinyals, J. Dean, "Distilling the knowledge in a neural network", 2015.

    Args:
        student: (batch, classes, ...) logits that are trained.
        teacher: the same shape.
        temperature: what logits are divided by, positive.

    Raises:
        DataError: the shapes differ, or there are fewer than two classes.

    >>> import torch
    >>> logits = torch.tensor([[2.0, 0.0, -1.0]])
    >>> float(divergence(logits, logits, temperature=4.0))
    0.0
    """
    if student.shape != teacher.shape or student.ndim < 2 or student.shape[1] < 2:
        raise DataError(
            f"a student answers {tuple(student.shape)} and its teacher {tuple(teacher.shape)}; both must give scores "
            "(batch, classes) of the same classes, at least two"
        )
    softened = (functional.log_softmax(logits.float() / temperature, dim=1) for logits in (student, teacher))
    ours, theirs = softened
    return functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1).mean()


def mean_answer(answers: Sequence[Tensor], *, temperature: float) -> Tensor:
    """Return the logits whose softened distribution is the mean of those of `answers`; of one answer, that answer.

    Args:
        answers: (batch, classes, ...) logits, all of one shape.
        temperature: what logits are divided by, positive.

    Raises:
        DataError: the shapes differ, or there is no answer.

    >>> sure, unsure = torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    >>> mean_answer((sure, unsure), temperature=1.0).softmax(1)
    tensor([[0.7500, 0.2500]])
    """
    if not answers or any(answer.shape != answers[0].shape for answer in answers):
        shapes = ", ".join(str(tuple(answer.shape)) for answer in answers)
        raise DataError(
            f"teachers answer {shapes or 'nothing'}; all of an ensemble must give scores of the same classes"
        )
    if len(answers) == 1:
        return answers[0]
    softened = torch.stack([functional.log_softmax(answer.float() / temperature, dim=1) for answer in answers])
    return temperature * (torch.logsumexp(softened, dim=0) - math.log(len(answers)))
