"""This file tests the grid of few bits: its formulas, its gradients by the papers, and what its codes decode to."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dwindle.core.encoding import (
    Affine,
    Codebook,
    Dense,
    Encoding,
    Scaled,
    Sparse,
    codebook_of,
    decode,
    describe,
    support_of,
)
from dwindle.core.few_bits import HIGHEST_LEVEL, FactorGradient, FactorRule, Levels, Spread
from dwindle.core.granularity import Granularity, PerChannel, PerTensor
from dwindle.core.half import to_half
from dwindle.network.activations import LevelQuantizer
from dwindle.network.few_bit_grid import FewBitGrid, FewBits, RoundedInput
from dwindle.network.structure import Structure, floats_of

KINDS = ("dense", "half", "sparse", "sparse_half", "codebook", "codebook_half", "sparse_codebook")
SCALED = ("scaled_half", "scaled_sparse", "scaled_codebook", "scaled_sparse_codebook")
SHAPES = ((3, 4, 2), (5,), (1,), (0,), (3, 0), (0, 3), (1, 1))
EVERY = [Levels(n, kind) for n in (1, 2, 3, 4) for kind in ("full", "restricted") if (n, kind) != (1, "restricted")]
THESIS = FewBits(levels=Levels(1), is_centred=False, spread="none")
FACTORS: tuple[FactorRule, ...] = ("l1", "least_squares")
GRADIENTS: tuple[FactorGradient, ...] = ("exact", "own_weight")
SPREADS: tuple[Spread, ...] = ("deviation", "none")
SETTINGS = st.builds(
    FewBits,
    levels=st.sampled_from(EVERY),
    factor=st.sampled_from(FACTORS),
    gradient=st.sampled_from(GRADIENTS),
    granularity=st.sampled_from([PerTensor(), PerChannel(0)]),
    is_centred=st.booleans(),
    spread=st.sampled_from(SPREADS),
)


def structured(kind: str, shape: tuple[int, ...], seed: int, *, keep: float = 0.5, k: int = 6) -> Encoding:
    """Return an encoding of `kind`; pruned weights keep large values below the mask, which must not matter."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator) * 0.4
    support = torch.rand(shape, generator=generator) < keep
    hidden = torch.where(support, values, 50.0)
    indices = torch.randint(0, k, shape, generator=generator, dtype=torch.uint8)
    centroids = torch.randn(k, generator=generator)
    factor = torch.randn(shape[0], generator=generator)
    book = Codebook(indices, Dense(centroids))
    inner: dict[str, Encoding] = {
        "dense": Dense(values),
        "half": to_half(values),
        "sparse": Sparse(support, Dense(hidden)),
        "sparse_half": Sparse(support, to_half(hidden)),
        "codebook": book,
        "codebook_half": Codebook(indices, to_half(centroids)),
        "sparse_codebook": Sparse(support, book),
    }
    name = kind.removeprefix("scaled_")
    return Scaled(inner[name], factor, 0) if kind != name else inner[name]


def structure_of(encoding: Encoding, few: FewBits) -> Structure:
    return Structure(encoding, centroid_gradient="mean", grid=FewBitGrid(encoding, few))


def require_same(structure: Structure, floats: Tensor, *, ulps: int = 0) -> Encoding:
    """Require that the weight in training is the decoded encoding; return the encoding."""
    with torch.no_grad():
        computed = structure(floats)
    encoding = structure.encode(floats)
    assert decode(encoding).dtype == computed.dtype == torch.float32
    if ulps:
        # Below the least normal number the distance of neighbours is 2^-149, whatever the number.
        torch.testing.assert_close(decode(encoding), computed, rtol=ulps * 2**-23, atol=ulps * 2.0**-149)
    else:
        assert torch.equal(decode(encoding), computed)
    return encoding


@pytest.mark.parametrize("kind", KINDS + SCALED)
@settings(max_examples=12)
@given(shape=st.sampled_from(SHAPES), few=SETTINGS, seed=st.integers(0, 10**6), spread=st.sampled_from([0.0, 0.5, 5.0]))
def test_what_is_trained_is_what_is_decoded(kind: str, shape: tuple[int, ...], few: FewBits, seed: int, spread: float):
    before = structured(kind, shape, seed)
    if len(shape) < 2:  # a weight of a layer has inputs, too
        few = replace(few, granularity=PerTensor())
    structure = structure_of(before, few)
    floats = floats_of(before)
    floats = floats + spread * torch.randn(floats.shape, generator=torch.Generator().manual_seed(seed + 1))
    # Factors of folding meet factors of the grid in one product, which float32 rounds another way than two products.
    is_twice = isinstance(before, Scaled) and codebook_of(before) is None and few.granularity != PerTensor()
    after = require_same(structure, floats, ulps=4 * is_twice)
    book = codebook_of(after)
    assert book is not None
    assert isinstance(book.centroids, Affine)
    assert book.codebook_size <= 2**few.levels.n_bits - (few.levels.kind == "restricted")
    earlier = codebook_of(before)
    if earlier is not None:
        assert book.codebook_size <= earlier.codebook_size
        for index in earlier.indices.unique():  # what was one cluster stays one
            assert len(book.indices[earlier.indices == index].unique()) == 1
    old, new = support_of(before), support_of(after)
    assert (old is None) == (new is None)
    if old is not None and new is not None:
        assert torch.equal(old, new)
        assert not decode(after)[~old].any()


@pytest.mark.parametrize("levels", EVERY, ids=str)
@pytest.mark.parametrize("factor", FACTORS)
def test_a_weight_alone_is_kept_as_it_is(levels: Levels, factor: FactorRule):
    """Its mean is itself: centred, nothing of it would be left."""
    values = torch.tensor([[0.7], [-3.0]])
    few = FewBits(levels=levels, factor=factor, granularity=PerChannel(0))
    decoded = decode(require_same(structure_of(Dense(values), few), values))
    torch.testing.assert_close(decoded, values)


def by_hand(values: Tensor, few: FewBits) -> Tensor:
    """Return what the formulas of the thesis make of one set of weights, in float64."""
    w = values.double()
    w = w - w.mean() if few.is_centred else w
    width = float((w.square().mean()).sqrt()) * HIGHEST_LEVEL[few.levels.n_bits] if few.spread == "deviation" else 1.0
    c = (w / width).clamp(-1, 1)
    codes = range(-few.levels.highest, few.levels.highest + 1, 2 if few.levels.kind == "full" else 1)
    levels = torch.tensor([code / few.levels.highest for code in codes], dtype=torch.float64)
    m = levels[(c[:, None] - levels).abs().argmin(1)]
    alpha = c.abs().mean() if few.factor == "l1" else (c @ m) / (m @ m)
    return m * alpha * width


@pytest.mark.parametrize(
    ("levels", "factor", "is_centred", "spread"),
    list(itertools.product(EVERY, FACTORS, (True, False), SPREADS)),
    ids=str,
)
def test_weights_follow_the_formulas(levels: Levels, factor: FactorRule, is_centred: bool, spread: Spread):
    few = FewBits(levels=levels, factor=factor, is_centred=is_centred, spread=spread)
    values = torch.randn(40, generator=torch.Generator().manual_seed(3)) * 0.7 + 0.1
    found = structure_of(Dense(values), few)(values)
    torch.testing.assert_close(found.double(), by_hand(values, few), rtol=1e-5, atol=1e-6)


def test_each_output_has_its_own_mean_and_factor_and_pruned_weights_count_nowhere():
    values = torch.randn(3, 20)
    support = torch.rand(3, 20) < 0.6
    few = FewBits(levels=Levels(2), granularity=PerChannel(0))
    found = structure_of(Sparse(support, Dense(values)), few)(values)
    for row, kept, weights in zip(found, support, values, strict=True):
        torch.testing.assert_close(row[kept].double(), by_hand(weights[kept], few), rtol=1e-5, atol=1e-6)
        assert not row[~kept].any()


@pytest.mark.parametrize("factor", FACTORS)
@given(seed=st.integers(0, 10**6))
def test_at_one_bit_no_other_factor_has_a_smaller_error(factor: FactorRule, seed: int):
    values = torch.randn(12, generator=torch.Generator().manual_seed(seed)).clamp(-1, 1)
    few = FewBits(levels=Levels(1), factor=factor, is_centred=False, spread="none")
    found = structure_of(Dense(values), few)(values)
    signs = torch.where(values < 0, -1.0, 1.0)
    alpha = float(found.abs().max())
    assert torch.equal(found, signs * found.abs().max())
    errors = [float((values - a * signs).square().sum()) for a in (alpha, 0.99 * alpha, 1.01 * alpha)]
    assert errors[0] <= min(errors)


def gradient_of(values: Tensor, few: FewBits, upstream: Tensor) -> Tensor:
    floats = values.clone().requires_grad_()
    structure_of(Dense(values), few)(floats).backward(upstream)
    assert floats.grad is not None
    return floats.grad


@given(seed=st.integers(0, 10**6), n=st.integers(1, 9))
def test_the_exact_gradient_is_the_correction_of_the_thesis(seed: int, n: int):
    """dH/dW_i = 1/n sign(W_i) sum_j dH/dW~_j sign(W_j) + alpha dH/dW~_i 1(|W_i| <= 1): section 3.3.1."""
    generator = torch.Generator().manual_seed(seed)
    w, upstream = torch.rand(n, generator=generator) * 2 - 1, torch.randn(n, generator=generator)
    signs = w.sign()
    wanted = signs * (upstream * signs).sum() / n + w.abs().mean() * upstream
    torch.testing.assert_close(gradient_of(w, THESIS, upstream), wanted, rtol=1e-4, atol=1e-6)


@given(seed=st.integers(0, 10**6), n=st.integers(1, 9))
def test_the_gradient_of_one_weight_is_that_of_xnor_net(seed: int, n: int):
    """dH/dW_i = dH/dW~_i (1/n + alpha 1(|W_i| <= 1)): Rastegari et al. 2016, section 3.1."""
    generator = torch.Generator().manual_seed(seed)
    w, upstream = torch.rand(n, generator=generator) * 2 - 1, torch.randn(n, generator=generator)
    few = FewBits(levels=Levels(1), is_centred=False, spread="none", gradient="own_weight")
    wanted = upstream * (1 / n + w.abs().mean())
    torch.testing.assert_close(gradient_of(w, few, upstream), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_clipped_weight_learns_nothing(gradient: FactorGradient):
    few = FewBits(levels=Levels(2), is_centred=False, spread="none", gradient=gradient)
    found = gradient_of(torch.tensor([0.5, -3.0, 2.0]), few, torch.ones(3))
    assert found[0] != 0
    assert found[1:].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("gradient", "is_centred"), list(itertools.product(GRADIENTS, (True, False))))
def test_pruned_weights_get_no_gradient(gradient: FactorGradient, is_centred: bool):
    support = torch.tensor([[True, False, True, True]])
    floats = torch.tensor([[0.4, 30.0, -0.3, 0.1]], requires_grad=True)
    few = FewBits(levels=Levels(2), gradient=gradient, is_centred=is_centred)
    structure_of(Sparse(support, Dense(floats.detach())), few)(floats).backward(torch.randn(1, 4))
    assert floats.grad is not None
    assert floats.grad[0, 1] == 0
    assert floats.grad[support].abs().min() > 0


@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel(0)])
@pytest.mark.parametrize("levels", EVERY, ids=str)
@pytest.mark.parametrize(
    ("values", "support"),
    [
        (torch.zeros(2, 3), None),
        (torch.full((2, 3), -0.7), None),
        (torch.tensor([[0.3]]), None),
        (torch.full((2, 3), 1e-30), None),
        (torch.tensor([[1e18, -1e18, 2.0]]), None),
        (torch.tensor([[1.0, -9.0], [3.0, 4.0]]), torch.tensor([[True, False], [False, False]])),
        (torch.tensor([[1.0, -9.0]]), torch.zeros(1, 2, dtype=torch.bool)),
    ],
    ids=["zeros", "constant", "one weight", "tiny", "huge", "one kept", "all pruned"],
)
def test_odd_weights_stay_finite_and_learn(
    values: Tensor, support: Tensor | None, levels: Levels, granularity: Granularity
):
    before: Encoding = Dense(values) if support is None else Sparse(support, Dense(values))
    for factor, gradient, is_centred in itertools.product(FACTORS, GRADIENTS, (True, False)):
        few = FewBits(levels=levels, factor=factor, gradient=gradient, granularity=granularity, is_centred=is_centred)
        structure, floats = structure_of(before, few), floats_of(before).requires_grad_()
        after = decode(require_same(structure, floats.detach()))
        assert torch.isfinite(after).all()
        structure(floats).sum().backward()
        assert floats.grad is not None
        assert torch.isfinite(floats.grad).all()


def test_a_constant_weight_without_centring_keeps_its_size_at_one_bit():
    few = FewBits(levels=Levels(1), is_centred=False, spread="none")
    after = require_same(structure_of(Dense(torch.full((2, 3), -0.7)), few), torch.full((2, 3), -0.7))
    torch.testing.assert_close(decode(after), torch.full((2, 3), -0.7))
    assert describe(after) == "Codebook(1, Affine(2 bit))"


def test_clusters_share_one_factor_and_may_merge():
    before = Codebook(torch.tensor([[0, 1], [2, 3]], dtype=torch.uint8), Dense(torch.tensor([-0.9, -0.8, 0.7, 1.0])))
    few = FewBits(levels=Levels(1), granularity=PerChannel(0))
    after = require_same(structure_of(before, few), floats_of(before))
    assert describe(after) == "Codebook(2, Affine(2 bit))"
    assert codebook_of(after).indices.tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize("levels", EVERY, ids=str)
def test_a_rounded_input_is_on_the_levels(levels: Levels):
    rounding = RoundedInput(LevelQuantizer(n_bits=levels.n_bits, kind=levels.kind))
    found = rounding(torch.randn(50, 3) * 2)
    wanted = {code * levels.unit for code in levels.codes(torch.linspace(-1, 1, 999)).tolist()}
    assert {round(v, 5) for v in found.flatten().tolist()} <= {round(v, 5) for v in wanted}
