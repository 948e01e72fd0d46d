"""How the recurrent networks of this folder are trained."""

from __future__ import annotations

from typing import Any

import torch


def adam(groups: list[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay: gradients of recurrent layers differ too much in size for plain momentum."""
    return torch.optim.AdamW(groups, lr=learning_rate, weight_decay=1e-3)
