"""This file refuses tensors that hold NaN or infinity, before a threshold or a scale silently swallows them."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from dwindle.errors import SettingError

MAX_FLOAT: Final = torch.finfo(torch.float32).max


def require_finite(values: Tensor, what: str) -> tuple[float, float]:
    """Return (smallest, largest) of `values`, (0, 0) of an empty tensor.

    One pass suffices, because `aminmax` lets NaN through.

    Raises:
        SettingError: `values` are not floats, or not all finite in float32; `what` names them in the message.
    """
    if not values.is_floating_point():
        raise SettingError(f"{what}: expected floating point values, got {values.dtype}")
    if values.numel() == 0:
        return 0.0, 0.0
    low, high = (float(v) for v in values.detach().aminmax())
    if not (low >= -MAX_FLOAT and high <= MAX_FLOAT):
        n_bad = int((~(values.abs() <= MAX_FLOAT)).sum())
        raise SettingError(
            f"{what}: {n_bad} of {values.numel()} values are NaN, infinite or beyond float32; repair the weights first"
        )
    return low, high
