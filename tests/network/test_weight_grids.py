"""This file tests the uniform grid of weights: what training computed with is what its codes decode to, bit for bit."""

from __future__ import annotations

import itertools

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
    affine_of,
    codebook_of,
    decode,
    describe,
    support_of,
)
from dwindle.core.granularity import Granularity, PerChannel, PerTensor
from dwindle.core.half import to_half
from dwindle.network.structure import Structure, floats_of
from dwindle.network.weight_grids import UniformGrid, WeightScale

KINDS = ("dense", "half", "sparse", "sparse_half", "codebook", "codebook_half", "sparse_codebook")
SCALED = ("scaled_half", "scaled_sparse", "scaled_codebook", "scaled_sparse_codebook")
SHAPES = ((3, 4, 2), (5,), (1,), (0,), (3, 0), (0, 3), (1, 1))
SCALES: tuple[WeightScale, ...] = ("learned", "extremes")


def structured(kind: str, shape: tuple[int, ...], seed: int, *, keep: float = 0.5, k: int = 4) -> Encoding:
    """Return an encoding of `kind`; pruned weights keep large values below the mask, which must not matter."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator)
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


def trained(structure: Structure, encoding: Encoding, seed: int, *, spread: float = 1.0) -> Tensor:
    """Return floats as training may leave them: moved, some of them far beyond the ends of the codes."""
    floats = floats_of(encoding)
    noise = torch.randn(floats.shape, generator=torch.Generator().manual_seed(seed + 1))
    return floats + noise * spread


def require_same(structure: Structure, floats: Tensor) -> Encoding:
    """Require that the weight in training is the decoded encoding; return the encoding."""
    with torch.no_grad():
        computed = structure(floats)
    encoding = structure.encode(floats)
    assert decode(encoding).dtype == computed.dtype == torch.float32
    assert torch.equal(decode(encoding), computed)
    return encoding


def grid_of(encoding: Encoding, *, n_bits: int, granularity: Granularity, scale: WeightScale) -> Structure:
    grid = UniformGrid(encoding, n_bits=n_bits, granularity=granularity, scale=scale)
    return Structure(encoding, centroid_gradient="mean", grid=grid)


@pytest.mark.parametrize(("kind", "scale"), list(itertools.product(KINDS + SCALED, SCALES)))
@settings(max_examples=8)
@given(
    shape=st.sampled_from(SHAPES),
    n_bits=st.integers(2, 8),
    granularity=st.sampled_from([PerTensor(), PerChannel(0)]),
    seed=st.integers(0, 10**6),
    spread=st.sampled_from([0.0, 1.0, 10.0]),
)
def test_what_is_trained_is_what_is_decoded(
    kind: str,
    scale: WeightScale,
    shape: tuple[int, ...],
    n_bits: int,
    granularity: Granularity,
    seed: int,
    spread: float,
):
    before = structured(kind, shape, seed)
    structure = grid_of(before, n_bits=n_bits, granularity=granularity, scale=scale)
    after = require_same(structure, trained(structure, before, seed, spread=spread))
    codes = affine_of(after)
    assert codes is not None
    assert (codes.n_bits, codes.signed, codes.zero_point.any().item()) == (n_bits, True, False)
    assert codes.granularity == (granularity if codebook_of(before) is None else PerTensor())
    assert codes.codes.abs().max().item() <= (1 << (n_bits - 1)) - 1 if codes.codes.numel() else True
    old, new = support_of(before), support_of(after)
    assert (old is None) == (new is None)
    if old is not None and new is not None:
        assert torch.equal(old, new)
        assert not decode(after)[~old].any()
    old_book, new_book = codebook_of(before), codebook_of(after)
    assert (old_book is None) == (new_book is None)
    if old_book is not None and new_book is not None:
        assert new_book.codebook_size <= old_book.codebook_size
        for index in old_book.indices.unique():  # what was one cluster stays one
            assert len(new_book.indices[old_book.indices == index].unique()) == 1


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel(0)])
@pytest.mark.parametrize("n_bits", [2, 8])
@pytest.mark.parametrize(
    ("values", "support"),
    [
        (torch.zeros(2, 3), None),
        (torch.full((2, 3), -0.7), None),
        (torch.tensor([[1e-42, -1e-42], [1e37, -1e37]]), None),
        (torch.tensor([[1.0, -9.0], [3.0, 4.0]]), torch.tensor([[True, False], [False, False]])),
        (torch.tensor([[1.0, -9.0]]), torch.zeros(1, 2, dtype=torch.bool)),
    ],
    ids=["zeros", "constant", "tiny and huge", "one kept", "all pruned"],
)
def test_odd_weights(values: Tensor, support: Tensor | None, n_bits: int, granularity: Granularity, scale: WeightScale):
    before: Encoding = Dense(values) if support is None else Sparse(support, Dense(values))
    structure = grid_of(before, n_bits=n_bits, granularity=granularity, scale=scale)
    after = decode(require_same(structure, floats_of(before)))
    assert torch.isfinite(after).all()
    kept = values if support is None else values[support]
    if kept.numel() and float(kept.abs().max()) < 1e6:
        found = after if support is None else after[support]
        torch.testing.assert_close(found, kept)  # constant magnitudes lie on the grid exactly


def test_one_centroid_is_an_end_of_its_grid():
    before = Codebook(torch.zeros(3, 2, dtype=torch.uint8), Dense(torch.tensor([-0.3])))
    structure = grid_of(before, n_bits=2, granularity=PerChannel(0), scale="extremes")
    after = require_same(structure, floats_of(before))
    assert describe(after) == "Codebook(1, Affine(2 bit))"
    assert codebook_of(after).centroids.codes.tolist() == [-1]


def test_a_step_that_training_made_negative_or_zero_stays_a_step():
    before = Dense(torch.randn(4, 3))
    structure = grid_of(before, n_bits=4, granularity=PerTensor(), scale="learned")
    for value in (-0.2, 0.0):
        with torch.no_grad():
            structure.grid.step.fill_(value)
        codes = affine_of(require_same(structure, floats_of(before)))
        assert isinstance(codes, Affine)
        assert float(codes.scale) > 0


def test_what_is_pruned_gets_no_gradient_and_moves_no_step():
    support = torch.tensor([[True, False, True, False]])
    floats = torch.tensor([[0.4, 30.0, -0.9, -20.0]], requires_grad=True)
    for scale in SCALES:
        structure = grid_of(Sparse(support, Dense(floats.detach())), n_bits=4, granularity=PerTensor(), scale=scale)
        weight = structure(floats)
        torch.testing.assert_close(weight[support], floats[support], atol=0.1, rtol=0)
        floats.grad = None
        weight.sum().backward()
        assert floats.grad[~support].tolist() == [0.0, 0.0]
        if scale == "learned":
            alone = UniformGrid(Dense(floats[support]), n_bits=4, granularity=PerTensor(), scale="learned")
            assert torch.equal(alone.step, structure.grid.step)


def test_gradients_pass_where_nothing_is_clipped():
    floats = torch.randn(3, 5, requires_grad=True)
    structure = grid_of(Dense(floats.detach()), n_bits=3, granularity=PerChannel(0), scale="extremes")
    gradient = torch.randn(3, 5)
    structure(floats).backward(gradient)
    assert torch.equal(floats.grad, gradient)
    assert list(structure.grid.parameters()) == []
