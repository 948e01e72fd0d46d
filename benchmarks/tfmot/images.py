"""This file writes CIFAR-10, as dwindle's loader splits it, into a .npz file that needs neither torch nor dwindle."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import TensorDataset

from dwindle.data.cifar10 import MEAN, STD
from dwindle.data.splits import Splits
from dwindle.whole_file import write_whole

Array = NDArray[np.float32]


def write_images(splits: Splits, path: Path) -> None:
    """Write the pixels of each split as bytes (n, 32, 32, 3), its labels, and the mean and spread to standardize with.

    Raises:
        ValueError: the bytes, standardized again, are not bit for bit what the loader gave.
    """
    columns: dict[str, NDArray[np.generic]] = {"mean": np.float32(MEAN), "std": np.float32(STD)}
    for name in ("train", "validation", "test"):
        images, labels = getattr(splits, name).tensors
        columns |= {f"{name}_images": _bytes_of(images, name), f"{name}_labels": labels.numpy()}
    buffer = io.BytesIO()
    np.savez(buffer, **columns)
    write_whole(path, buffer.getbuffer())


def cut(splits: Splits, *, n_train: int | None, n_test: int | None) -> Splits:
    """Return the first examples of each split; None keeps all. Validation is cut as the test split is."""
    lengths = {"train": n_train, "validation": n_test, "test": n_test}
    parts = {name: _first(getattr(splits, name), n) for name, n in lengths.items()}
    return Splits(name=splits.name, class_names=splits.class_names, **parts)


def standardized(pixels: NDArray[np.uint8], mean: Array, std: Array) -> Array:
    """Return (..., channels) bytes as the loader standardizes them; the peer's script does the same."""
    return (pixels.astype(np.float32) / np.float32(255) - mean) / std


def _first(dataset: TensorDataset, n: int | None) -> TensorDataset:
    return dataset if n is None else TensorDataset(*(tensor[:n] for tensor in dataset.tensors))


def _bytes_of(images: torch.Tensor, name: str) -> NDArray[np.uint8]:
    mean, std = np.float32(MEAN), np.float32(STD)
    floats = images.permute(0, 2, 3, 1).numpy()
    pixels = np.empty(floats.shape, np.uint8)
    for start in range(0, len(floats), 1000):
        part = slice(start, start + 1000)
        pixels[part] = np.rint((floats[part] * std + mean) * 255)
        if not np.array_equal(standardized(pixels[part], mean, std), floats[part]):
            raise ValueError(f"{name}: the images are not standardized bytes, so both sides would not see equal pixels")
    return pixels
