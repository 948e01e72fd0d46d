"""This file varies training images at random, a whole batch at a time, from a generator that the caller seeds.

Crop and flip are those of Tian et al. (2022), figure 1; flips and rotation those of Predic et al. (2022). An augmentation
is called as `augment(images, generator)` with images (batch, channels, height, width), which is what `FabricTrainer` does.
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

from dwindle.errors import SettingError

Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomCrop:
    """Pad each side by `padding` pixels and cut out the original size at a place drawn for each image.

    Attributes:
        padding: pixels; 4 for 32 x 32 images.
        mode: what the border is filled with: zeros, the mirrored image, or its outermost pixels.
    """

    padding: int = 4
    mode: Literal["constant", "reflect", "replicate"] = "constant"

    def __post_init__(self) -> None:
        if self.padding < 1:
            raise SettingError(f"RandomCrop: padding must be at least 1 pixel, got {self.padding}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return images of the same shape."""
        n, _, height, width = images.shape
        padded = functional.pad(images, (self.padding,) * 4, mode=self.mode)
        tops, lefts = torch.randint(0, 2 * self.padding + 1, (2, n), generator=generator)
        rows = (tops[:, None] + torch.arange(height))[:, None, :, None]
        columns = (lefts[:, None] + torch.arange(width))[:, None, None, :]
        channels = torch.arange(images.shape[1])[None, :, None, None]
        return padded[torch.arange(n)[:, None, None, None], channels, rows, columns]


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomFlip:
    """Mirror each image with probability `p`, left to right or, with `is_vertical`, top to bottom."""

    p: float = 0.5
    is_vertical: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise SettingError(f"RandomFlip: p must be in [0, 1], got {self.p}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return images of the same shape."""
        chosen = torch.rand(len(images), generator=generator) < self.p
        flipped = images.flip(-2 if self.is_vertical else -1)
        return torch.where(chosen[:, None, None, None], flipped, images)


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomRotation:
    """Turn each image about its centre by an angle drawn from [-degrees, degrees]; corners are filled by reflection."""

    degrees: float = 90.0

    def __post_init__(self) -> None:
        if not 0 < self.degrees <= 180:
            raise SettingError(f"RandomRotation: degrees must be in (0, 180], got {self.degrees}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return images of the same shape."""
        n, _, height, width = images.shape
        angles = (2 * torch.rand(n, generator=generator) - 1) * math.radians(self.degrees)
        cos, sin = angles.cos(), angles.sin()
        aspect = height / width  # affine_grid measures both axes from -1 to 1, whatever their lengths
        rows = (
            torch.stack([cos, -sin * aspect, torch.zeros(n)], 1),
            torch.stack([sin / aspect, cos, torch.zeros(n)], 1),
        )
        grid = functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
        return functional.grid_sample(
            images, grid.to(images.dtype), mode="bilinear", padding_mode="reflection", align_corners=False
        )


@dataclass(frozen=True, slots=True)
class Chain:
    """Augmentations one after the other."""

    steps: tuple[Augment, ...]

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return images of the same shape."""
        for step in self.steps:
            images = step(images, generator)
        return images


def with_augmented_copies(dataset: TensorDataset, augment: Augment, *, seed: int) -> TensorDataset:
    """Return the (images, targets) of `dataset` followed by one augmented copy of each, drawn once.

    This is the concatenation that Tian et al. (2022) train on. `FabricTrainer(augment=...)` draws afresh each epoch
    instead, which regularizes more at the same cost.
    """
    images, targets = dataset.tensors
    generator = torch.Generator().manual_seed(seed)
    copies = torch.cat([augment(part, generator) for part in images.split(4096)]) if len(images) else images
    return TensorDataset(torch.cat([images, copies]), torch.cat([targets, targets]))
