"""This file holds an optimizer and a schedule that `FabricTrainer` takes in place of its defaults.

`FabricTrainer(train=train, optimizer=adamw, schedule=long_warm_up_cosine, learning_rate=0.001)`.
"""

from __future__ import annotations

import math
from typing import Any, Final

import torch

LONG_WARM_UP: Final = 0.2
"""Share of the steps in which `long_warm_up_cosine` rises."""


def adamw(groups: list[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
    """Return AdamW (Loshchilov and Hutter, 2019) with a weight decay of 0.05.

    Its steps do not shrink with the gradients, as they do where nine weights of ten were pruned and no batch norm
    restores the scale. 0.001 is a usual peak rate.
    """
    is_fusible = all(p.device.type in {"cpu", "cuda"} and p.is_floating_point() for g in groups for p in g["params"])
    return torch.optim.AdamW(groups, lr=learning_rate, weight_decay=0.05, fused=is_fusible or None)


def long_warm_up_cosine(progress: float) -> float:
    """Return the factor of the learning rate: a linear rise over a fifth of the steps, half a cosine down to zero.

    >>> [round(long_warm_up_cosine(progress), 3) for progress in (0.0, 0.1, 0.2, 0.6, 1.0)]
    [0.04, 0.52, 1.0, 0.5, 0.0]
    """
    if progress < LONG_WARM_UP:
        return 0.04 + 0.96 * progress / LONG_WARM_UP
    return 0.5 * (1.0 + math.cos(math.pi * (progress - LONG_WARM_UP) / (1.0 - LONG_WARM_UP)))
