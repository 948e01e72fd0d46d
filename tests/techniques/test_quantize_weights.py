"""This file tests integer weights: widths, grids, centroids, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import dwindle as dw
from dwindle.core.encoding import Affine, Dense, affine_of, codebook_of, decode, restrict, support_of
from dwindle.core.granularity import Granularity
from dwindle.errors import EncodingError, NetworkError, SettingError

GRANULARITIES = st.sampled_from([dw.PerTensor(), dw.PerChannel(0), dw.PerChannel(1), dw.PerGroup(4)])


def model_of(network: nn.Module) -> dw.CompressedModel:
    return dw.CompressedModel.dense(network)


@given(n_bits=st.integers(2, 16), granularity=GRANULARITIES, symmetric=st.booleans())
def test_codes_fit_their_width_and_are_off_by_half_a_step(n_bits: int, granularity: Granularity, symmetric: bool):
    before = model_of(nn.Linear(10, 6))
    technique = dw.QuantizeWeights(n_bits=n_bits, granularity=granularity, symmetric=symmetric)
    after = technique.apply(before, dw.Context())
    encoding = after.encodings["weight"]
    assert isinstance(encoding, Affine)
    assert (encoding.n_bits, encoding.granularity) == (n_bits, granularity)
    assert not symmetric or not encoding.zero_point.any()
    difference = (decode(encoding) - decode(before.encodings["weight"])).double()
    rounding = 2e-7 * float(decode(encoding).abs().max())  # of the decoded value itself, in float32
    assert difference.abs().max() <= 0.5 * float(encoding.scale.max()) + rounding
    found = after.history[-1].decisions["tensors"]["weight"]["root_mean_square_error"]
    assert found == pytest.approx(float(difference.square().mean().sqrt()))
    assert affine_of(after.encodings["bias"]) is None


def test_finer_scales_are_closer():
    network = nn.Linear(16, 4)
    with torch.no_grad():
        network.weight.mul_(torch.tensor([[1.0], [10.0], [0.1], [3.0]]))
    errors = [
        dw.QuantizeWeights(n_bits=4, granularity=granularity)
        .apply(model_of(network), dw.Context())
        .history[-1]
        .decisions["tensors"]["weight"]["root_mean_square_error"]
        for granularity in (dw.PerTensor(), dw.PerChannel(0), dw.PerGroup(4))
    ]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("granularity", [dw.PerTensor(), dw.PerChannel(0), dw.PerGroup(3)])
def test_centroids_share_one_scale_and_indices_stay(granularity):
    clustered = dw.Cluster(codebook_size=5).apply(model_of(nn.Linear(10, 6)), dw.Context())
    after = dw.QuantizeWeights(granularity=granularity).apply(clustered, dw.Context())
    before, codebook = codebook_of(clustered.encodings["weight"]), codebook_of(after.encodings["weight"])
    assert torch.equal(codebook.indices, before.indices)
    assert codebook.centroids.granularity == dw.PerTensor()


def test_pruned_weights_do_not_widen_the_grid_and_stay_zero():
    pruned = dw.PruneWeights(sparsity=0.5).apply(model_of(nn.Linear(10, 6)), dw.Context())
    after = dw.QuantizeWeights(n_bits=3, symmetric=False).apply(pruned, dw.Context())
    support = support_of(pruned.encodings["weight"])
    assert torch.equal(support_of(after.encodings["weight"]), support)
    assert not decode(after.encodings["weight"])[~support].any()


def test_the_grid_covers_only_what_stayed():
    model = model_of(nn.Linear(10, 6))
    weight = decode(model.encodings["weight"]).clone()
    weight[0, 0] = 1000.0
    support = torch.ones_like(weight, dtype=torch.bool)
    support[0, 0] = False
    after = dw.QuantizeWeights().apply(model.with_encodings({"weight": restrict(Dense(weight), support)}), dw.Context())
    assert float(affine_of(after.encodings["weight"]).scale) < 0.01


def test_a_network_without_a_weight_in_a_tensor_has_no_error():
    after = dw.QuantizeWeights().apply(model_of(nn.Embedding(3, 0)), dw.Context())
    assert after.history[-1].decisions["tensors"]["weight"] == {"root_mean_square_error": 0.0}


@pytest.mark.parametrize("n_bits", [1, 17, 0])
def test_widths_outside_2_to_16_are_refused(n_bits):
    with pytest.raises(SettingError, match=rf"n_bits must be in \[2, 16\], got {n_bits}"):
        dw.QuantizeWeights(n_bits=n_bits)


def test_what_cannot_be_quantized_is_named():
    quantized = dw.QuantizeWeights().apply(model_of(nn.Linear(3, 3)), dw.Context())
    with pytest.raises(EncodingError, match=r"'weight': Affine\(8 bit\) has no float"):
        dw.QuantizeWeights().apply(quantized, dw.Context())
    with pytest.raises(SettingError, match=r"'weight': PerChannel\(axis=5\) does not fit shape \(3, 3\)"):
        dw.QuantizeWeights(granularity=dw.PerChannel(5)).apply(model_of(nn.Linear(3, 3)), dw.Context())
    with pytest.raises(NetworkError, match=r"'weight' is torch\.float16, but codes are decoded in float32; call"):
        dw.QuantizeWeights().apply(model_of(nn.Linear(3, 3).half()), dw.Context())


def test_densify_forgets_structure_and_keeps_values():
    quantized = dw.QuantizeWeights(n_bits=3).apply(model_of(nn.Linear(3, 3)), dw.Context())
    after = dw.Densify().apply(quantized, dw.Context())
    assert after.digest() == quantized.digest()
    assert affine_of(after.encodings["weight"]) is None


@given(n_bits=st.sampled_from([6, 8, 16]), granularity=GRANULARITIES)
def test_fixed_point_scales_are_powers_of_two_in_weights_and_centroids(n_bits: int, granularity: Granularity):
    technique = dw.QuantizeWeights(n_bits=n_bits, granularity=granularity, scale="power_of_two")
    dense = model_of(nn.Linear(10, 6))
    clustered = dw.Cluster(codebook_size=4).apply(dense, dw.Context())
    for before in (dense, clustered):
        codes = affine_of(technique.apply(before, dw.Context()).encodings["weight"])
        assert isinstance(codes, Affine)
        assert set(torch.frexp(codes.scale).mantissa.tolist()) == {0.5}
        assert not codes.zero_point.any()


def test_fixed_point_has_no_zero_point():
    with pytest.raises(SettingError, match=r"fixed point .* has no zero point; keep symmetric=True"):
        dw.QuantizeWeights(scale="power_of_two", symmetric=False)
