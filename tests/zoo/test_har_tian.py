"""This file tests the sensor forms of Tian et al.: how a window is read, and which layers a selection leaves out."""

from __future__ import annotations

import pytest
import torch

from dwindle.errors import NetworkError, SelectionError
from dwindle.network.select import Select
from dwindle.zoo.har_tian import FRONT, SensorFront, alexnet_tian_har, resnet18_tian_har
from dwindle.zoo.networks import NETWORKS

FORMS = [name for name in NETWORKS if name.endswith("_har")]


def front(*, scrambles_channels=False):
    return SensorFront(5, scrambles_channels=scrambles_channels).eval()


def test_both_shapes_are_the_same_window():
    x = torch.randn(3, 9, 128)
    layer = front()
    assert layer(x).shape == (3, 9, 5, 5)
    assert torch.equal(layer(x), layer(x[:, :, None]))


def test_a_channel_of_the_image_is_a_channel_of_the_window():
    layer, x = front(), torch.randn(2, 9, 128)
    spread = layer.linear(x)
    expected = torch.nn.functional.layer_norm(spread.reshape(2, -1), (225,)).reshape(2, 9, 5, 5)
    torch.testing.assert_close(layer(x), expected)


def test_the_published_reading_is_kept_under_its_name():
    recorded = torch.randn(2, 128, 9)  # as the data set stores a window: time first
    layer = front(scrambles_channels=True)
    published = layer.norm(layer.linear(recorded.reshape(2, 9, 1, 128))).reshape(2, 9, 5, 5)
    assert torch.equal(layer(recorded.transpose(1, 2)), published)
    plain = front()
    plain.load_state_dict(layer.state_dict())
    assert not torch.allclose(plain(recorded.transpose(1, 2)), published)


@pytest.mark.parametrize("shape", [(2, 128, 9), (2, 9, 127), (2, 9, 1, 1, 128), (9, 128), (2, 1, 9, 128), (2, 1152)])
def test_another_shape_is_refused(shape):
    with pytest.raises(NetworkError, match="transpose"):
        front()(torch.zeros(shape))


@pytest.mark.parametrize("name", FORMS)
def test_the_front_can_be_left_out(name):
    with torch.device("meta"):
        network = NETWORKS[name]()
    everything, pruned = Select().resolve(network), Select(exclude=FRONT).resolve(network)
    assert set(everything) - set(pruned) == {"front.linear.weight"}
    assert all(key.startswith("network.") for key in pruned)
    assert {key for key, _ in network.named_parameters() if key.startswith("front.")} == {
        "front.linear.weight",
        "front.norm.weight",
        "front.norm.bias",
    }
    with pytest.raises(SelectionError, match=r"front\.\*"):
        Select(exclude=FRONT).resolve(network.network)


def test_the_option_reaches_the_front():
    with torch.device("meta"):
        assert alexnet_tian_har(scrambles_channels=True).front.scrambles_channels
        assert not resnet18_tian_har().front.scrambles_channels
