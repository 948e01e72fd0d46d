"""This file loads Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017; MIT licence) from its IDX files."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from dwindle.data.locate import Source, locate
from dwindle.data.splits import Splits, hold_out, resize
from dwindle.errors import DataError

CLASS_NAMES: Final = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
MEAN: Final = 0.2860
STD: Final = 0.3530
SIDE: Final = 28
N_IMAGES: Mapping[str, int] = {"train": 60_000, "t10k": 10_000}
N_VALIDATION: Final = 5_000
_UPSTREAM: Final = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
SOURCE: Final = Source(
    name="fashion-mnist",
    files={
        "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
    },
    base_url=_UPSTREAM,
    is_repacked=True,  # Debian's package dataset-fashion-mnist compresses the same content anew
)
_MAX_BYTES: Final = 1 << 26
"""Of an unpacked file; the largest published one has 47 MB."""
_MAGIC_IMAGES: Final = 2051
_MAGIC_LABELS: Final = 2049


def load_fashion_mnist(root: Path | None = None, *, size: int = 28) -> Splits:
    """Return Fashion-MNIST: 55,000 training, 5,000 validation and 10,000 test images.

    Args:
        root: folder of the four IDX `.gz` files; without it `locate` looks for them and at last downloads them.
        size: side in pixels; the 28 x 28 originals are resized bilinearly. Inputs are (1, size, size), standardized.

    Raises:
        DataError: the files are absent, damaged, or do not hold the published number of images.
        SettingError: `size` is below 1.
    """
    folder = locate(SOURCE, root)
    images = {part: _read_images(folder / f"{part}-images-idx3-ubyte.gz") for part in ("train", "t10k")}
    labels = {part: _read_labels(folder / f"{part}-labels-idx1-ubyte.gz") for part in ("train", "t10k")}
    for part, pictures in images.items():
        if pictures.shape != (N_IMAGES[part], SIDE, SIDE) or len(labels[part]) != N_IMAGES[part]:
            raise DataError(
                f"{folder}: {part} has images {tuple(pictures.shape)} and {len(labels[part])} labels; published were "
                f"{(N_IMAGES[part], SIDE, SIDE)}; load it again"
            )
    train, validation = hold_out(_prepare(images["train"], size), labels["train"], n_held_out=N_VALIDATION)
    return Splits(
        name="fashion-mnist",
        train=train,
        validation=validation,
        test=TensorDataset(_prepare(images["t10k"], size), labels["t10k"]),
        class_names=CLASS_NAMES,
    )


def _prepare(images: Tensor, size: int) -> Tensor:
    return resize(images.float().div_(255).sub_(MEAN).div_(STD).unsqueeze(1), size)


def _read_images(path: Path) -> Tensor:
    values, header = _read_idx(path, magic=_MAGIC_IMAGES, n_header_words=4)
    return values.reshape(header[1], header[2], header[3])


def _read_labels(path: Path) -> Tensor:
    values, _ = _read_idx(path, magic=_MAGIC_LABELS, n_header_words=2)
    return values.long()


def _read_idx(path: Path, *, magic: int, n_header_words: int) -> tuple[Tensor, list[int]]:
    try:
        with gzip.open(path) as file:
            raw = file.read(_MAX_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file ({error}); delete it and load again") from error
    n_header = 4 * n_header_words
    words = np.frombuffer(raw[: min(n_header, len(raw) // 4 * 4)], dtype=">u4")
    header = [int(word) for word in words]
    n_values = math.prod(header[1:]) if len(header) == n_header_words else -1
    if not header or header[0] != magic or len(raw) - n_header != n_values:
        raise DataError(f"{path} is not the IDX file it is named for (header {header}, {len(raw):,} bytes)")
    return torch.from_numpy(np.frombuffer(raw, dtype=np.uint8, offset=n_header).copy()), header
