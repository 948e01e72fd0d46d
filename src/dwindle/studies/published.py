"""This file holds what published experiments train with, where it differs from our defaults."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, Literal

import torch
from torch.utils.data import TensorDataset

from dwindle.data.augment import Chain, RandomFlip, RandomRotation, crop_and_flip, with_augmented_copies
from dwindle.data.cifar10_pair import load_cifar10_pair, load_digit_pair
from dwindle.data.images import ImageForm
from dwindle.data.nct_crc_he import load_nct_crc_he
from dwindle.data.splits import Splits
from dwindle.errors import SettingError

_MOST_BYTES: Final = 64 << 30


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


def choose_on_the_test_split(splits: Splits, seed: int) -> Splits:
    """Return `splits` with everything but the test split to train on, and the test split in the place of validation.

    The released experiments of Tian et al. (2022) keep the epoch that answers the test split best; this shows what
    that gains, and nothing else should use it.
    """
    pairs = zip(splits.train.tensors, splits.validation.tensors, strict=True)
    train = TensorDataset(*(torch.cat(pair) for pair in pairs))
    return replace(splits, train=train, validation=splits.test)


def choose_on_the_test_split_beside_copies(splits: Splits, seed: int) -> Splits:
    """Return the same with one varied copy of each training image behind the images, as Tian et al. (2022) train."""
    merged = choose_on_the_test_split(splits, seed)
    return replace(merged, train=with_augmented_copies(merged.train, crop_and_flip, seed=seed))


def stop_by_the_test_split(splits: Splits, seed: int) -> Splits:
    """Return `splits` with the test split in the place of validation, as Abishek (2022) watches the test accuracy.

    The thesis stops when the test accuracy no longer rises; this shows what that gains, and nothing else should use it.
    """
    return replace(splits, validation=splits.test)


def adam(groups: list[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
    """Return Adam with the settings of Keras, without weight decay: what Predic et al. (2022) seem to train with."""
    whole = [{key: value for key, value in group.items() if key != "weight_decay"} for group in groups]
    return torch.optim.Adam(whole, lr=learning_rate, eps=1e-7)


def plain_sgd(groups: list[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
    """Return gradient descent as Keras has it where nothing is said: no momentum, no weight decay."""
    whole = [{key: value for key, value in group.items() if key != "weight_decay"} for group in groups]
    return torch.optim.SGD(whole, lr=learning_rate)


def rmsprop(groups: list[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
    """Return RMSProp with the settings of Keras, without weight decay."""
    whole = [{key: value for key, value in group.items() if key != "weight_decay"} for group in groups]
    return torch.optim.RMSprop(whole, lr=learning_rate, alpha=0.9, eps=1e-7)


def constant(progress: float) -> float:
    """Return the factor of a learning rate that stays.

    >>> constant(0.0), constant(0.9)
    (1.0, 1.0)
    """
    return 1.0


flip_and_rotate: Final = Chain((RandomFlip(), RandomFlip(is_vertical=True), RandomRotation()))
"""Of Predic et al. (2022), who name no angle."""


_STAND_INS: Final = {"cat": 3, "dog": 8, "horse": 4, "frog": 9}


def load_pair(
    first: str, second: str, *, images: Literal["cifar10", "digits"] = "cifar10", degrees: float = 0.0
) -> Splits:
    """Return two classes of CIFAR-10 as Abishek (2022) takes them, or two digits in their place for a short trial.

    Raises:
        SettingError: no such class, the same one twice, or neither of these images.
        DataError: the files are absent or damaged.
    """
    if images == "cifar10":
        return load_cifar10_pair(first, second, degrees=degrees)
    if images != "digits" or not {first, second} <= _STAND_INS.keys():
        raise SettingError(
            f"images = {images!r} of {first!r} and {second!r}: take cifar10, or digits for {', '.join(_STAND_INS)}"
        )
    return load_digit_pair(_STAND_INS[first], _STAND_INS[second], degrees=degrees)


def load_tiles(*, size: int = 64, max_per_class: int | Literal["none"] = "none") -> Splits:
    """Return the tiles of NCT-CRC-HE as squares of `size` pixels; 100,000 of 224 take 60 GiB.

    Raises:
        DataError: the folders are absent, or a tile is broken.
    """
    form = ImageForm(size=size, max_bytes=_MOST_BYTES)
    return load_nct_crc_he(form=form, max_per_class=None if max_per_class == "none" else max_per_class)
