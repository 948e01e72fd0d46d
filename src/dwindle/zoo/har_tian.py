"""This file holds the four networks of Tian et al. (2022) for sensor windows, behind a front that makes images."""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn

from dwindle.errors import NetworkError
from dwindle.zoo.alexnet_tian import alexnet_tian
from dwindle.zoo.resnet18_tian import resnet18_tian
from dwindle.zoo.vgg_tian import vgg11_bn_tian, vgg19_bn_tian

N_CHANNELS: Final = 9
"""Three axes each of body acceleration, angular velocity and total acceleration."""
N_READINGS: Final = 128
N_ACTIVITIES: Final = 6
FRONT: Final = ("front.*",)
"""The layers that the paper neither prunes nor clusters: `Select(exclude=FRONT)`; in TOML `exclude = ["front.*"]`."""


class SensorFront(nn.Module):
    """Spread each channel's 128 readings over an image of `side` x `side` pixels, one linear map for all channels."""

    def __init__(self, side: int, *, scrambles_channels: bool) -> None:
        super().__init__()
        self.side = side
        self.scrambles_channels = scrambles_channels
        self.linear = nn.Linear(N_READINGS, side * side, bias=False)
        self.norm = nn.LayerNorm([N_CHANNELS, 1, side * side])
        nn.init.kaiming_normal_(self.linear.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, 9, 128) or (batch, 9, 1, 128) to (batch, 9, side, side)."""
        if tuple(x.shape[1:]) not in {(N_CHANNELS, N_READINGS), (N_CHANNELS, 1, N_READINGS)}:
            raise NetworkError(
                f"sensor windows are (batch, {N_CHANNELS}, {N_READINGS}) or (batch, {N_CHANNELS}, 1, {N_READINGS}), "
                f"got {tuple(x.shape)}; transpose (batch, {N_READINGS}, {N_CHANNELS}), a reshape would mix its channels"
            )
        windows = x.reshape(x.shape[0], N_CHANNELS, N_READINGS)
        if self.scrambles_channels:
            windows = windows.transpose(1, 2)
        spread = self.norm(self.linear(windows.reshape(x.shape[0], N_CHANNELS, 1, N_READINGS)))
        return spread.reshape(x.shape[0], N_CHANNELS, self.side, self.side)


class SensorForm(nn.Module):
    """A network of images behind a `SensorFront`: `front.*` are the new layers, `network.*` those of the network."""

    def __init__(self, network: nn.Module, *, side: int, scrambles_channels: bool) -> None:
        super().__init__()
        self.front = SensorFront(side, scrambles_channels=scrambles_channels)
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, 9, 128) or (batch, 9, 1, 128) to logits (batch, 6)."""
        return self.network(self.front(x))


def alexnet_tian_har(*, scrambles_channels: bool = False, n_hidden: int = 4096) -> nn.Module:
    """Return `alexnet_tian` for UCI-HAR; 20,953,048 parameters, 20.95 M in the paper.

    Args:
        scrambles_channels: reads a window as the published experiments do, which reshape (128, 9) to (9, 1, 128)
            without a transpose: each of the nine "channels" then holds 14 consecutive readings of all nine sensors.
        n_hidden: width of the two hidden linear layers.

    Input windows (batch, 9, 128) or (batch, 9, 1, 128), whatever `scrambles_channels` says; output logits (batch, 6);
    weights come from torch's global generator.
    """
    network = alexnet_tian(in_channels=N_CHANNELS, n_classes=N_ACTIVITIES, n_hidden=n_hidden)
    return SensorForm(network, side=63, scrambles_channels=scrambles_channels)


def resnet18_tian_har(*, scrambles_channels: bool = False) -> nn.Module:
    """Return `resnet18_tian` for UCI-HAR; 11,369,624 parameters; all else as in `alexnet_tian_har`."""
    network = resnet18_tian(in_channels=N_CHANNELS, n_classes=N_ACTIVITIES)
    return SensorForm(network, side=33, scrambles_channels=scrambles_channels)


def vgg11_bn_tian_har(*, scrambles_channels: bool = False, n_hidden: int = 4096) -> nn.Module:
    """Return `vgg11_bn_tian` for UCI-HAR; 28,283,334 parameters; all else as in `alexnet_tian_har`."""
    network = vgg11_bn_tian(in_channels=N_CHANNELS, n_classes=N_ACTIVITIES, n_hidden=n_hidden)
    return SensorForm(network, side=32, scrambles_channels=scrambles_channels)


def vgg19_bn_tian_har(*, scrambles_channels: bool = False, n_hidden: int = 4096) -> nn.Module:
    """Return `vgg19_bn_tian` for UCI-HAR; 39,089,990 parameters; all else as in `alexnet_tian_har`."""
    network = vgg19_bn_tian(in_channels=N_CHANNELS, n_classes=N_ACTIVITIES, n_hidden=n_hidden)
    return SensorForm(network, side=32, scrambles_channels=scrambles_channels)
