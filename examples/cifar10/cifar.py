"""The user's side of the jobs in this folder: two networks, their data, and how training images are varied."""

from __future__ import annotations

from torch import nn

from dwindle.data.augment import Chain, RandomCrop, RandomFlip
from dwindle.data.cifar10 import load_cifar10
from dwindle.data.splits import Splits
from dwindle.zoo.mobilenet_v2 import mobilenet_v2
from dwindle.zoo.resnet_cifar import resnet20

augment = Chain((RandomCrop(padding=4), RandomFlip()))


def network_resnet20() -> nn.Module:
    """ResNet-20 of He et al., 0.27 million weights."""
    return resnet20()


def network_mobilenet_v2() -> nn.Module:
    """MobileNetV2 at full width, the stem's stride taken out for images of 32 x 32; 2.2 million weights."""
    return mobilenet_v2(n_classes=10, n_unit_strides=1)


def data() -> Splits:
    """CIFAR-10: 45,000 images to train, 5,000 to validate, 10,000 to test."""
    return load_cifar10()
