"""This file holds ResNet-18 as in Tian et al. (2022): 33 x 33 input, convolutions with bias, bare 1 x 1 projections."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut; the projection is a bare 1 x 1 convolution, without batch norm."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(out_channels)
        changes_shape = stride != 1 or in_channels != out_channels
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride) if changes_shape else nn.Identity()
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in, h, w) to (batch, out, ceil(h / stride), ceil(w / stride))."""
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(residual + self.shortcut(x))


class ResNet18Tian(nn.Module):
    """The network behind `resnet18_tian`."""

    def __init__(self, *, in_channels: int, n_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, 64, 7, stride=2, padding=3),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        widths = (64, 64, 128, 256, 512)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    BasicBlock(before, after, stride=1 if before == after else 2),
                    BasicBlock(after, after, stride=1),
                )
                for before, after in pairwise(widths)
            )
        )
        self.flatten = nn.Flatten()
        self.head = nn.Linear(2048, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, 33, 33) to logits (batch, n_classes)."""
        return self.head(self.flatten(self.stages(self.stem(x))))


def resnet18_tian(*, in_channels: int = 3, n_classes: int = 10) -> nn.Module:
    """Return ResNet-18 in the form of Tian et al. (2022); 11,200,010 parameters with 3 input channels and 10 classes.

    Input (batch, in_channels, 33, 33), output logits (batch, n_classes); weights come from torch's global generator.
    """
    return ResNet18Tian(in_channels=in_channels, n_classes=n_classes)
