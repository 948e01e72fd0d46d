"""This file tests weight sharing: how many values are left, where zeros go, and what chance depends on."""

from __future__ import annotations

from itertools import pairwise, starmap

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import dwindle as dw
from dwindle.core.encoding import Dense, codebook_of, decode, restrict, support_of
from dwindle.errors import SettingError

INITS = ("linear", "kmeans++", "random", "density", "near_optimal")


def layered(*widths: int) -> dw.CompressedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return dw.CompressedModel.dense(nn.Sequential(*starmap(nn.Linear, pairwise(widths))))


@pytest.mark.parametrize("init", INITS)
@given(codebook_size=st.integers(1, 20), seed=st.integers(0, 5))
def test_a_tensor_keeps_so_many_values_and_no_more(init, codebook_size, seed):
    after = dw.Cluster(codebook_size=codebook_size, init=init).apply(layered(12, 9), dw.Context(seed=seed))
    values = after.network.state_dict()["0.weight"]
    codebook = codebook_of(after.encodings["0.weight"])
    assert len(values.unique()) <= codebook.codebook_size <= codebook_size
    assert codebook_of(after.encodings["0.bias"]) is None
    found = after.history[-1].decisions["tensors"]["0.weight"]
    before = decode(layered(12, 9).encodings["0.weight"])
    assert found["codebook_size"] == codebook.codebook_size
    assert found["distortion"] == pytest.approx(float((values - before).double().square().mean()))
    if init == "near_optimal" and codebook_size > 1:
        assert found["distortion"] < float(before.double().var(correction=0))


def test_only_weights_that_stayed_pull_at_the_centroids():
    positive = layered(30, 20).encodings["0.weight"].values.abs()
    model = layered(30, 20).with_encodings({"0.weight": Dense(positive)})
    pruned = dw.PruneWeights(sparsity=0.5).apply(model, dw.Context())
    without = dw.Cluster(codebook_size=5).apply(pruned, dw.Context())
    with_zeros = dw.Cluster(codebook_size=5, include_zeros=True).apply(pruned, dw.Context())
    support = support_of(pruned.encodings["0.weight"])
    for after in (without, with_zeros):
        assert torch.equal(support_of(after.encodings["0.weight"]), support)
        assert not decode(after.encodings["0.weight"])[~support].any()
        assert len(decode(after.encodings["0.weight"])[support].unique()) <= 5
    distortions = [m.history[-1].decisions["tensors"]["0.weight"]["distortion"] for m in (without, with_zeros)]
    assert distortions[0] < distortions[1]


def test_without_pruned_weights_zeros_make_no_difference():
    plain, published = (dw.Cluster(include_zeros=z).apply(layered(9, 9), dw.Context()) for z in (False, True))
    assert plain.digest() == published.digest()


@pytest.mark.parametrize("init", ["kmeans++", "random"])
def test_chance_depends_on_the_seed_and_the_name_but_not_on_the_order(init):
    cluster = dw.Cluster(codebook_size=6, init=init)
    alone = dw.Cluster(codebook_size=6, init=init, select=dw.Select(names=("1.weight",)))
    model = layered(40, 30, 20)
    both, one = cluster.apply(model, dw.Context()), alone.apply(model, dw.Context())
    assert torch.equal(decode(both.encodings["1.weight"]), decode(one.encodings["1.weight"]))
    outcomes = {cluster.apply(model, dw.Context(seed=seed)).digest() for seed in range(4)}
    assert len(outcomes) > 1


def test_equal_tensors_of_different_names_draw_different_starts():
    model = layered(20, 20, 20)
    equal = model.with_encodings({"1.weight": model.encodings["0.weight"]})
    cluster = dw.Cluster(codebook_size=6, init="random")
    after = [cluster.apply(equal, dw.Context(seed=seed)).network.state_dict() for seed in range(6)]
    assert any(not torch.equal(state["0.weight"], state["1.weight"]) for state in after)


def test_a_codebook_is_clustered_again_and_never_grows():
    first = dw.Cluster(codebook_size=5).apply(layered(12, 9), dw.Context())
    assert dw.Cluster(codebook_size=16).apply(first, dw.Context()).digest() == first.digest()
    smaller = dw.Cluster(codebook_size=2).apply(first, dw.Context())
    assert len(decode(smaller.encodings["0.weight"]).unique()) == 2


def test_a_tensor_without_a_weight_left_is_fine():
    model = layered(3, 3)
    nothing = {"0.weight": restrict(model.encodings["0.weight"], torch.zeros(3, 3, dtype=torch.bool))}
    after = dw.Cluster().apply(model.with_encodings(nothing), dw.Context())
    assert not decode(after.encodings["0.weight"]).any()
    assert after.history[-1].decisions["tensors"]["0.weight"] == {"codebook_size": 1, "distortion": 0.0}


def test_half_precision_stays_half_precision():
    model = dw.CompressedModel.dense(nn.Linear(8, 8).half())
    after = dw.Cluster(codebook_size=3).apply(model, dw.Context())
    assert after.network.weight.dtype == torch.float16
    assert torch.equal(after.network.weight, decode(after.encodings["weight"]))


@pytest.mark.parametrize("codebook_size", [0, -1, 65537])
def test_a_codebook_has_a_sensible_size(codebook_size):
    with pytest.raises(SettingError, match=rf"codebook_size must be in \[1, 65536\], got {codebook_size}"):
        dw.Cluster(codebook_size=codebook_size)


def test_an_unknown_start_is_refused_when_it_is_written():
    with pytest.raises(SettingError, match=r"init.*'linaer'"):
        dw.Cluster(init="linaer")
