"""This file tests which centroid a weight gets, when it may change, and that unused centroids go without a trace."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dwindle.core.affine import quantize
from dwindle.core.assignment import Reassign, is_reassigned, nearest, without_unused
from dwindle.core.encoding import Codebook, Dense, Scaled, Sparse, codebook_of, decode, support_of
from dwindle.core.half import to_half
from dwindle.errors import SettingError

FLOATS = st.integers(-4096, 4096).map(lambda n: n / 1024) | st.sampled_from([0.0, 0.5, 1.0])
"""Of which every distance is exact."""


def by_brute_force(values: Tensor, centroids: Tensor) -> Tensor:
    """Return the value of the nearest centroid of each value, the lower one of two that are equally near."""
    distances = (values.double()[:, None] - centroids.double()[None, :]).abs()
    ties = torch.where(distances == distances.min(1, keepdim=True).values, centroids.double(), torch.inf)
    return ties.min(1).values.float()


@given(st.lists(FLOATS, max_size=30), st.lists(FLOATS, min_size=1, max_size=9))
def test_each_value_gets_the_nearest_centroid(values, centroids):
    given_values, given_centroids = torch.tensor(values), torch.tensor(centroids)
    found = nearest(given_values, given_centroids)
    assert found.dtype == torch.uint8
    assert torch.equal(given_centroids[found.long()], by_brute_force(given_values, given_centroids))


@pytest.mark.parametrize(("n_centroids", "dtype"), [(256, torch.uint8), (257, torch.int32)])
def test_many_values_and_many_centroids(n_centroids, dtype):
    values, centroids = torch.randn(300, 500), torch.randn(n_centroids)  # more than a block
    found = nearest(values, centroids)
    assert found.dtype == dtype
    assert found.shape == values.shape
    some = torch.randint(0, values.numel(), (500,))
    chosen = centroids[found.flatten()[some].long()]
    assert torch.equal(chosen, by_brute_force(values.flatten()[some], centroids))


@pytest.mark.parametrize(("fewer", "dtype"), [(256, torch.uint8), (257, torch.int32)])
def test_unused_centroids_go_and_the_tensor_stays(fewer, dtype):
    indices = (torch.arange(600) % fewer + 10).to(torch.int32).reshape(2, 300)
    book = without_unused(Codebook(indices, Dense(torch.randn(400))))
    assert isinstance(book, Codebook)
    assert book.codebook_size == fewer
    assert book.indices.dtype == dtype


@given(
    st.integers(1, 6), st.integers(0, 12), st.sampled_from(["dense", "half"]), st.booleans(), st.booleans(),
    st.integers(0, 99),
)  # fmt: skip
def test_whatever_is_around_the_codebook_stays(k, n, kind, is_sparse, is_scaled, seed):
    generator = torch.Generator().manual_seed(seed)
    centroids = torch.randn(k, generator=generator)
    book = Codebook(
        torch.randint(0, k, (n, 2), generator=generator, dtype=torch.uint8),
        Dense(centroids) if kind == "dense" else to_half(centroids),
    )
    support = torch.rand(n, 2, generator=generator) < 0.4
    encoding = Sparse(support, book) if is_sparse else book
    encoding = Scaled(encoding, torch.randn(n, generator=generator), 0) if is_scaled else encoding
    after = without_unused(encoding)
    assert type(after) is type(encoding)
    assert torch.equal(decode(after), decode(encoding))
    found = codebook_of(after)
    assert type(found.centroids) is type(book.centroids)
    kept = found.indices[support] if is_sparse else found.indices
    assert len(kept.unique()) == found.codebook_size or (found.codebook_size == 1 and kept.numel() == 0)
    assert not is_sparse or torch.equal(support_of(after), support)


def test_what_has_no_floats_or_no_codebook_comes_back_as_it_is():
    centroids = quantize(torch.randn(4), n_bits=8, support=torch.ones(4, dtype=torch.bool))
    for encoding in (Dense(torch.ones(3)), Codebook(torch.zeros(3, dtype=torch.uint8), centroids)):
        assert without_unused(encoding) is encoding


@given(st.integers(1, 50), st.floats(0, 1, exclude_min=True), st.integers(1, 80))
def test_weights_move_at_least_once_and_never_after_the_end(frequency, end, n_steps):
    reassign = Reassign(frequency=frequency, end=end)
    steps = [step for step in range(1, n_steps + 1) if is_reassigned(reassign, step, n_steps=n_steps)]
    assert steps
    assert steps[-1] == next(step for step in range(1, n_steps + 1) if step / n_steps >= end)
    assert all(step % frequency == 0 for step in steps[:-1])
    assert len(steps) == len(set(range(frequency, steps[-1], frequency))) + 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frequency": 0}, "counts optimizer steps from 1, got 0"),
        ({"frequency": -3}, "got -3"),
        ({"frequency": float("nan")}, "got nan"),
        ({"end": 0.0}, r"in \(0, 1\], got 0\.0"),
        ({"end": 1.5}, r"got 1\.5"),
        ({"end": float("nan")}, "got nan"),
    ],
)
def test_settings_that_cannot_work(settings, message):
    with pytest.raises(SettingError, match=message):
        Reassign(**settings)
