"""This file holds VGG-11 and VGG-19 with batch norm as in Tian et al. (2022): 32 x 32 input, bias-free convolutions."""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn

from dwindle.zoo.arguments import require_positive

WIDTHS: Final = (64, 128, 256, 512, 512)
"""Channels of the five stages; each ends in a pool that halves the image."""


class VggTian(nn.Module):
    """The network behind `vgg11_bn_tian` and `vgg19_bn_tian`; `depths` are the convolutions of each stage."""

    def __init__(self, *, in_channels: int, n_classes: int, n_hidden: int, depths: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = in_channels
        for width, depth in zip(WIDTHS, depths, strict=True):
            for _ in range(depth):
                layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                before = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(before, n_hidden),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(n_hidden, n_hidden),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(n_hidden, n_classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, 32, 32) to logits (batch, n_classes)."""
        return self.classifier(self.features(x))


def vgg11_bn_tian(*, in_channels: int = 3, n_classes: int = 10, n_hidden: int = 4096) -> nn.Module:
    """Return VGG-11 in the form of Tian et al. (2022); 28,146,762 parameters with 3 input channels and 10 classes.

    `n_hidden` is the width of the two hidden linear layers. Input (batch, in_channels, 32, 32), output logits
    (batch, n_classes); weights come from torch's global generator.

    Raises:
        SettingError: an argument is below 1.
    """
    require_positive("vgg11_bn_tian", in_channels=in_channels, n_classes=n_classes, n_hidden=n_hidden)
    return VggTian(in_channels=in_channels, n_classes=n_classes, n_hidden=n_hidden, depths=(1, 1, 2, 2, 2))


def vgg19_bn_tian(*, in_channels: int = 3, n_classes: int = 10, n_hidden: int = 4096) -> nn.Module:
    """Return VGG-19 in the form of Tian et al. (2022); 38,953,418 parameters with 3 input channels and 10 classes.

    The paper's tables round this to 40.0 M. `n_hidden` is the width of the two hidden linear layers. Input
    (batch, in_channels, 32, 32), output logits (batch, n_classes); weights come from torch's global generator.

    Raises:
        SettingError: an argument is below 1.
    """
    require_positive("vgg19_bn_tian", in_channels=in_channels, n_classes=n_classes, n_hidden=n_hidden)
    return VggTian(in_channels=in_channels, n_classes=n_classes, n_hidden=n_hidden, depths=(2, 2, 4, 4, 4))
