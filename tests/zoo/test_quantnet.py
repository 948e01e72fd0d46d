"""This file tests QuantNet: its size, its padding and its outputs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dwindle.errors import SettingError
from dwindle.zoo.quantnet import SamePadding, quantnet


def test_as_published():
    network = quantnet()
    assert sum(p.numel() for p in network.parameters()) == 545_889
    output = network.eval()(torch.randn(2, 3, 32, 32))
    assert output.shape == (2, 1)
    assert bool(((output > 0) & (output < 1)).all())


@given(st.integers(1, 3), st.integers(2, 5), st.integers(1, 40))
def test_any_size(in_channels, n_classes, image_size):
    network = quantnet(in_channels=in_channels, n_classes=n_classes, image_size=image_size).eval()
    assert network(torch.randn(2, in_channels, image_size, image_size)).shape == (2, n_classes)


def test_logits_are_not_squashed():
    network = quantnet(n_classes=3).eval()
    with torch.no_grad():
        network.head.bias.fill_(50.0)
        assert float(network(torch.zeros(1, 3, 32, 32)).min()) > 40


@pytest.mark.parametrize(("size", "before", "after"), [(32, 0, 1), (8, 0, 1), (7, 1, 1), (1, 1, 1), (2, 0, 1)])
def test_padding_is_that_of_tensorflow(size, before, after):
    padded = SamePadding(size)(torch.ones(1, 1, size, size))
    assert padded.shape == (1, 1, size + before + after, size + before + after)
    assert bool((padded[..., before : before + size, before : before + size] == 1).all())
    assert float(padded.sum()) == size * size


def test_the_first_layer_is_he_normal_and_the_last_glorot():
    torch.manual_seed(0)
    network = quantnet(in_channels=64)
    assert float(network.features[1].weight.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    assert not network.head.bias.any()


@pytest.mark.parametrize("arguments", [{"in_channels": 0}, {"n_classes": 0}, {"image_size": 0}])
def test_sizes_below_one_are_refused(arguments):
    with pytest.raises(SettingError, match="must be at least 1"):
        quantnet(**arguments)
