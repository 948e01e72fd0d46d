"""This file lists the networks of the zoo by name, for those who choose one at run time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from torch import nn

from dwindle.zoo.alexnet_tian import alexnet_tian
from dwindle.zoo.har_tian import alexnet_tian_har, resnet18_tian_har, vgg11_bn_tian_har, vgg19_bn_tian_har
from dwindle.zoo.mobilenet_v1 import mobilenet_v1
from dwindle.zoo.mobilenet_v2 import mobilenet_v2
from dwindle.zoo.quantnet import quantnet
from dwindle.zoo.recurrent import sensor_gru, sensor_lstm
from dwindle.zoo.resnet import resnet18, resnet50
from dwindle.zoo.resnet18_tian import resnet18_tian
from dwindle.zoo.resnet_cifar import resnet18_cifar, resnet20
from dwindle.zoo.vgg16 import vgg16
from dwindle.zoo.vgg_tian import vgg11_bn_tian, vgg19_bn_tian

BUILDERS: Final = (
    alexnet_tian, resnet18_tian, vgg11_bn_tian, vgg19_bn_tian,
    alexnet_tian_har, resnet18_tian_har, vgg11_bn_tian_har, vgg19_bn_tian_har,
    quantnet, resnet20, resnet18_cifar,
    resnet18, resnet50, vgg16, mobilenet_v1, mobilenet_v2,
    sensor_lstm, sensor_gru,
)  # fmt: skip
NETWORKS: Final[Mapping[str, Callable[..., nn.Module]]] = {builder.__name__: builder for builder in BUILDERS}
"""Name -> builder; every builder takes keyword arguments only and has a default for each of them."""
