"""This file loads CIFAR-10 (Krizhevsky, 2009) from its official Python files, without trusting their pickles."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from dwindle.data.array_pickle import read_array_pickle
from dwindle.data.locate import Archive, Source, locate
from dwindle.data.splits import Splits, hold_out, resize
from dwindle.errors import DataError

CLASS_NAMES: Final = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
MEAN: Final = (0.4914, 0.4822, 0.4465)
STD: Final = (0.2470, 0.2435, 0.2616)
"""Of the training images' red, green and blue, in [0, 1]."""
N_VALIDATION: Final = 5_000
SIDE: Final = 32
TRAIN_FILES: Final = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_FILE: Final = "test_batch"
SOURCE: Final = Source(
    name="cifar-10-batches-py",
    files={
        "data_batch_1": "md5:c99cafc152244af753f735de768cd75f",
        "data_batch_2": "md5:d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "md5:54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "md5:634d18415352ddfa80567beed471001a",
        "data_batch_5": "md5:482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "md5:40351d587109b95175f43aff81a1287e",
    },
    archive=Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        checksum="md5:c58f30108f718f92721af3b95e74349a",
        folder="cifar-10-batches-py",
    ),
)


def load_cifar10(root: Path | None = None, *, size: int = SIDE) -> Splits:
    """Return CIFAR-10: 45,000 training, 5,000 validation and 10,000 test images, standardized.

    Args:
        root: folder of the official files (`data_batch_1` ... `test_batch`); without it `locate` looks for them.
        size: side in pixels; the 32 x 32 originals are resized bilinearly. Inputs are (3, size, size).

    Raises:
        DataError: the files are absent or damaged.
        SettingError: `size` is below 1.
    """
    folder = locate(SOURCE, root)
    parts = [read_batch(folder / name) for name in TRAIN_FILES]
    images, labels = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    train, validation = hold_out(prepare(images, size), labels, n_held_out=N_VALIDATION)
    test_images, test_labels = read_batch(folder / TEST_FILE)
    return Splits(
        name="cifar-10",
        train=train,
        validation=validation,
        test=TensorDataset(prepare(test_images, size), test_labels),
        class_names=CLASS_NAMES,
    )


def prepare(images: Tensor, size: int = SIDE) -> Tensor:
    """Return (n, 3, size, size) standardized floats of uint8 images."""
    mean, std = (torch.tensor(numbers).reshape(1, 3, 1, 1) for numbers in (MEAN, STD))
    return resize(images.float().div_(255).sub_(mean).div_(std), size)


def read_batch(path: Path) -> tuple[Tensor, Tensor]:
    """Return (n, 3, 32, 32) uint8 images and (n,) labels.

    Raises:
        DataError: the file is damaged or no part of CIFAR-10.
    """
    content = read_array_pickle(path.read_bytes(), what=str(path))
    images, labels = content.get(b"data"), content.get(b"labels")
    if not isinstance(images, np.ndarray) or images.ndim != 2 or images.shape[1] != 3 * SIDE * SIDE:
        raise DataError(f"{path} holds no images of 3 x {SIDE} x {SIDE} bytes; load it again")
    if not isinstance(labels, list) or not all(type(label) is int for label in cast("list[Any]", labels)):
        raise DataError(f"{path} holds no list of labels; load it again")
    if len(cast("list[int]", labels)) != len(images):
        raise DataError(f"{path} holds {len(images):,} images and {len(labels):,} labels; load it again")
    return torch.from_numpy(images.reshape(-1, 3, SIDE, SIDE).copy()), torch.tensor(labels, dtype=torch.int64)
