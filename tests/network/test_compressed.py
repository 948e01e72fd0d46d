from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from dwindle.core.affine import quantize
from dwindle.core.encoding import Codebook, Dense, Sparse, decode
from dwindle.errors import EncodingError, NetworkError
from dwindle.network.activations import ActivationQuantizer, CallSite
from dwindle.network.compressed import CompressedModel


def _tied() -> nn.Sequential:
    network = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5), nn.BatchNorm1d(5))
    network[1].weight = network[0].weight
    return network


def test_a_dense_model_holds_every_tensor_once() -> None:
    network = _tied()
    model = CompressedModel.dense(network)
    assert set(model.encodings) | set(model.aliases) == set(network.state_dict())
    assert model.aliases == {"1.weight": "0.weight"}
    assert all(isinstance(encoding, Dense) for encoding in model.encodings.values())
    assert model.n_dense_weights == 5 * 3 + 5 + 5 + 5
    assert (model.history, model.edits, model.activations) == ((), (), {})


def test_a_dense_model_is_a_copy() -> None:
    network = _tied()
    model = CompressedModel.dense(network)
    digest = model.digest()
    with torch.no_grad():
        network[0].weight.add_(1.0)
        model.network[0].weight.add_(1.0)
    assert model.digest() == digest
    assert model.network[1].weight is model.network[0].weight


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_refused_by_name(bad: float) -> None:
    network = _tied()
    with torch.no_grad():
        network[1].bias[1] = bad
    with pytest.raises(NetworkError, match=r"'1.bias' holds 1 NaN or infinite values"):
        CompressedModel.dense(network)


def test_new_encodings_reach_the_weights_bit_for_bit_and_every_name_of_them() -> None:
    model = CompressedModel.dense(_tied())
    values = decode(model.encodings["0.weight"])
    support = values > 0
    encoding = Sparse(support, quantize(values, n_bits=4, support=support))
    after = model.with_encodings({"0.weight": encoding})
    for name in ("0.weight", "1.weight"):
        assert torch.equal(after.network.state_dict()[name], decode(encoding))
    assert after.encodings["0.weight"] is encoding
    assert torch.equal(model.network.state_dict()["0.weight"], values)
    assert model.encodings.keys() == after.encodings.keys()


def test_unknown_names_and_other_shapes_are_refused() -> None:
    model = CompressedModel.dense(_tied())
    with pytest.raises(EncodingError, match=r"'1.weight' is not an encoded tensor"):
        model.with_encodings({"1.weight": Dense(torch.zeros(5, 3))})
    with pytest.raises(EncodingError, match=r"'1.bias' has shape \(5,\), its new encoding \(4,\)"):
        model.with_encodings({"1.bias": Dense(torch.zeros(4))})


def test_the_digest_follows_values_not_structure() -> None:
    model = CompressedModel.dense(nn.Linear(2, 2))
    shared = Codebook(torch.zeros(2, 2, dtype=torch.uint8), Dense(torch.tensor([0.5])))
    clustered = model.with_encodings({"weight": shared})
    plain = model.with_encodings({"weight": Dense(torch.full((2, 2), 0.5))})
    assert clustered.digest() == plain.digest() != model.digest()
    quantized = replace(model, activations={CallSite("", 0): ActivationQuantizer(scale=1.0, zero_point=0)})
    assert quantized.digest() != model.digest()
    other = replace(model, activations={CallSite("", 0): ActivationQuantizer(scale=2.0, zero_point=0)})
    assert other.digest() != quantized.digest()


def test_the_digest_is_the_same_in_another_process() -> None:
    code = (
        "import torch; from torch import nn; from dwindle.network.compressed import CompressedModel;"
        "n = nn.Linear(3, 2); n.load_state_dict({'weight': torch.arange(6.).reshape(2, 3), 'bias': torch.ones(2)});"
        "print(CompressedModel.dense(n).digest())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    network = nn.Linear(3, 2)
    network.load_state_dict({"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)})
    assert CompressedModel.dense(network).digest() == there
