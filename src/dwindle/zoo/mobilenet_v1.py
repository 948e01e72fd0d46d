"""This file holds MobileNetV1 (Howard et al., 2017): pairs of a depthwise and a pointwise convolution."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from dwindle.errors import SettingError
from dwindle.zoo.arguments import require_positive

STAGES: Final = (
    ((64, 1),),
    ((128, 2), (128, 1)),
    ((256, 2), (256, 1)),
    ((512, 2), *((512, 1),) * 5),
    ((1024, 2), (1024, 1)),
)
"""Table 1 of the paper: output channels and stride of each pair; a stage begins where the image is halved."""


class SeparableConv(nn.Module):
    """A 3 x 3 filter for each channel and a 1 x 1 convolution across channels, each with batch norm and ReLU6."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(in_channels, in_channels, 3, stride=stride, padding=1, groups=in_channels, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.act1 = nn.ReLU6()
        self.conv_pw = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.act2 = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in, h, w) to (batch, out, ceil(h / stride), ceil(w / stride))."""
        return self.act2(self.bn2(self.conv_pw(self.act1(self.bn1(self.conv_dw(x))))))


class MobileNetV1(nn.Module):
    """The network behind `mobilenet_v1`; names of layers are those of timm's checkpoints."""

    def __init__(self, *, in_channels: int, n_classes: int, width: float, dropout: float) -> None:
        super().__init__()
        before = _scaled(32, width)
        self.conv_stem = nn.Conv2d(in_channels, before, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(before)
        self.act1 = nn.ReLU6()
        stages: list[nn.Module] = []
        for stage in STAGES:
            pairs: list[nn.Module] = []
            for channels, stride in stage:
                after = _scaled(channels, width)
                pairs.append(SeparableConv(before, after, stride=stride))
                before = after
            stages.append(nn.Sequential(*pairs))
        self.blocks = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(before, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, size, size) to logits (batch, n_classes)."""
        x = self.pool(self.blocks(self.act1(self.bn1(self.conv_stem(x)))))
        return self.classifier(self.dropout(torch.flatten(x, 1)))


def mobilenet_v1(
    *, in_channels: int = 3, n_classes: int = 1000, width: float = 1.0, dropout: float = 0.001
) -> nn.Module:
    """Return MobileNetV1; 4,231,976 parameters with 3 channels and 1,000 classes at width 1.

    Args:
        in_channels: channels of an input.
        n_classes: number of outputs.
        width: factor of the channels (the paper's alpha), which are rounded to whole numbers, at least 8.
        dropout: before the linear layer; the released code drops 0.1 %.

    The activation is ReLU6, as in the released code; the paper says ReLU. Input (batch, in_channels, size, size), 224
    in the paper, 32 or more; output logits (batch, n_classes); weights come from torch's global generator.

    Raises:
        SettingError: a count is below 1, `width` is not positive or `dropout` is outside [0, 1).
    """
    require_positive("mobilenet_v1", in_channels=in_channels, n_classes=n_classes)
    if not width > 0 or not 0 <= dropout < 1:
        raise SettingError(f"mobilenet_v1: width must be positive and dropout in [0, 1), got {width}, {dropout}")
    return MobileNetV1(in_channels=in_channels, n_classes=n_classes, width=width, dropout=dropout)


def _scaled(channels: int, width: float) -> int:
    return max(8, round(channels * width))
