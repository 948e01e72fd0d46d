"""This file tests every network of the zoo: its size, one step of training, and the files that it is written into."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from dwindle.bench.deployment import deploy, model_outputs
from dwindle.container import read_weights
from dwindle.network.compressed import CompressedModel
from dwindle.network.select import Select
from dwindle.recipe import Recipe
from dwindle.technique import Context
from dwindle.techniques.cluster import Cluster
from dwindle.techniques.fold_batchnorm import FoldBatchNorm
from dwindle.techniques.prune_weights import PruneWeights
from dwindle.techniques.quantize_static import QuantizeStatic
from dwindle.zoo.har_tian import FRONT
from dwindle.zoo.networks import NETWORKS

PARAMETERS = {
    "alexnet_tian": 20_343_498,
    "resnet18_tian": 11_200_010,
    "vgg11_bn_tian": 28_146_762,
    "vgg19_bn_tian": 38_953_418,
    "alexnet_tian_har": 20_953_048,
    "resnet18_tian_har": 11_369_624,
    "vgg11_bn_tian_har": 28_283_334,
    "vgg19_bn_tian_har": 39_089_990,
    "quantnet": 545_889,
    "resnet20": 269_722,
    "resnet18_cifar": 11_173_962,
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "vgg16": 138_357_544,
    "mobilenet_v1": 4_231_976,
    "mobilenet_v2": 3_504_872,
    "sensor_lstm": 19_590,
    "sensor_gru": 14_790,
}
"""As in the tables of the papers; for those that print rounded numbers, the layers' sum."""
SHAPES = {
    "alexnet_tian": (3, 63, 63),
    "resnet18_tian": (3, 33, 33),
    # 1 x 1 pixels at the end, and two examples, would leave a batch norm two values.
    "resnet18": (3, 64, 64),
    "resnet50": (3, 64, 64),
    "mobilenet_v1": (3, 64, 64),
    "mobilenet_v2": (3, 64, 64),
    # Capturing a recurrent layer costs time for each reading; the layers are the same at any length.
    "sensor_lstm": (9, 16),
    "sensor_gru": (9, 16),
}
WIDE = [name for name in PARAMETERS if name.startswith(("alexnet", "vgg"))]
ARGUMENTS = {name: {"n_hidden": 64} for name in WIDE}
ARGUMENTS["vgg16"]["image_size"] = 32
"""Every layer, but narrow linear ones, which hold most of the weights: 553 MB in a whole VGG-16."""


def network_of(name):
    return NETWORKS[name](**ARGUMENTS.get(name, {}))


def batch_of(name, n):
    shape = SHAPES.get(name, (9, 128) if name.endswith("_har") else (3, 32, 32))
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(1))


def trained_one_batch(name):
    network, x = network_of(name).train(), batch_of(name, 2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # this batch's statistics, or values grow from block to block in eval mode
    before = {key: value.clone() for key, value in network.named_parameters()}
    output = network(x)
    if output.shape[1] == 1:
        loss = functional.binary_cross_entropy(output, torch.ones_like(output))
    else:
        loss = functional.cross_entropy(output, torch.tensor([0, 1]))
    assert bool(torch.isfinite(loss))
    loss.backward()
    torch.optim.SGD(network.parameters(), lr=1e-3).step()
    changed = [key for key, value in network.named_parameters() if not torch.equal(value, before[key])]
    return network.eval(), changed


def within_bounds(deployment):
    return {
        str(measured.conditions["format"]): measured.conditions["within_bound"]
        for measured in deployment.parity
        if measured.metric.name == "parity"
    }


def test_every_network_is_here():
    assert PARAMETERS.keys() == NETWORKS.keys()


@pytest.mark.parametrize("name", PARAMETERS)
def test_sizes_are_as_published(name):
    with torch.device("meta"):
        network = NETWORKS[name]()
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_it_trains_and_its_files_answer_as_it_does(name, tmp_path):
    network, changed = trained_one_batch(name)
    assert {Select().resolve(network)[0], Select().resolve(network)[-1]} <= set(changed)  # first and last layer learn
    x = batch_of(name, 2)
    model = CompressedModel.dense(network)
    deployment = deploy(model, x, tmp_path)
    assert within_bounds(deployment) == {"dwn": "yes", "onnx": "yes"}
    weights = read_weights(deployment.artifacts["dwn"].path)
    tensors = network.state_dict()
    assert weights.keys() == tensors.keys()
    for key, array in weights.items():
        np.testing.assert_array_equal(array, tensors[key].numpy(), err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARAMETERS)
def test_it_goes_through_every_kind_of_compression(name, tmp_path):
    network, _ = trained_one_batch(name)
    x = batch_of(name, 4)
    select = Select(exclude=FRONT) if name.endswith("_har") else Select()
    steps = [PruneWeights(sparsity=0.5, select=select), Cluster(codebook_size=15, select=select)]
    dense = CompressedModel.dense(network)
    floats = Recipe((*steps, FoldBatchNorm())).run(dense, Context(example=x, calibration=[x]))
    assert within_bounds(deploy(floats, x, tmp_path / "floats")) == {"dwn": "yes", "onnx": "yes"}
    codes = QuantizeStatic().apply(floats, Context(example=x, calibration=[x]))
    deployment = deploy(codes, x, tmp_path / "codes")
    differences = [measured.value for measured in deployment.parity if measured.metric.name == "parity"]
    # Where a value lies between two codes, engines may choose either. In a deep network with random weights such
    # choices grow as fast as the quantization error itself, so that is the bound; both files answer with the same bits.
    (before,), (after,) = model_outputs(floats, x), model_outputs(codes, x)
    assert differences[0] == differences[1] <= max(np.abs(before - after).max(), 0.05 * np.abs(after).max())
    assert deployment.artifacts["dwn"].size_bytes < 4 * codes.n_dense_weights / 4
