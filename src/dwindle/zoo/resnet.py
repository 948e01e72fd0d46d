"""This file holds the residual networks for ImageNet (He et al., 2016): ResNet-18 and ResNet-50."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from dwindle.zoo.arguments import require_positive

WIDTHS: Final = (64, 128, 256, 512)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut around them."""

    EXPANSION: Final = 1

    def __init__(self, in_channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, width, 3, stride=stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = _conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(in_channels, width, stride=stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in, h, w) to (batch, width, ceil(h / stride), ceil(w / stride))."""
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(residual + self.downsample(x))


class Bottleneck(nn.Module):
    """Reduce by 1 x 1, filter by 3 x 3, expand by 1 x 1, and a shortcut around them.

    The 3 x 3 convolution has the stride, as in the well-known checkpoints; in the paper it is the first 1 x 1.
    """

    EXPANSION: Final = 4

    def __init__(self, in_channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        out_channels = self.EXPANSION * width
        self.conv1 = _conv(in_channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = _conv(width, width, 3, stride=stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = _conv(width, out_channels, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = _shortcut(in_channels, out_channels, stride=stride)
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in, h, w) to (batch, 4 width, ceil(h / stride), ceil(w / stride))."""
        inner = self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))))
        return self.relu3(self.bn3(self.conv3(inner)) + self.downsample(x))


class ResNet(nn.Module):
    """The network behind `resnet18` and `resnet50`; names of layers are those of the standard checkpoints."""

    def __init__(
        self, *, in_channels: int, n_classes: int, block: type[BasicBlock | Bottleneck], depths: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, WIDTHS[0], 7, stride=2)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        stages: list[nn.Sequential] = []
        before = WIDTHS[0]
        for width, depth in zip(WIDTHS, depths, strict=True):
            blocks: list[nn.Module] = []
            for number in range(depth):
                blocks.append(block(before, width, stride=2 if number == 0 and stages else 1))
                before = width * block.EXPANSION
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(before, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, size, size) to logits (batch, n_classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet18(*, in_channels: int = 3, n_classes: int = 1000) -> nn.Module:
    """Return ResNet-18 for ImageNet; 11,689,512 parameters with 3 channels and 1,000 classes.

    Input (batch, in_channels, size, size), 224 in the paper, 32 or more; output logits (batch, n_classes); weights come
    from torch's global generator. For 32 x 32 images see `resnet18_cifar`.

    Raises:
        SettingError: an argument is below 1.
    """
    require_positive("resnet18", in_channels=in_channels, n_classes=n_classes)
    return ResNet(in_channels=in_channels, n_classes=n_classes, block=BasicBlock, depths=(2, 2, 2, 2))


def resnet50(*, in_channels: int = 3, n_classes: int = 1000) -> nn.Module:
    """Return ResNet-50 for ImageNet; 25,557,032 parameters with 3 channels and 1,000 classes.

    Input (batch, in_channels, size, size), 224 in the paper, 32 or more; output logits (batch, n_classes); weights come
    from torch's global generator.

    Raises:
        SettingError: an argument is below 1.
    """
    require_positive("resnet50", in_channels=in_channels, n_classes=n_classes)
    return ResNet(in_channels=in_channels, n_classes=n_classes, block=Bottleneck, depths=(3, 4, 6, 3))


def _conv(in_channels: int, out_channels: int, kernel: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False)


def _shortcut(in_channels: int, out_channels: int, *, stride: int) -> nn.Module:
    """Return what brings a block's input to the shape of its output."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(_conv(in_channels, out_channels, 1, stride=stride), nn.BatchNorm2d(out_channels))
