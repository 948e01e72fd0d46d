"""This file tests networks of the real timm and torchvision, and that their checkpoints fit ours, answer for answer."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from safetensors.torch import save_file

from dwindle.bench.deployment import deploy
from dwindle.errors import SettingError
from dwindle.network.compressed import CompressedModel
from dwindle.zoo.networks import NETWORKS
from dwindle.zoo.standard_names import load_standard
from dwindle.zoo.vision import vision_network

PACKAGES = ("torchvision", "timm")
ABSENT = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(ABSENT), reason=f"not installed: {', '.join(ABSENT)} (pip install 'dwindle[vision]')"),
    pytest.mark.filterwarnings("default"),  # theirs are not ours to turn into errors
]
STANDARD = [
    ("resnet18", "torchvision/resnet18"),
    ("resnet18", "timm/resnet18"),
    ("resnet50", "torchvision/resnet50"),
    ("resnet50", "timm/resnet50"),
    ("mobilenet_v2", "torchvision/mobilenet_v2"),
    ("mobilenet_v2", "timm/mobilenetv2_100"),
    ("mobilenet_v1", "timm/mobilenetv1_100"),
    pytest.param("vgg16", "torchvision/vgg16", marks=pytest.mark.slow),
    pytest.param("vgg16", "timm/vgg16", marks=pytest.mark.slow),
]


def settled(network):
    """Give every batch norm other statistics than a fresh one's, so that mixing two up shows."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.8, 1.2)
            torch.nn.init.uniform_(module.weight, 0.8, 1.2)
            torch.nn.init.uniform_(module.bias, -0.1, 0.1)
    return network.eval()


@pytest.mark.parametrize(("ours", "theirs"), STANDARD)
def test_their_checkpoint_gives_their_answer(ours, theirs, tmp_path):
    reference = settled(vision_network(theirs))
    tensors = {name: tensor.contiguous() for name, tensor in reference.state_dict().items()}
    save_file(tensors, tmp_path / "w.safetensors")
    network = NETWORKS[ours]().eval()
    load_standard(network, tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").unlink()
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = reference(x)
        difference = (network(x) - expected).abs().max() / expected.abs().max()
    assert float(difference) <= 1e-5


@pytest.mark.parametrize("name", ["timm/mobilenetv3_small_050", "torchvision/shufflenet_v2_x0_5"])
def test_a_network_of_theirs_is_deployed(name, tmp_path):
    network = settled(vision_network(name, n_classes=5))
    x = torch.randn(2, 3, 64, 64)
    deployment = deploy(CompressedModel.dense(network), x, tmp_path)
    assert [m.conditions["within_bound"] for m in deployment.parity if m.metric.name == "parity"] == ["yes", "yes"]


def test_other_channels():
    assert vision_network("resnet18", n_classes=2, in_channels=1)(torch.zeros(1, 1, 64, 64)).shape == (1, 2)
    with pytest.raises(SettingError, match="takes 3 input channels"):
        vision_network("torchvision/resnet18", in_channels=1)


def test_the_trainer_still_imports():
    vision_network("torchvision/squeezenet1_1")
    assert importlib.import_module("lightning_fabric")
    assert importlib.import_module("dwindle.network.fabric_trainer")
