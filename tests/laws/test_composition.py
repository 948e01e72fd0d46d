"""This file runs every order of the weight-only techniques on small odd tensors: structure, once there, stays."""

from __future__ import annotations

import itertools
from dataclasses import replace

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import dwindle as dw
from dwindle.core.encoding import affine_of, codebook_of, decode, support_of
from dwindle.errors import EncodingError, RecipeError
from dwindle.recipe.check import traits_of
from dwindle.technique import Needs, Technique, Trait

CODEBOOK_SIZE = 3
TECHNIQUES: tuple[Technique, ...] = (
    dw.PruneWeights(sparsity=0.5),
    dw.Cluster(codebook_size=CODEBOOK_SIZE, init="kmeans++"),
    dw.QuantizeWeights(n_bits=5),
)
ORDERS = [order for n in (1, 2, 3) for order in itertools.permutations(TECHNIQUES, n)]
SIDES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)
WEIGHTS = SIDES.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=st.floats(-4, 4, width=32)))


def words(order: tuple[Technique, ...]) -> str:
    return "-".join(type(step).__name__ for step in order)


def model_of(weight: np.ndarray) -> dw.CompressedModel:
    network = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    network.weight.data = torch.from_numpy(weight.copy())
    return dw.CompressedModel.dense(network)


@pytest.mark.parametrize("order", ORDERS, ids=words)
@given(weight=WEIGHTS)
def test_an_order_is_accepted_exactly_where_it_runs(order: tuple[Technique, ...], weight: np.ndarray):
    is_accepted = not dw.Recipe(order).check(dw.Context())
    model = model_of(weight)
    try:
        for step in order:
            model = step.apply(model, dw.Context())
        has_run = True
    except EncodingError:
        has_run = False
    assert has_run is is_accepted


@pytest.mark.parametrize("order", [o for o in ORDERS if not dw.Recipe(o).check(dw.Context())], ids=words)
@given(weight=WEIGHTS)
def test_later_steps_keep_the_structure_of_earlier_ones(order: tuple[Technique, ...], weight: np.ndarray):
    model = model_of(weight)
    zeros = torch.zeros(weight.shape, dtype=torch.bool)
    for number, step in enumerate(order, start=1):
        model = dw.Recipe((step,)).run(model, dw.Context(seed=3))
        encoding, values = model.encodings["weight"], model.network.state_dict()["weight"]
        assert torch.equal(values, decode(encoding))
        assert torch.isfinite(values).all()
        assert not values[zeros].any()
        support = support_of(encoding)
        if support is not None:
            assert not (zeros & support).any()
            zeros = ~support
        done = [type(earlier) for earlier in order[:number]]
        assert (support is not None) == (dw.PruneWeights in done)
        assert (codebook_of(encoding) is not None) == (dw.Cluster in done)
        assert (affine_of(encoding) is not None) == (dw.QuantizeWeights in done)
        if dw.Cluster in done:
            assert len(set(values[~zeros].tolist())) <= CODEBOOK_SIZE
    if dw.PruneWeights in {type(step) for step in order}:
        assert int(zeros.sum()) == weight.size // 2


@settings(max_examples=15)
@given(weight=WEIGHTS, codebook_size=st.integers(1, 5), n_bits=st.integers(2, 16))
def test_deep_compression_is_one_nested_value(weight: np.ndarray, codebook_size: int, n_bits: int):
    recipe = dw.Recipe(
        (
            dw.PruneWeights(sparsity=0.5),
            dw.Cluster(codebook_size=codebook_size),
            dw.QuantizeWeights(n_bits=n_bits),
        )
    )
    after = recipe.run(model_of(weight), dw.Context())
    kernel = Trait.KERNEL if n_bits <= 8 else Trait.NOTHING
    assert traits_of(after) == Trait.SPARSE | Trait.CLUSTERED | Trait.INTEGER | kernel
    assert after.encodings["weight"].values.codebook_size <= codebook_size
    assert [record.technique for record in after.history] == ["PruneWeights", "Cluster", "QuantizeWeights"]


@given(weight=WEIGHTS)
def test_pruning_twice_is_pruning_once(weight: np.ndarray):
    once = dw.PruneWeights(sparsity=0.5).apply(model_of(weight), dw.Context())
    twice = dw.PruneWeights(sparsity=0.5).apply(once, dw.Context())
    assert twice.digest() == once.digest()


@given(weight=WEIGHTS)
def test_clustering_twice_is_clustering_once(weight: np.ndarray):
    once = dw.Cluster(codebook_size=4).apply(model_of(weight), dw.Context())
    assert dw.Cluster(codebook_size=4).apply(once, dw.Context()).digest() == once.digest()


def test_quantizing_twice_is_one_clear_error():
    recipe = dw.Recipe((dw.QuantizeWeights(n_bits=8), dw.QuantizeWeights(n_bits=4)))
    message = r"step 2, QuantizeWeights\(n_bits=4\), cannot follow step 1, QuantizeWeights\(n_bits=8\), .*keep one of"
    with pytest.raises(RecipeError, match=message):
        recipe.run(model_of(np.ones((2, 2), np.float32)), dw.Context())


@pytest.mark.slow
def test_every_accepted_pair_runs():
    from dwindle.recipe.catalogue import TECHNIQUES as ALL
    from dwindle.recipe.orders import SAMPLES
    from dwindle.recipe.plain import step_from_plain
    from dwindle.testing import small_context, small_network

    small = {"PruneChannels": {"round_to": 1}, "Binarize": {"keeps_ends": False}}  # few channels, few layers
    steps = [
        step_from_plain({**plain, **small.get(plain["type"], {})}, where=name, techniques=ALL)
        for name, plain in SAMPLES.items()
    ]
    n_run = 0
    for pair in itertools.product(steps, repeat=2):
        recipe, context = dw.Recipe(pair), replace(small_context(), reference=None)  # a recipe finds its own
        if not recipe.check(context):
            n_run += 1
            assert len(recipe.run(dw.CompressedModel.dense(small_network()), context).history) == 2
    assert n_run > 50
    assert Needs.TRAINING in small_context().offers
