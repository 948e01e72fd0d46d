"""This file holds the residual networks for 32 x 32 images: ResNet-20 (He et al., 2016) and a wide ResNet-18."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from dwindle.zoo.arguments import require_positive


class SubsampledShortcut(nn.Module):
    """The shortcut of He et al. for CIFAR (option A): every second pixel, zeros for the new channels; no weights."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        n_new = out_channels - in_channels
        self.before, self.after = n_new // 2, n_new - n_new // 2

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in, h, w) to (batch, out, ceil(h / 2), ceil(w / 2))."""
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class ProjectedShortcut(nn.Sequential):
    """A strided 1 x 1 convolution with batch norm (option B)."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 2) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
        )


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm, without bias, and a shortcut around them."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = shortcut
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in, h, w) to (batch, out, ceil(h / stride), ceil(w / stride))."""
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(residual + self.shortcut(x))


class ResNetCifar(nn.Module):
    """A 3 x 3 stem without pooling, stages of basic blocks, halving from the second on, and one linear layer."""

    def __init__(
        self,
        *,
        in_channels: int,
        n_classes: int,
        widths: tuple[int, ...],
        n_blocks: int,
        shortcut: Callable[[int, int], nn.Module],
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        stages: list[nn.Module] = []
        before = widths[0]
        for width in widths:
            changes = width != before
            first = BasicBlock(
                before,
                width,
                stride=2 if changes else 1,
                shortcut=shortcut(before, width) if changes else nn.Identity(),
            )
            others = [BasicBlock(width, width, stride=1, shortcut=nn.Identity()) for _ in range(n_blocks - 1)]
            stages.append(nn.Sequential(first, *others))
            before = width
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(before, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, 32, 32) to logits (batch, n_classes)."""
        return self.head(torch.flatten(self.pool(self.stages(self.stem(x))), 1))


def resnet20(*, in_channels: int = 3, n_classes: int = 10) -> nn.Module:
    """Return ResNet-20 of He et al. (2016), section 4.2: widths 16, 32, 64, shortcuts without weights.

    269,722 trainable parameters with 3 channels and 10 classes. Input (batch, in_channels, 32, 32), output logits
    (batch, n_classes); weights come from torch's global generator.
    """
    return ResNetCifar(
        in_channels=in_channels, n_classes=n_classes, widths=(16, 32, 64), n_blocks=3, shortcut=SubsampledShortcut
    )


def resnet18_cifar(*, in_channels: int = 3, n_classes: int = 10, width: int = 64) -> nn.Module:
    """Return ResNet-18 as the CIFAR literature uses it: 3 x 3 stem, no pool, convolutions without bias.

    11,173,962 parameters with 3 channels and 10 classes. Input (batch, in_channels, 32, 32), output logits
    (batch, n_classes); weights come from torch's global generator.

    Args:
        in_channels: channels of an input.
        n_classes: number of outputs.
        width: channels of the first stage, doubled from stage to stage.

    Raises:
        SettingError: one of them is below 1.
    """
    require_positive("resnet18_cifar", in_channels=in_channels, n_classes=n_classes, width=width)
    return ResNetCifar(
        in_channels=in_channels,
        n_classes=n_classes,
        widths=(width, 2 * width, 4 * width, 8 * width),
        n_blocks=2,
        shortcut=ProjectedShortcut,
    )
