"""This file tests the door to timm and torchvision without them: absent packages, and stand-ins that load like them."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch

from dwindle.errors import RuntimeUnavailableError, SettingError
from dwindle.zoo import vision
from dwindle.zoo.vision import vision_network

TORCHVISION = """
import torch
from torchvision import models

try:
    torch.ops.torchvision.nms
except AttributeError as error:
    raise RuntimeError("operator torchvision::nms does not exist") from error
"""
MODELS = """
from torch import nn

def list_models():
    return ["resnet18", "vgg16"]

def get_model(name, weights, num_classes):
    return nn.Linear(3, num_classes)
"""
TIMM = """
import torchvision
from torch import nn

def is_model(name):
    return name in list_models()

def list_models():
    return ["resnet18", "mobilenetv3_small_100"]

def create_model(name, pretrained, num_classes, in_chans):
    if pretrained:
        raise ValueError("a download")
    return nn.Linear(in_chans, num_classes)
"""
ABSENT = importlib.util.find_spec("torchvision") is None and importlib.util.find_spec("timm") is None
pytestmark = pytest.mark.skipif(not ABSENT, reason="the real packages are installed; test_vision.py tests those")


def forget():
    for name in [name for name in sys.modules if name.partition(".")[0] in {"torchvision", "timm"}]:
        del sys.modules[name]


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """Put stand-ins on the path; torchvision's looks up an operator that nobody registered, as a foreign build does."""
    for package, files in {
        "torchvision": {"__init__.py": TORCHVISION, "models.py": MODELS},
        "timm": {"__init__.py": TIMM},
    }.items():
        (tmp_path / package).mkdir()
        for file, text in files.items():
            (tmp_path / package / file).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(vision, "_defined", [])
    forget()
    yield tmp_path
    forget()
    for library in vision._defined:
        library._destroy()


def test_absent_packages_are_one_error_with_the_command():
    with pytest.raises(RuntimeUnavailableError, match=r"need torchvision: pip install 'dwindle\[vision\]'"):
        vision_network("resnet18")


def test_operators_that_nobody_registered_do_not_matter(stand_ins):
    assert vision_network("vgg16", n_classes=4)(torch.zeros(1, 3)).shape == (1, 4)
    assert len(vision._defined) == 1
    assert torch.ops.torchvision.nms.default is not None
    vision_network("vgg16")
    assert len(vision._defined) == 1


def test_which_library_a_name_means(stand_ins):
    assert vision_network("resnet18", in_channels=5).in_features == 5
    assert vision_network("timm/resnet18", in_channels=1).in_features == 1
    with pytest.raises(SettingError, match="takes 3 input channels, got in_channels=5"):
        vision_network("torchvision/resnet18", in_channels=5)


@pytest.mark.parametrize("name", ["resnet81", "timm/vgg16", "torchvision/mobilenetv3_small_100", "", "timm/"])
def test_an_unknown_name_lists_the_nearest(name, stand_ins):
    with pytest.raises(SettingError, match=r"unknown network .* the nearest names are \["):
        vision_network(name)


@pytest.mark.parametrize("arguments", [{"n_classes": 0}, {"in_channels": 0}])
def test_counts_below_one_are_refused(arguments):
    with pytest.raises(SettingError, match="each must be at least 1"):
        vision_network("resnet18", **arguments)


def test_an_unknown_library_is_refused():
    with pytest.raises(SettingError, match="timm/NAME or torchvision/NAME"):
        vision_network("keras/resnet50")


def test_a_torchvision_that_does_not_load_is_one_error(stand_ins):
    (stand_ins / "torchvision" / "__init__.py").write_text("raise RuntimeError('built for another torch')")
    with pytest.raises(RuntimeUnavailableError, match=r"does not load \(built for another torch\)"):
        vision_network("resnet18")


def test_a_timm_without_torchvision_is_one_error(stand_ins):
    (stand_ins / "torchvision" / "__init__.py").write_text("import no_such_package_of_vision")
    with pytest.raises(RuntimeUnavailableError, match="need no_such_package_of_vision"):
        vision_network("resnet18")
