"""The user's side of job.toml: a network, its data, and how training images are varied."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dwindle.data.fashion_mnist import load_fashion_mnist
from dwindle.data.splits import Splits
from dwindle.zoo.resnet18_tian import resnet18_tian


def network() -> nn.Module:
    """ResNet-18 of Tian et al. for grey images of 33 x 33."""
    return resnet18_tian(in_channels=1)


def data() -> Splits:
    """Fashion-MNIST, resized to 33 x 33: 55,000 images to train, 5,000 to validate, 10,000 to test."""
    return load_fashion_mnist(size=33)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift by up to 2 pixels (one offset for every 8th of a batch) and mirror at random."""
    padded = functional.pad(images, (2, 2, 2, 2), mode="replicate")
    size = images.shape[-1]
    parts = []
    for part in padded.chunk(8):
        top, left = torch.randint(0, 5, (2,), generator=generator).tolist()
        parts.append(part[..., top : top + size, left : left + size])
    shifted = torch.cat(parts)
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], shifted.flip(-1), shifted)
