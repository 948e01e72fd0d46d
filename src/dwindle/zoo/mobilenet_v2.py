"""This file holds MobileNetV2 (Sandler et al., 2018): inverted residuals with linear bottlenecks."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from dwindle.errors import SettingError

SETTINGS: Final = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Table 2 of the paper: expansion, output channels, number of blocks, stride of the first of them."""
N_STRIDES: Final = 5
"""Halvings of the image: the stem's and four of the blocks'."""


class ConvNormAct(nn.Sequential):
    """A convolution without bias, batch norm, ReLU6."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU6(),
        )


class InvertedResidual(nn.Module):
    """Expand by 1 x 1, filter each channel by 3 x 3, project by 1 x 1; a shortcut where shapes agree."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        expand = [] if expansion == 1 else [ConvNormAct(in_channels, hidden, 1)]
        self.conv = nn.Sequential(
            *expand,
            ConvNormAct(hidden, hidden, 3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.is_residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in, h, w) to (batch, out, ceil(h / stride), ceil(w / stride))."""
        return x + self.conv(x) if self.is_residual else self.conv(x)


class MobileNetV2(nn.Module):
    """The network behind `mobilenet_v2`; names of layers are those of the standard checkpoints."""

    def __init__(self, *, in_channels: int, n_classes: int, width: float, n_unit_strides: int, dropout: float) -> None:
        super().__init__()
        strides = [2, *(stride for *_, stride in SETTINGS)]
        for position in [i for i, stride in enumerate(strides) if stride == 2][:n_unit_strides]:
            strides[position] = 1
        before = _divisible(32 * width)
        blocks: list[nn.Module] = [ConvNormAct(in_channels, before, 3, stride=strides[0])]
        for (expansion, channels, n_blocks, _), first in zip(SETTINGS, strides[1:], strict=True):
            after = _divisible(channels * width)
            for number in range(n_blocks):
                stride = first if number == 0 else 1
                blocks.append(InvertedResidual(before, after, stride=stride, expansion=expansion))
                before = after
        last = _divisible(1280 * max(1.0, width))
        self.features = nn.Sequential(*blocks, ConvNormAct(before, last, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last, n_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, size, size) to logits (batch, n_classes)."""
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))


def mobilenet_v2(
    *, in_channels: int = 3, n_classes: int = 1000, width: float = 1.0, n_unit_strides: int = 0, dropout: float = 0.2
) -> nn.Module:
    """Return MobileNetV2; 3,504,872 parameters with 1,000 classes at width 1.

    Args:
        in_channels: channels of an input.
        n_classes: number of outputs.
        width: factor of the channels, which are rounded to multiples of 8.
        n_unit_strides: how many of the five strides of 2, from the input on, become 1: 0 for 224 x 224 images, 1 to 3
            for 32 x 32.
        dropout: before the linear layer.

    Input (batch, in_channels, size, size), output logits (batch, n_classes); weights come from torch's global
    generator.

    Raises:
        SettingError: `width` is not positive, or there are not that many strides.
    """
    if not width > 0 or not 0 <= n_unit_strides <= N_STRIDES:
        raise SettingError(
            f"mobilenet_v2: width must be positive and n_unit_strides in [0, {N_STRIDES}], "
            f"got {width}, {n_unit_strides}"
        )
    return MobileNetV2(
        in_channels=in_channels, n_classes=n_classes, width=width, n_unit_strides=n_unit_strides, dropout=dropout
    )


def _divisible(channels: float) -> int:
    """Round to a multiple of 8, as the paper's released code does: never below 8, never down by more than 10 %."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
