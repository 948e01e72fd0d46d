"""This file holds what published experiments train with, where it differs from our defaults."""

from __future__ import annotations

from typing import Any

import torch


def sgd(groups: list[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
    """Return the optimizer of Tian et al. (2022): momentum 0.9, weight decay 5e-4 on every parameter, no Nesterov."""
    whole = [{key: value for key, value in group.items() if key != "weight_decay"} for group in groups]
    return torch.optim.SGD(whole, lr=learning_rate, momentum=0.9, weight_decay=5e-4)


def a_tenth_every_20_of_100(progress: float) -> float:
    """Return the factor of the learning rate of Tian et al. (2022) on images: a tenth every 20 of 100 epochs.

    >>> [a_tenth_every_20_of_100(p) for p in (0.0, 0.19, 0.2)]
    [1.0, 1.0, 0.1]
    """
    return 0.1 ** int(progress * 5 + 1e-9)


def a_tenth_every_30_of_100(progress: float) -> float:
    """Return the same for sensor windows: a tenth every 30 of 100 epochs.

    >>> [a_tenth_every_30_of_100(p) for p in (0.0, 0.29, 0.3)]
    [1.0, 1.0, 0.1]
    """
    return 0.1 ** int(progress * 100 / 30 + 1e-9)
