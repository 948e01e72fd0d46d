"""The digits that scikit-learn embeds, a network for them that is trained on the spot, and a student of it."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import torch
from torch import nn

from dwindle.data.digits import load_digits_splits
from dwindle.data.splits import Splits
from dwindle.network.fabric_trainer import FabricTrainer


def data() -> Splits:
    """Return train, validation and test."""
    return load_digits_splits()


def network(width: int) -> nn.Module:
    """Return three convolutions and a linear layer, their weights drawn at random."""
    return nn.Sequential(
        *block(1, width), *block(width, width), nn.MaxPool2d(2), *block(width, 2 * width),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8 * width, 10),
    )  # fmt: skip


def layered(width: int) -> nn.Module:
    """Return four convolutions and two linear layers, their weights drawn at random: enough layers to compare."""
    widths = (1, width, width, 2 * width, 2 * width)
    layers: dict[str, nn.Module] = {}
    for i, (n_in, n_out) in enumerate(pairwise(widths), start=1):
        layers[f"conv{i}"], layers[f"norm{i}"], layers[f"relu{i}"] = block(n_in, n_out)
        if i % 2 == 0:
            layers[f"pool{i}"] = nn.MaxPool2d(2)
    layers |= {"flatten": nn.Flatten(), "linear1": nn.Linear(8 * width, 4 * width), "relu5": nn.ReLU()}
    return nn.Sequential(OrderedDict(layers, linear2=nn.Linear(4 * width, 10)))


def block(n_in: int, n_out: int) -> list[nn.Module]:
    """Return a convolution with what follows it."""
    return [nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]


def trained(width: int, epochs: int, *, is_layered: bool = False) -> nn.Module:
    """Return a network after a few seconds of training; a job of your own names a checkpoint instead."""
    built = layered(width) if is_layered else network(width)
    trainer = FabricTrainer(train=data().train, batch_size=64, learning_rate=0.1, accelerator="cpu")
    trainer(built, steps=epochs * trainer.steps_per_epoch, seed=torch.initial_seed(), stage="teacher")
    return built
