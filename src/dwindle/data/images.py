"""This file loads images that lie in one folder a class, through Pillow (the extra `images`).

Two layouts: `train/<class>/...`, `test/<class>/...` and perhaps `val/<class>/...`; or `<class>/...` alone, which is
split here, at random but the same each time, every class at its share. Such a split knows no patients or scenes: where
several images show the same thing, split by folders of your own, or the score is inflated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from dwindle.data.class_folders import Listing, list_classes, stratified
from dwindle.data.splits import Splits
from dwindle.errors import DataError, RuntimeUnavailableError, SettingError

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
VALIDATION_NAMES: Final = ("val", "valid", "validation")
VALIDATION_FRACTION: Final = 0.1
TEST_FRACTION: Final = 0.2
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
MAX_BYTES: Final = 8 << 30
_DEEP_MODES: Final = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True, kw_only=True)
class ImageForm:
    """What images become.

    Attributes:
        size: side in pixels, or (height, width); images are resized bilinearly to it, without keeping their aspect.
        n_channels: 3 for red, green, blue; 1 for grey.
        mean: subtracted from each channel, pixels in [0, 1]; one number for each channel. ImageNet's, which
            pre-trained networks expect; for grey images, their average.
        std: what the difference is divided by.
        keep_bytes: leave pixels as uint8 0..255, for a network that scales its own input; `mean` and `std` are unused.
        max_bytes: refuse to load more than this into memory; counted before anything is decoded.

    Raises:
        SettingError: a size or a standard deviation is not positive, or the numbers do not fit the channels.
    """

    size: int | tuple[int, int] = 224
    n_channels: int = 3
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    keep_bytes: bool = False
    max_bytes: int = MAX_BYTES

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise SettingError(f"ImageForm: size must be at least 1 pixel, got {self.size}")
        if self.n_channels not in {1, 3}:
            raise SettingError(f"ImageForm: n_channels must be 1 (grey) or 3 (colour), got {self.n_channels}")
        if len(self.mean) != len(self.std) or len(self.mean) not in {self.n_channels, 3}:
            raise SettingError(f"ImageForm: {self.n_channels} channels need as many numbers in mean and std")
        if not all(math.isfinite(number) for number in (*self.mean, *self.std)) or min(self.std) <= 0:
            raise SettingError(f"ImageForm: mean must be finite and std positive, got {self.mean} and {self.std}")

    @property
    def height(self) -> int:
        """Rows of pixels."""
        return self.size if isinstance(self.size, int) else self.size[0]

    @property
    def width(self) -> int:
        """Columns of pixels."""
        return self.size if isinstance(self.size, int) else self.size[1]

    def standardize(self, pixels: Tensor) -> Tensor:
        """Return uint8 (channels, height, width) as the numbers that a network is fed."""
        if self.keep_bytes:
            return pixels
        mean, std = (torch.tensor(numbers).reshape(-1, 1, 1) for numbers in (self.mean, self.std))
        if self.n_channels == 1:
            mean, std = mean.mean(), std.mean()
        return (pixels.float() / 255 - mean) / std

    def n_bytes(self, n_images: int) -> int:
        """Return the memory that so many images take."""
        return n_images * self.n_channels * self.height * self.width * (1 if self.keep_bytes else 4)


def load_image_folder(
    root: Path,
    *,
    form: ImageForm | None = None,
    class_names: Sequence[str] | None = None,
    max_per_class: int | None = None,
    seed: int = 0,
) -> Splits:
    """Return the images of `root` in three splits, float32 (channels, height, width) unless `form` keeps bytes.

    Args:
        root: holds `train`, `test` and perhaps `val` (or `valid`, `validation`), each with one folder a class; or the
            class folders themselves, of which a fifth of each class tests and a tenth validates.
        form: what images become.
        class_names: the folders that are classes; without it all of them, sorted.
        max_per_class: takes this many images of each class in each folder.
        seed: of the splits that are drawn.

    Raises:
        DataError: a folder or class is absent or empty, an image is broken, or there are too many for the memory limit.
        RuntimeUnavailableError: Pillow is not installed.
    """
    root = Path(root).expanduser()

    def listing(folder: Path) -> Listing:
        return list_classes(folder, suffixes=SUFFIXES, class_names=class_names, max_per_class=max_per_class)

    if (root / "train").is_dir():
        if not (root / "test").is_dir():
            raise DataError(f"{root} holds train but no test; add test, or name the folder that holds the classes")
        train, test = listing(root / "train"), listing(root / "test")
        folder = next((root / name for name in VALIDATION_NAMES if (root / name).is_dir()), None)
        if folder is None:
            train, validation = hold_out_images(train, seed=seed)
        else:
            validation = listing(folder)
    else:
        whole = listing(root)
        rows = stratified(whole.labels, {"test": TEST_FRACTION, "validation": VALIDATION_FRACTION}, seed=seed)
        train, validation, test = (whole.part(rows[name]) for name in ("rest", "validation", "test"))
    return splits_of(root.name, (train, validation, test), form=form or ImageForm())


def hold_out_images(train: Listing, *, seed: int = 0) -> tuple[Listing, Listing]:
    """Split a training set into one that trains and one that validates, a tenth of each class."""
    rows = stratified(train.labels, {"validation": VALIDATION_FRACTION}, seed=seed)
    return train.part(rows["rest"]), train.part(rows["validation"])


def splits_of(name: str, listings: tuple[Listing, Listing, Listing], *, form: ImageForm) -> Splits:
    """Decode training, validation and test images into memory.

    Raises:
        DataError: the folders hold different classes, an image is broken, or there are too many for the memory limit.
    """
    train, validation, test = listings
    for part, listing in (("validation", validation), ("test", test)):
        if listing.class_names != train.class_names:
            different = sorted(set(listing.class_names) ^ set(train.class_names))
            raise DataError(f"{name}: training and {part} classes differ by {', '.join(different)}; make them the same")
    n_images = sum(len(listing.paths) for listing in listings)
    if form.n_bytes(n_images) > form.max_bytes:
        raise DataError(
            f"{n_images:,} images of {form.height} x {form.width} take {form.n_bytes(n_images) / 2**30:,.1f} GiB, more "
            f"than the limit of {form.max_bytes / 2**30:,.1f} GiB; pass a smaller size, max_per_class, "
            "keep_bytes or a larger max_bytes"
        )
    parts = [TensorDataset(read_images(listing.paths, form), listing.labels) for listing in listings]
    return Splits(name=name, train=parts[0], validation=parts[1], test=parts[2], class_names=train.class_names)


def read_images(paths: Sequence[Path], form: ImageForm) -> Tensor:
    """Return (n, channels, height, width) images: float32, or uint8 if `form` keeps bytes.

    Raises:
        DataError: a file is no image, is damaged, or has more than 8 bits a channel.
        RuntimeUnavailableError: Pillow is not installed.
    """
    shape = (len(paths), form.n_channels, form.height, form.width)
    images = torch.empty(shape, dtype=torch.uint8 if form.keep_bytes else torch.float32)
    for image, path in zip(images, paths, strict=True):
        image.copy_(form.standardize(_decode(path, form)))
    return images


def _decode(path: Path, form: ImageForm) -> Tensor:
    """Return one image, uint8 (channels, height, width), upright, what is transparent white."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise RuntimeUnavailableError("images are read with Pillow; pip install 'dwindle[images]'") from error
    try:
        with Image.open(path) as file:
            _require_bytes(file.mode)
            image = ImageOps.exif_transpose(file)
        if image.has_transparency_data:
            colours = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
        resized = image.convert("RGB").resize((form.width, form.height), Image.Resampling.BILINEAR)
        pixels = np.array(resized.convert("L" if form.n_channels == 1 else "RGB"))
    except Exception as error:  # decoders raise almost anything
        raise DataError(f"{path} is not an image that can be used ({error}); replace or remove it") from error
    return torch.from_numpy(pixels).reshape(form.height, form.width, form.n_channels).permute(2, 0, 1)


def _require_bytes(mode: str) -> None:
    if mode in _DEEP_MODES:
        raise DataError(f"it has more than 8 bits a channel, mode {mode}; convert it first")
