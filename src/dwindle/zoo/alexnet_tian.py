"""This file holds AlexNet as in Tian et al. (2022): 63 x 63 input, convolutions without bias."""

from __future__ import annotations

from torch import Tensor, nn

from dwindle.zoo.arguments import require_positive


class AlexNetTian(nn.Module):
    """The network behind `alexnet_tian`."""

    def __init__(self, *, in_channels: int, n_classes: int, n_hidden: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 64, 11, stride=4, padding=2, bias=False),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(64, 192, 5, padding=2, bias=False),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(192, 384, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(),
            nn.Linear(256, n_hidden),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(n_hidden, n_hidden),
            nn.ReLU(),
            nn.Linear(n_hidden, n_classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, 63, 63) to logits (batch, n_classes)."""
        return self.classifier(self.features(x))


def alexnet_tian(*, in_channels: int = 3, n_classes: int = 10, n_hidden: int = 4096) -> nn.Module:
    """Return AlexNet in the form of Tian et al. (2022); 20,343,498 parameters with 3 input channels and 10 classes.

    `n_hidden` is the width of the two hidden linear layers. Input (batch, in_channels, 63, 63), output logits
    (batch, n_classes); weights come from torch's global generator.

    Raises:
        SettingError: an argument is below 1.
    """
    require_positive("alexnet_tian", in_channels=in_channels, n_classes=n_classes, n_hidden=n_hidden)
    return AlexNetTian(in_channels=in_channels, n_classes=n_classes, n_hidden=n_hidden)
