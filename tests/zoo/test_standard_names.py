"""This file tests loading checkpoints that have torchvision's and timm's names; test_vision.py compares answers."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from dwindle.errors import CheckpointError
from dwindle.zoo.mobilenet_v2 import mobilenet_v2
from dwindle.zoo.resnet import resnet18
from dwindle.zoo.standard_names import COUNTER, load_standard, timm_mobilenet_v2, timm_vgg16
from dwindle.zoo.vgg16 import vgg16

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
BLOCKS = (1, 2, 3, 4, 3, 3, 1)


def tensors_of(network):
    return {name: torch.rand_like(tensor.float()).to(tensor.dtype) for name, tensor in network.state_dict().items()}


def assert_holds(network, tensors):
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, tensors[name]), name


def timm_mobilenet_v2_names():
    """Yield the names of timm 1.0's `mobilenetv2_100`, written down from its layers."""
    yield "conv_stem.weight"
    yield "conv_head.weight"
    yield from ("classifier.weight", "classifier.bias")
    yield from (f"bn{i}.{tensor}" for i in (1, 2) for tensor in NORM)
    for stage, n_blocks in enumerate(BLOCKS):
        convolutions = ("conv_dw", "conv_pw") if stage == 0 else ("conv_pw", "conv_dw", "conv_pwl")
        for block in range(n_blocks):
            for i, convolution in enumerate(convolutions, 1):
                yield f"blocks.{stage}.{block}.{convolution}.weight"
                yield from (f"blocks.{stage}.{block}.bn{i}.{tensor}" for tensor in NORM)


def timm_vgg16_names():
    """Yield the names of timm 1.0's `vgg16`."""
    for layer in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28):
        yield from (f"features.{layer}.weight", f"features.{layer}.bias")
    for layer in ("pre_logits.fc1", "pre_logits.fc2", "head.fc"):
        yield from (f"{layer}.weight", f"{layer}.bias")


@pytest.mark.parametrize(
    ("builder", "names", "naming"),
    [(mobilenet_v2, timm_mobilenet_v2_names, timm_mobilenet_v2), (vgg16, timm_vgg16_names, timm_vgg16)],
)
def test_the_names_of_timm_are_ours_one_for_one(builder, names, naming):
    theirs = list(names())
    with torch.device("meta"):
        ours = builder().state_dict()
    assert len(theirs) == len(ours)
    assert {naming(name) for name in theirs} == set(ours)


def test_a_checkpoint_of_timm_is_renamed(tmp_path):
    network = mobilenet_v2(n_classes=2, width=0.1)
    tensors = tensors_of(network)
    save_file({name: tensors[timm_mobilenet_v2(name)] for name in timm_mobilenet_v2_names()}, tmp_path / "w")
    load_standard(network, tmp_path / "w")
    assert_holds(network, tensors)


def test_convolutions_that_stand_for_linear_layers_are_made_flat(tmp_path):
    network = vgg16(image_size=64, n_hidden=4, n_classes=2)
    tensors = tensors_of(network)
    stored = {name: tensors[timm_vgg16(name)] for name in timm_vgg16_names()}
    stored["pre_logits.fc1.weight"] = stored["pre_logits.fc1.weight"].reshape(4, 512, 2, 2)
    stored["pre_logits.fc2.weight"] = stored["pre_logits.fc2.weight"].reshape(4, 4, 1, 1)
    save_file(stored, tmp_path / "w")
    load_standard(network, tmp_path / "w")
    assert_holds(network, tensors)


def test_old_files_without_counters_and_wrapped_names(tmp_path):
    network = resnet18(n_classes=2)
    tensors = tensors_of(network)
    stored = {f"module.{name}": tensor for name, tensor in tensors.items() if not name.endswith(COUNTER)}
    save_file(stored, tmp_path / "w")
    load_standard(network, tmp_path / "w")
    assert_holds(network, {**tensors, **{name: torch.tensor(0) for name in tensors if name.endswith(COUNTER)}})


def test_another_network_is_refused_and_nothing_is_changed(tmp_path):
    network = mobilenet_v2(n_classes=2, width=0.1)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    tensors = tensors_of(network)
    del tensors["classifier.1.bias"]
    save_file(tensors, tmp_path / "w")
    with pytest.raises(CheckpointError, match=r"1 missing \('classifier\.1\.bias'"):
        load_standard(network, tmp_path / "w")
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "w")
    with pytest.raises(CheckpointError, match="1 unexpected"):
        load_standard(network, tmp_path / "w")
    save_file({}, tmp_path / "w")
    with pytest.raises(CheckpointError, match="missing"):
        load_standard(network, tmp_path / "w")
    assert_holds(network, before)


def test_other_classes_are_refused_by_shape(tmp_path):
    save_file(tensors_of(mobilenet_v2(n_classes=3, width=0.1)), tmp_path / "w")
    with pytest.raises(CheckpointError, match=r"'classifier\.1\.(weight|bias)' has shape \(3,"):
        load_standard(mobilenet_v2(n_classes=2, width=0.1), tmp_path / "w")
