"""This file loads two classes of CIFAR-10 as the two classes of a binary task (Abishek 2022, section 4.1.1)."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import TensorDataset

from dwindle.data.cifar10 import CLASS_NAMES, SOURCE, TEST_FILE, TRAIN_FILES, prepare, read_batch
from dwindle.data.digits import load_digits_splits
from dwindle.data.locate import locate
from dwindle.data.splits import Splits, hold_out
from dwindle.errors import SettingError
from dwindle.settings import nearest

VALIDATION_SHARE: Final = 0.2
RIGHT_ANGLE: Final = 90.0


def load_cifar10_pair(
    first: str, second: str, *, root: Path | None = None, degrees: float = 0.0, split_seed: int = 0
) -> Splits:
    """Return images of two classes: 8,000 to train on, 2,000 for validation, 2,000 for the test, standardized.

    Inputs are (3, 32, 32), targets 0 for `first` and 1 for `second`; the validation images are drawn from the 10,000
    training images of the two classes.

    Args:
        first: a class of CIFAR-10 by name.
        second: another one.
        root: folder of the official files; without it `locate` looks for them.
        degrees: how far every image is turned, counter-clockwise; corners that come from outside are mirrored pixels.
        split_seed: what draws the validation images.

    Raises:
        SettingError: no such class, the same one twice, or an angle that is none.
        DataError: the files are absent or damaged.
    """
    numbers = _numbers(first, second)
    if not math.isfinite(degrees):
        raise SettingError(f"degrees must be a finite angle, got {degrees}")
    folder = locate(SOURCE, root)
    parts = [_of_two(read_batch(folder / name), numbers, degrees) for name in (*TRAIN_FILES, TEST_FILE)]
    images, labels = (torch.cat([part[i] for part in parts[:-1]]) for i in range(2))
    n_held_out = round(VALIDATION_SHARE * len(labels))
    train, validation = hold_out(images, labels, n_held_out=n_held_out, seed=split_seed)
    turned = f", turned by {degrees:g} degrees" if degrees else ""
    return Splits(
        name=f"cifar-10 {first}/{second}{turned}",
        train=train,
        validation=validation,
        test=TensorDataset(*parts[-1]),
        class_names=(first, second),
    )


def load_digit_pair(first: int = 3, second: int = 8, *, size: int = 8, degrees: float = 0.0) -> Splits:
    """Return two of scikit-learn's digits in the same form, about 240, 60 and 60 images of (1, size, size).

    Raises:
        SettingError: no such digits, the same one twice, or a size below 1.
    """
    if first == second or not {first, second} <= set(range(10)):
        raise SettingError(f"name two different digits from 0 to 9, got {first} and {second}")
    splits = load_digits_splits(size=size)
    parts: dict[str, Any] = {}
    for part in ("train", "validation", "test"):
        images, labels = getattr(splits, part).tensors
        wanted = (labels == first) | (labels == second)
        parts[part] = TensorDataset(turn(images[wanted], degrees), (labels[wanted] == second).long())
    return replace(splits, name=f"digits {first}/{second}", class_names=(str(first), str(second)), **parts)


def turn(images: Tensor, degrees: float) -> Tensor:
    """Return (n, channels, height, width) images turned counter-clockwise about their centre, bilinearly.

    Quarters of a turn move pixels and change none; otherwise corners that come from outside are mirrored pixels.

    >>> turn(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), 90).tolist()
    [[[[2.0, 4.0], [1.0, 3.0]]]]
    """
    if degrees % RIGHT_ANGLE == 0 and images.shape[-1] == images.shape[-2]:
        return torch.rot90(images, int(degrees // RIGHT_ANGLE) % 4, (-2, -1)).contiguous()
    angle, (height, width) = math.radians(degrees), images.shape[-2:]
    cosine, sine = math.cos(angle), math.sin(angle)
    matrix = torch.tensor([[cosine, -sine * height / width, 0.0], [sine * width / height, cosine, 0.0]])
    grid = functional.affine_grid(matrix.expand(1, 2, 3), [1, 1, height, width], align_corners=False)
    turned = [
        functional.grid_sample(
            part, grid.expand(len(part), -1, -1, -1), mode="bilinear", padding_mode="reflection", align_corners=False
        )
        for part in images.split(1024)
    ]
    return torch.cat(turned)


def _of_two(batch: tuple[Tensor, Tensor], numbers: tuple[int, int], degrees: float) -> tuple[Tensor, Tensor]:
    images, labels = batch
    wanted = (labels == numbers[0]) | (labels == numbers[1])
    return turn(prepare(images[wanted]), degrees), (labels[wanted] == numbers[1]).long()


def _numbers(first: str, second: str) -> tuple[int, int]:
    for name in (first, second):
        if name not in CLASS_NAMES:
            raise SettingError(f"CIFAR-10 has no class {name!r}; {nearest(str(name), CLASS_NAMES)}")
    if first == second:
        raise SettingError(f"a pair needs two classes, got {first!r} twice")
    return CLASS_NAMES.index(first), CLASS_NAMES.index(second)
