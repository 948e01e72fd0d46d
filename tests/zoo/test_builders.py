"""This file tests the arguments of the builders: what they change, what is refused, and how weights start."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dwindle.errors import NetworkError, SettingError
from dwindle.zoo.alexnet_tian import alexnet_tian
from dwindle.zoo.mobilenet_v1 import mobilenet_v1
from dwindle.zoo.mobilenet_v2 import mobilenet_v2
from dwindle.zoo.networks import NETWORKS
from dwindle.zoo.recurrent import sensor_gru, sensor_lstm
from dwindle.zoo.resnet import resnet18
from dwindle.zoo.resnet_cifar import SubsampledShortcut, resnet18_cifar
from dwindle.zoo.vgg16 import vgg16
from dwindle.zoo.vgg_tian import vgg11_bn_tian

CHECKED = [
    name for name in NETWORKS if not name.endswith("_har") and name not in {"resnet18_tian", "resnet20", "mobilenet_v2"}
]


@pytest.mark.parametrize("name", CHECKED)
@pytest.mark.parametrize("argument", ["in_channels", "n_classes"])
def test_counts_below_one_are_refused(name, argument):
    with pytest.raises(SettingError, match=f"{name}.*{argument}=0"):
        NETWORKS[name](**{argument: 0})


@pytest.mark.parametrize(
    ("builder", "arguments"),
    [
        (vgg16, {"image_size": 31}),
        (resnet18_cifar, {"width": 0}),
        (vgg16, {"n_hidden": 0}),
        (mobilenet_v1, {"width": 0.0}),
        (mobilenet_v1, {"width": float("nan")}),
        (mobilenet_v1, {"dropout": 1.0}),
        (mobilenet_v2, {"width": -1.0}),
        (mobilenet_v2, {"n_unit_strides": 6}),
        (sensor_lstm, {"n_hidden": 0}),
        (sensor_gru, {"n_layers": 0}),
        (sensor_lstm, {"readings_per_step": 0}),
    ],
)
def test_settings_that_cannot_work_are_refused(builder, arguments):
    with pytest.raises(SettingError, match=builder.__name__):
        builder(**arguments)


@pytest.mark.parametrize(("builder", "size"), [(alexnet_tian, 63), (vgg11_bn_tian, 32), (resnet18, 32)])
def test_grey_images_and_other_classes(builder, size):
    with torch.device("meta"):
        network = builder(in_channels=1, n_classes=7)
        assert network(torch.zeros(2, 1, size, size)).shape == (2, 7)


def test_the_networks_of_the_paper_have_the_biases_of_the_paper():
    with torch.device("meta"):
        networks = alexnet_tian(), vgg11_bn_tian()
    for network in networks:
        assert all(m.bias is None for m in network.modules() if isinstance(m, nn.Conv2d))
        assert all(m.bias is not None for m in network.modules() if isinstance(m, nn.Linear))


def test_vgg16_reads_other_sizes():
    with torch.device("meta"):
        network = vgg16(image_size=70, n_hidden=8, n_classes=3)
        assert network.classifier[0].in_features == 512 * 2 * 2
        assert network(torch.zeros(1, 3, 70, 70)).shape == (1, 3)


@pytest.mark.parametrize(("width", "last"), [(1.0, 1024), (0.25, 256), (0.001, 8)])
def test_mobilenet_v1_is_narrowed_by_its_width(width, last):
    with torch.device("meta"):
        network = mobilenet_v1(width=width, n_classes=5)
    assert network.classifier.in_features == last
    assert sum(isinstance(m, nn.Conv2d) for m in network.modules()) == 27


def test_mobilenet_v2_halves_less_often_when_told():
    x = torch.zeros(2, 3, 32, 32, device="meta")
    with torch.device("meta"):
        sides = [mobilenet_v2(n_unit_strides=n).features(x).shape[-1] for n in range(6)]
    assert sides == [1, 2, 4, 8, 16, 32]


def test_a_shortcut_without_weights_pads_the_new_channels():
    x = torch.randn(2, 4, 6, 6)
    y = SubsampledShortcut(4, 9)(x)
    assert y.shape == (2, 9, 3, 3)
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert not y[:, :2].any()
    assert not y[:, 6:].any()


def test_kaiming_start():
    network = vgg11_bn_tian()
    assert float(network.features[0].weight.detach().std()) == pytest.approx((2 / 27) ** 0.5, rel=0.1)
    assert float(network.classifier[1].weight.detach().std()) == pytest.approx((2 / 512) ** 0.5, rel=0.02)


@pytest.mark.parametrize("builder", [sensor_lstm, sensor_gru])
def test_the_order_of_readings_matters_and_any_length_is_read(builder):
    network = builder(n_layers=2).eval()
    x = torch.randn(2, 9, 20)
    with torch.no_grad():
        assert network(x).shape == network(x[:, :, :5]).shape == (2, 6)
        assert not torch.allclose(network(x), network(x.flip(2)))
        torch.testing.assert_close(network(x)[:1], network(x[:1]))


@pytest.mark.parametrize("builder", [sensor_lstm, sensor_gru])
def test_several_readings_are_taken_at_a_time(builder):
    network = builder(readings_per_step=4).eval()
    x = torch.randn(2, 9, 20)
    with torch.no_grad():
        steps = torch.stack([x[:, :, i : i + 4].transpose(1, 2).flatten(1) for i in range(0, 20, 4)], dim=1)
        expected = network.head(network.recurrence(steps)[0][:, -1])
        torch.testing.assert_close(network(x), expected)
    with pytest.raises(NetworkError, match=r"\(batch, 9, time\), time a multiple of 4, got \(2, 9, 18\)"):
        network(x[:, :, :18])


@pytest.mark.parametrize("shape", [(2, 128, 9), (9, 128), (2, 9, 1, 128)])
def test_windows_of_another_shape_are_refused(shape):
    with pytest.raises(NetworkError, match="channels before the time"):
        sensor_lstm()(torch.zeros(shape))


def test_forget_gates_start_open():
    lstm = sensor_lstm(n_hidden=4, n_layers=2).recurrence
    for layer in range(2):
        total = getattr(lstm, f"bias_ih_l{layer}") + getattr(lstm, f"bias_hh_l{layer}")
        assert bool((total[4:8] == 1).all())
        assert not bool((total[:4] == 1).any())


@pytest.mark.parametrize(("width", "n"), [(16, 701_466), (64, 11_173_962)])
def test_resnet18_cifar_scales_with_its_width(width, n):
    assert sum(p.numel() for p in resnet18_cifar(width=width).parameters()) == n
