"""This file holds VGG-16 for ImageNet (Simonyan and Zisserman, 2015, configuration D): no batch norm, with biases."""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn

from dwindle.zoo.arguments import require_positive

STAGES: Final = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and number of convolutions between two pools."""


class Vgg16(nn.Module):
    """The network behind `vgg16`; names of layers are those of the standard checkpoints."""

    def __init__(self, *, in_channels: int, n_classes: int, image_size: int, n_hidden: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = in_channels
        for width, depth in STAGES:
            for _ in range(depth):
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.flatten = nn.Flatten()
        side = image_size // 2 ** len(STAGES)
        self.classifier = nn.Sequential(
            nn.Linear(before * side * side, n_hidden),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(n_hidden, n_hidden),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(n_hidden, n_classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType] (bias=True)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, image_size, image_size) to logits (batch, n_classes)."""
        return self.classifier(self.flatten(self.features(x)))


def vgg16(*, in_channels: int = 3, n_classes: int = 1000, image_size: int = 224, n_hidden: int = 4096) -> nn.Module:
    """Return VGG-16; 138,357,544 parameters with 3 channels, 1,000 classes and 224 x 224 images.

    Args:
        in_channels: channels of an input.
        n_classes: number of outputs.
        image_size: of the inputs, 32 or more; the first linear layer holds 512 x (image_size // 32)^2 weights for each
            hidden unit. At 224 no adaptive pool is needed: the features are 7 x 7 already.
        n_hidden: width of the two hidden linear layers.

    Input (batch, in_channels, image_size, image_size), output logits (batch, n_classes); weights come from torch's
    global generator. The two VGGs of Tian et al. are in `vgg_tian`.

    Raises:
        SettingError: an argument is below 1, or the images are smaller than 32 x 32.
    """
    require_positive(
        "vgg16", in_channels=in_channels, n_classes=n_classes, n_hidden=n_hidden, image_size=image_size // 32
    )
    return Vgg16(in_channels=in_channels, n_classes=n_classes, image_size=image_size, n_hidden=n_hidden)
