"""This file tests weights stored as float16: what is cast, what stays, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import dwindle as dw
from dwindle.core.encoding import Dense, Half, decode, describe, is_half
from dwindle.errors import EncodingError, NetworkError


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4))


def apply(technique: dw.CastHalf, net: nn.Module) -> dw.CompressedModel:
    return technique.apply(dw.CompressedModel.dense(net), dw.Context())


def test_all_parameters_are_cast_and_no_buffer():
    model = apply(dw.CastHalf(), network())
    parameters = dict(model.network.named_parameters())
    assert {name for name, encoding in model.encodings.items() if isinstance(encoding, Half)} == set(parameters)
    for name, encoding in model.encodings.items():
        expected = torch.Tensor(network().state_dict()[name])
        want = expected.half().float() if name in parameters else expected
        assert torch.equal(decode(encoding), want), name
    assert set(model.history[-1].decisions["tensors"]) == set(parameters)


def test_a_batch_norm_beyond_float16_keeps_its_statistics():
    net = network()
    net[1].running_var.copy_(torch.tensor([1e6, 1e-9, 1.0]))
    model = apply(dw.CastHalf(), net)
    assert decode(model.encodings["1.running_var"]).tolist() == [1e6, pytest.approx(1e-9), 1.0]


def test_only_what_is_selected():
    model = apply(dw.CastHalf(select=dw.Select(types=("Linear",)), biases=False), network())
    assert [name for name, encoding in model.encodings.items() if is_half(encoding)] == ["3.weight"]


def test_structure_stays_and_what_was_lost_is_written_down():
    net = network()
    with torch.no_grad():
        net[3].weight[0, :2] = torch.tensor([1e-9, 1e-6])
    dense = dw.CompressedModel.dense(net)
    recipe = dw.Recipe((dw.PruneWeights(sparsity=0.5), dw.Cluster(codebook_size=4), dw.CastHalf()))
    assert describe(recipe.run(dense, dw.Context()).encodings["3.weight"]) == "Sparse(Codebook(4, Half))"
    found = dw.CastHalf().apply(dense, dw.Context()).history[-1].decisions["tensors"]["3.weight"]
    assert (found["n_flushed"], found["n_subnormal"]) == (1, 1)
    assert 0 < found["max_absolute_error"] < 2**-12


def test_later_steps_replace_float16_by_their_own_form():
    steps = (dw.CastHalf(), dw.Cluster(codebook_size=4), dw.QuantizeWeights())
    model = dw.Recipe(steps).run(dw.CompressedModel.dense(network()), dw.Context())
    assert describe(model.encodings["3.weight"]) == "Codebook(4, Affine(8 bit))"
    assert describe(model.encodings["3.bias"]) == "Half"


def test_folding_a_batch_norm_keeps_float16_weights_and_gives_them_factors():
    context = dw.Context(example=torch.zeros(1, 2, 4, 4))
    model = dw.Recipe((dw.CastHalf(), dw.FoldBatchNorm())).run(dw.CompressedModel.dense(network()), context)
    assert describe(model.encodings["0.weight"]) == "Scaled(Half)"
    assert isinstance(model.encodings["0.bias"], Dense)


def test_a_value_beyond_the_range_names_its_tensor():
    net = network()
    with torch.no_grad():
        net[3].bias[1] = 70000
    with pytest.raises(EncodingError, match=r"'3.bias': 1 values lie beyond \+-65504.*\(largest: 7e\+04\)"):
        apply(dw.CastHalf(), net)
    assert isinstance(apply(dw.CastHalf(biases=False), net).encodings["3.bias"], Dense)


def test_other_floats_than_float32_are_refused():
    with pytest.raises(NetworkError, match=r"'0.weight' is torch.float64.*network.float\(\)"):
        apply(dw.CastHalf(), network().double())


def test_integer_codes_are_refused():
    model = dw.QuantizeWeights().apply(dw.CompressedModel.dense(network()), dw.Context())
    with pytest.raises(EncodingError, match=r"'0.weight': .* has no float values left"):
        dw.CastHalf().apply(model, dw.Context())
    assert any("integer codes" in p for p in dw.Recipe((dw.QuantizeWeights(), dw.CastHalf())).check(dw.Context()))
