"""This file tests ResNet-18 of Tian et al.: its size, its shape and that it can be captured."""

from __future__ import annotations

import pytest
import torch

from dwindle.zoo.resnet18_tian import resnet18_tian


@pytest.mark.parametrize(("in_channels", "n_classes", "n_parameters"), [(3, 10, 11_200_010), (1, 10, 11_193_738)])
def test_size_and_output(in_channels, n_classes, n_parameters):
    network = resnet18_tian(in_channels=in_channels, n_classes=n_classes).eval()
    assert sum(p.numel() for p in network.parameters()) == n_parameters
    with torch.no_grad():
        assert network(torch.randn(2, in_channels, 33, 33)).shape == (2, n_classes)


def test_the_projections_are_bare_convolutions():
    network = resnet18_tian()
    projections = [m for name, m in network.named_modules() if name.endswith("shortcut")]
    assert [type(p).__name__ for p in projections].count("Conv2d") == 3
    assert all(p.bias is not None for p in projections if isinstance(p, torch.nn.Conv2d))
