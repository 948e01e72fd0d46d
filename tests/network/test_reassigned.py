"""This file tests weights that may change their centroid: gradients, the nearest centroid, and what comes out."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dwindle.core.assignment import nearest
from dwindle.core.encoding import Codebook, Dense, Encoding, Scaled, Sparse, codebook_of, decode, support_of
from dwindle.errors import EncodingError
from dwindle.network.compressed import CompressedModel
from dwindle.network.parametrize import trainable
from dwindle.network.reassigned import Reassigned
from dwindle.network.structure import Structure

KINDS = ("codebook", "sparse", "scaled", "scaled_sparse")
SHAPE = (4, 2, 3, 3)
LAYOUTS = (torch.contiguous_format, torch.channels_last)


def encode(kind: str, shape: tuple[int, ...] = SHAPE, *, seed: int = 0, n_centroids: int = 4) -> Encoding:
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randint(0, n_centroids, shape, generator=generator, dtype=torch.uint8)
    encoding: Encoding = Codebook(indices, Dense(torch.randn(n_centroids, generator=generator)))
    if "sparse" in kind:
        encoding = Sparse(torch.rand(shape, generator=generator) < 0.5, encoding)
    return Scaled(encoding, torch.randn(shape[0], generator=generator), 0) if "scaled" in kind else encoding


def parts(encoding: Encoding, shape: tuple[int, ...] = SHAPE) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return indices, centroids, support and factor (broadcast), whichever of them `encoding` has."""
    book, support = codebook_of(encoding), support_of(encoding)
    factor = encoding.factor if isinstance(encoding, Scaled) else torch.ones(shape[0])
    everything = torch.ones(shape, dtype=torch.bool)
    factors = factor.reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
    return book.indices, decode(book.centroids), everything if support is None else support, factors


def a_conv() -> nn.Module:
    return nn.Conv2d(2, 4, 3, bias=False)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rule", ["mean", "sum"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_autograd(kind, rule, layout):
    encoding, gradient = encode(kind), torch.randn(SHAPE)
    indices, centroids, support, factors = parts(encoding)
    leaf = centroids.clone().requires_grad_()
    weight = torch.where(support, leaf[indices.long()], 0.0) * factors
    weight.backward(gradient)
    sizes = torch.stack([((indices == i) & support).sum().clamp(min=1) for i in range(len(centroids))])
    expected = leaf.grad if rule == "sum" else leaf.grad / sizes

    latents = torch.randn(SHAPE)
    model = CompressedModel.dense(a_conv()).with_encodings({"weight": encoding})
    with trainable(model, centroid_gradient=rule, latents={"weight": latents}) as training:
        training.network.to(memory_format=layout)
        assert torch.equal(training.network.weight, decode(encoding))
        assert training.network.weight.is_contiguous(memory_format=layout)
        training.network.weight.backward(gradient)
        found = dict(training.network.named_parameters())
    latent = found["parametrizations.weight.0.latent"]
    torch.testing.assert_close(found["parametrizations.weight.original"].grad, expected)
    assert torch.equal(latent, latents[support])
    torch.testing.assert_close(latent.grad, (gradient * factors)[support])
    assert latent.ndim == 1  # a trainer decays weights of two axes and more


@pytest.mark.parametrize("layout", LAYOUTS)
@given(st.sampled_from(KINDS), st.integers(1, 5), st.integers(0, 99))
def test_each_kept_weight_moves_to_the_nearest_centroid(layout, kind, n_centroids, seed):
    encoding = encode(kind, seed=seed, n_centroids=n_centroids)
    latents = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
    model = CompressedModel.dense(a_conv()).with_encodings({"weight": encoding})
    with trainable(model, latents={"weight": latents}) as training:
        training.network.to(memory_format=layout)
        training.reassign()
        indices, centroids, support, factors = parts(encoding)
        moved = training.indices("weight")
        distances = (latents[..., None] - centroids).abs()
        assert torch.equal(moved[support].long(), distances.argmin(-1)[support])
        assert torch.equal(moved[~support], indices[~support])
        expected = torch.where(support, centroids[moved.long()], 0.0) * factors
        assert torch.equal(training.value("weight"), expected)
        assert training.network.weight.is_contiguous(memory_format=layout)
        after = training.finish()["weight"]
    assert type(after) is type(encoding)
    assert torch.equal(decode(after), expected)
    assert codebook_of(after).codebook_size == max(1, len(moved[support].unique()))


def test_while_none_moves_a_centroid_stays_at_the_mean_of_its_latent_values():
    values = torch.randn(6, 5)
    indices = nearest(values, torch.tensor([-1.0, 0.0, 1.0]))
    means = torch.stack([values[indices == i].mean() for i in range(3)])
    model = CompressedModel.dense(nn.Linear(5, 6)).with_encodings({"weight": Codebook(indices, Dense(means))})
    with trainable(model, latents={"weight": values}) as training:
        optimizer = torch.optim.SGD(training.network.parameters(), lr=0.1, momentum=0.9)
        for _ in range(5):
            optimizer.zero_grad()
            training.network(torch.randn(3, 5)).square().mean().backward()
            optimizer.step()
        found = dict(training.network.named_parameters())
        centroids, latent = (found[f"parametrizations.weight.{name}"] for name in ("original", "0.latent"))
        assert not torch.allclose(centroids, means, atol=1e-2)
        for i in range(3):
            torch.testing.assert_close(centroids[i], latent[indices.flatten() == i].mean(), atol=1e-5, rtol=1e-5)


def test_a_centroid_without_weights_stays_and_wins_them_back_or_goes_at_the_end():
    structure = Structure(
        Codebook(torch.tensor([[0, 1, 1]], dtype=torch.uint8), Dense(torch.zeros(2))), centroid_gradient="mean"
    )
    weight = Reassigned(structure, torch.tensor([[0.9, 1.0, 1.2]]), is_trained=True)
    centroids = torch.tensor([0.0, 1.0], requires_grad=True)
    weight.reassign(centroids)
    assert weight.indices.tolist() == [[1, 1, 1]]
    weight(centroids).sum().backward()
    assert centroids.grad.tolist() == [0.0, 1.0]
    encoding = weight.encode(centroids)
    assert isinstance(encoding, Codebook)
    assert (encoding.codebook_size, encoding.indices.tolist()) == (1, [[0, 0, 0]])
    with torch.no_grad():
        weight.latent[0] = 0.4
    weight.reassign(centroids)
    assert weight.indices.tolist() == [[0, 1, 1]]
    assert codebook_of(weight.encode(centroids)).codebook_size == 2


def test_a_checkpoint_holds_all_that_changes():
    encoding, x = encode("scaled_sparse"), torch.randn(2, 2, 3, 3)
    model = CompressedModel.dense(a_conv()).with_encodings({"weight": encoding})

    def steps(training, optimizer, n):
        for _ in range(n):
            optimizer.zero_grad()
            training.network(x).square().sum().backward()
            optimizer.step()
            training.reassign()

    def start(training):
        return torch.optim.SGD(training.network.parameters(), lr=0.05, momentum=0.9)

    with trainable(model, latents={"weight": decode(encoding)}) as training:
        optimizer = start(training)
        steps(training, optimizer, 3)
        saved = copy.deepcopy((dict(training.network.state_dict()), optimizer.state_dict()))
        steps(training, optimizer, 3)
        indices, uncut = training.indices("weight"), training.finish()["weight"]
    assert not torch.equal(indices, codebook_of(encoding).indices)
    with trainable(model, latents={"weight": decode(encoding)}) as training:
        training.network(x)
        optimizer = start(training)
        training.network.load_state_dict(saved[0])
        optimizer.load_state_dict(saved[1])
        steps(training, optimizer, 3)
        assert torch.equal(training.indices("weight"), indices)
        assert torch.equal(decode(training.finish()["weight"]), decode(uncut))


def test_a_tied_weight_has_one_latent_value_for_each_weight():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    model = CompressedModel.dense(Tied())
    name = next(iter(model.encodings))
    model = model.with_encodings({name: encode("codebook", (4, 4))})
    with trainable(model, latents={name: torch.randn(4, 4)}) as training:
        assert len(list(training.network.parameters())) == 2
        training.reassign()
        training.network(torch.randn(2, 4)).sum().backward()
        assert torch.equal(training.network.first.weight, training.network.second.weight)


def test_a_frozen_weight_has_frozen_latent_values():
    network = a_conv()
    network.weight.requires_grad = False
    model = CompressedModel.dense(network).with_encodings({"weight": encode("codebook")})
    with trainable(model, latents={"weight": torch.randn(SHAPE)}) as training:
        assert not any(p.requires_grad for p in training.network.parameters())
        training.network(torch.randn(1, 2, 3, 3))


def test_pruning_on_the_way_takes_weights_out_for_good():
    encoding = encode("sparse")
    model = CompressedModel.dense(a_conv()).with_encodings({"weight": encoding})
    with trainable(model, latents={"weight": torch.randn(SHAPE)}) as training:
        fewer = training.support("weight") & (torch.rand(SHAPE) < 0.5)
        training.restrict("weight", fewer)
        training.reassign()
        training.network.weight.sum().backward()
        assert not training.value("weight")[~fewer].any()
        after = training.finish()["weight"]
    assert torch.equal(support_of(after), fewer)
    assert codebook_of(after).codebook_size == len(decode(after)[fewer].unique())


def test_weights_of_their_own_have_no_centroid_to_choose():
    structure = Structure(Dense(torch.ones(2, 2)), centroid_gradient="mean")
    with pytest.raises(EncodingError, match="cluster it first"):
        Reassigned(structure, torch.ones(2, 2), is_trained=True)
