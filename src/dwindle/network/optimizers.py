"""This file holds the optimizers and learning rate schedules that come with `FabricTrainer`; yours may be used, too.

`FabricTrainer(train=train, optimizer=adamw, schedule=long_warm_up_cosine, learning_rate=0.001)`. A schedule maps the
progress of the training, 0 to 1, to a factor of the learning rate.
"""

from __future__ import annotations

import math
from typing import Any, Final

import torch

WARM_UP: Final = 0.05
"""Share of the steps in which `warm_up_cosine` rises."""
LONG_WARM_UP: Final = 0.2
"""Share of the steps in which `long_warm_up_cosine` rises."""


def sgd(groups: list[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
    """Return stochastic gradient descent with Nesterov momentum 0.9 and weight decay 5e-4."""
    return torch.optim.SGD(
        groups, lr=learning_rate, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=_is_fusible(groups) or None
    )


def adamw(groups: list[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
    """Return AdamW (Loshchilov and Hutter, 2019) with a weight decay of 0.05; 0.001 is a usual peak rate.

    The length of its steps does not depend on the scale of the gradients. Far pruned layers without batch norms shrink
    their outputs, and with them the gradients of every layer before; by SGD such a network may not recover.
    """
    return torch.optim.AdamW(groups, lr=learning_rate, weight_decay=0.05, fused=_is_fusible(groups) or None)


def warm_up_cosine(progress: float) -> float:
    """Return the factor of the learning rate: a short linear rise, then half a cosine down to zero.

    >>> [round(warm_up_cosine(progress), 3) for progress in (0.0, 0.05, 0.525, 1.0)]
    [0.1, 1.0, 0.5, 0.0]
    """
    return _warm_up_cosine(progress, warm_up=WARM_UP, begin=0.1)


def long_warm_up_cosine(progress: float) -> float:
    """Return the factor of the learning rate: a linear rise over a fifth of the steps, half a cosine down to zero.

    >>> [round(long_warm_up_cosine(progress), 3) for progress in (0.0, 0.1, 0.2, 0.6, 1.0)]
    [0.04, 0.52, 1.0, 0.5, 0.0]
    """
    return _warm_up_cosine(progress, warm_up=LONG_WARM_UP, begin=0.04)


def _warm_up_cosine(progress: float, *, warm_up: float, begin: float) -> float:
    if progress < warm_up:
        return begin + (1.0 - begin) * progress / warm_up
    return 0.5 * (1.0 + math.cos(math.pi * (progress - warm_up) / (1.0 - warm_up)))


def _is_fusible(groups: list[dict[str, Any]]) -> bool:
    return all(p.device.type in {"cpu", "cuda"} and p.is_floating_point() for g in groups for p in g["params"])
