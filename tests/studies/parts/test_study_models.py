"""This file tests that a trained model comes back as it was, and that a file which is not whole counts as none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dwindle.network.compressed import CompressedModel
from dwindle.recipe import Recipe
from dwindle.studies.models import load_model, save_model
from dwindle.technique import Context
from dwindle.techniques.cluster import Cluster
from dwindle.techniques.prune_weights import PruneWeights


def untrained(seed):
    torch.manual_seed(seed)
    return CompressedModel.dense(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3)))


@pytest.fixture
def model():
    return Recipe((PruneWeights(sparsity=0.5), Cluster(codebook_size=4))).run(untrained(0), Context())


def test_a_model_comes_back_on_a_network_with_other_weights(model, tmp_path):
    save_model(tmp_path / "a" / "model.safetensors", model)
    found = load_model(tmp_path / "a" / "model.safetensors", untrained(1))
    assert found is not None
    assert found.digest() == model.digest()
    assert found.history == model.history
    assert found.encodings.keys() == model.encodings.keys()
    x = torch.randn(2, 1, 4, 4)
    assert torch.equal(found.network.eval()(x), model.network.eval()(x))


def test_a_file_that_is_torn_changed_or_absent_counts_as_none(model, tmp_path):
    path = tmp_path / "model.safetensors"
    assert load_model(path, untrained(0)) is None
    save_model(path, model)
    whole = path.read_bytes()
    for broken in (b"", whole[:100], whole[:-7], whole[:-40] + bytes(40), b"nonsense" * 10):
        path.write_bytes(broken)
        assert load_model(path, untrained(0)) is None


def test_a_model_of_another_network_counts_as_none(model, tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, model)
    torch.manual_seed(0)
    assert load_model(path, CompressedModel.dense(nn.Linear(3, 2))) is None
