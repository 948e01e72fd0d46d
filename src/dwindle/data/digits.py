"""This file loads the handwritten digits that scikit-learn embeds: 1,797 images of 8 x 8 pixels, no download.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998 (its
test set), https://doi.org/10.24432/C50P49.
"""

from __future__ import annotations

from typing import Any, Final, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from dwindle.data.splits import Splits, resize

CLASS_NAMES: Final = tuple(str(digit) for digit in range(10))
N_VALIDATION: Final = 300
N_TEST: Final = 300
SIDE: Final = 8
MEAN: Final = 4.88
STD: Final = 6.02
"""Of the pixels, which are whole numbers from 0 to 16."""
_SEED: Final = 0


def load_digits_splits(*, size: int = SIDE) -> Splits:
    """Return the digits: 1,197 training, 300 validation and 300 test images, stratified, the same in every process.

    Args:
        size: side in pixels; the 8 x 8 originals are resized bilinearly. Inputs are float32 (1, size, size),
            standardized; targets are the digits.

    Raises:
        SettingError: `size` is below 1.
    """
    from sklearn.datasets import load_digits

    raw = cast("Any", load_digits())
    inputs = resize(((torch.from_numpy(np.asarray(raw.images)).float() - MEAN) / STD).unsqueeze(1), size)
    targets = torch.from_numpy(np.asarray(raw.target)).long()
    order = _interleaved(targets)
    test, validation, train = order.split([N_TEST, N_VALIDATION, len(order) - N_TEST - N_VALIDATION])
    return Splits(
        name="digits",
        train=TensorDataset(inputs[train], targets[train]),
        validation=TensorDataset(inputs[validation], targets[validation]),
        test=TensorDataset(inputs[test], targets[test]),
        class_names=CLASS_NAMES,
    )


def _interleaved(targets: Tensor) -> Tensor:
    """Return an order in which every stretch holds each class at its share: the key is the rank within its class."""
    shuffled = torch.randperm(len(targets), generator=torch.Generator().manual_seed(_SEED))
    labels = targets[shuffled]
    share = torch.empty(len(targets), dtype=torch.float64)
    for label in labels.unique():
        members = labels == label
        n = int(members.sum())
        share[members] = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return shuffled[share.argsort(stable=True)]
