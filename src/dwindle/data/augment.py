"""This file varies training images at random, a whole batch at a time, from a generator that the caller seeds.

An augmentation is called as `augment(images, generator)` with images (batch, channels, height, width), which is what
`FabricTrainer` does; each image is varied by its own draws. Crop and flip are those of Tian et al. (2022), figure 1:
`Chain((RandomCrop(), RandomFlip()))`. Flips both ways and rotation are those of Predic et al. (2022), who name no
angle: `Chain((RandomFlip(), RandomFlip(is_vertical=True), RandomRotation()))`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import TensorDataset

from dwindle.errors import DataError, SettingError

Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomCrop:
    """Pad each side by `padding` pixels and cut out the original size at a place drawn for each image; any dtype.

    Attributes:
        padding: pixels; 4 for 32 x 32 images.
        mode: what the border is filled with: zeros, the mirrored image, or its outermost pixels.

    Raises:
        SettingError: `padding` is below 1, or `mode` is none of the three.
    """

    padding: int = 4
    mode: Literal["constant", "reflect", "replicate"] = "constant"

    def __post_init__(self) -> None:
        if self.padding < 1:
            raise SettingError(f"RandomCrop: padding must be at least 1 pixel, got {self.padding}")
        if self.mode not in {"constant", "reflect", "replicate"}:
            raise SettingError(f"RandomCrop: mode must be constant, reflect or replicate, got {self.mode!r}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return images of the same shape.

        Raises:
            SettingError: images too small to be mirrored this far.
        """
        n, _, height, width = _shape(images, "RandomCrop")
        if self.mode == "reflect" and self.padding >= min(height, width):
            raise SettingError(
                f"RandomCrop: {height} x {width} pixels cannot be mirrored {self.padding} pixels outwards"
            )
        padded = functional.pad(images, (self.padding,) * 4, mode=self.mode)
        tops, lefts = torch.randint(0, 2 * self.padding + 1, (2, n), generator=generator).to(images.device)
        rows = (tops[:, None] + _count(height, images))[:, None, :, None]
        columns = (lefts[:, None] + _count(width, images))[:, None, None, :]
        channels = _count(images.shape[1], images)[None, :, None, None]
        return padded[_count(n, images)[:, None, None, None], channels, rows, columns]


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomFlip:
    """Mirror each image with probability `p`, left to right or, with `is_vertical`, top to bottom; any dtype.

    Raises:
        SettingError: `p` is outside [0, 1].
    """

    p: float = 0.5
    is_vertical: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise SettingError(f"RandomFlip: p must be in [0, 1], got {self.p}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return images of the same shape."""
        n, *_ = _shape(images, "RandomFlip")
        chosen = (torch.rand(n, generator=generator) < self.p).to(images.device)
        flipped = images.flip(-2 if self.is_vertical else -1)
        return torch.where(chosen[:, None, None, None], flipped, images)


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomRotation:
    """Turn each image about its centre by an angle drawn from [-degrees, degrees]; corners are filled by reflection.

    Pixels are interpolated bilinearly, in float32 for half floats, so bytes are refused.

    Raises:
        SettingError: `degrees` is outside (0, 180].
    """

    degrees: float = 90.0

    def __post_init__(self) -> None:
        if not 0 < self.degrees <= 180:
            raise SettingError(f"RandomRotation: degrees must be in (0, 180], got {self.degrees}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return images of the same shape.

        Raises:
            DataError: the pixels are whole numbers.
        """
        n, *_ = _shape(images, "RandomRotation")
        degrees = (2 * torch.rand(n, generator=generator) - 1) * self.degrees
        return rotate(images, degrees.to(images.device))


@dataclass(frozen=True, slots=True)
class Chain:
    """Augmentations one after the other."""

    steps: tuple[Augment, ...]

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return images of the same shape."""
        for step in self.steps:
            images = step(images, generator)
        return images


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Turn each image about its centre, counter-clockwise; what turns in from outside is the mirrored image.

    Args:
        images: (batch, channels, height, width), floating point.
        degrees: (batch,).

    Raises:
        DataError: the pixels are whole numbers.

    >>> rotate(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([90.0])).round().tolist()
    [[[[2.0, 4.0], [1.0, 3.0]]]]
    """
    if not images.is_floating_point():
        raise DataError(f"a rotation interpolates pixels and these are {images.dtype}; pass floating-point images")
    n, _, height, width = images.shape
    if n == 0:
        return images
    pixels = images if images.dtype in {torch.float32, torch.float64} else images.float()
    angles = degrees.to(pixels.dtype) * (math.pi / 180)
    cos, sin = angles.cos(), angles.sin()
    aspect = height / width  # affine_grid measures both axes from -1 to 1, whatever their lengths
    zeros = torch.zeros_like(cos)
    rows = (torch.stack([cos, -sin * aspect, zeros], 1), torch.stack([sin / aspect, cos, zeros], 1))
    grid = functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    turned = functional.grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return turned.to(images.dtype)


def with_augmented_copies(dataset: TensorDataset, augment: Augment, *, seed: int) -> TensorDataset:
    """Return the (images, targets) of `dataset` followed by one augmented copy of each, drawn once.

    This is the concatenation that Tian et al. (2022) train on. `FabricTrainer(augment=...)` draws afresh each epoch
    instead, which regularizes more at the same cost.
    """
    images, targets = dataset.tensors
    generator = torch.Generator().manual_seed(seed)
    copies = torch.cat([augment(part, generator) for part in images.split(4096)]) if len(images) else images
    return TensorDataset(torch.cat([images, copies]), torch.cat([targets, targets]))


def _shape(images: Tensor, what: str) -> tuple[int, int, int, int]:
    if images.dim() != 4:
        raise DataError(f"{what} takes images (batch, channels, height, width), got shape {tuple(images.shape)}")
    n, channels, height, width = images.shape
    return n, channels, height, width


def _count(n: int, like: Tensor) -> Tensor:
    return torch.arange(n, device=like.device)


crop_and_flip = Chain((RandomCrop(), RandomFlip()))
"""Of Tian et al. (2022), figure 1, for images of about 32 x 32 pixels."""

small_crop_and_flip = Chain((RandomCrop(padding=2, mode="replicate"), RandomFlip()))
"""A milder form of it: a training of ten epochs does not catch up with shifts of four pixels."""
