"""This file tests that training changes floats and never structure."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrize

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
    is_half,
    support_of,
)
from dwindle.core.granularity import PerTensor
from dwindle.core.half import to_half
from dwindle.errors import EncodingError, NetworkError
from dwindle.network.compressed import CompressedModel
from dwindle.network.parametrize import trainable

KINDS = ("dense", "sparse", "codebook", "sparse_codebook", "scaled_codebook", "scaled_sparse", "scaled_sparse_codebook")
HALVES = ("half", "sparse_half", "codebook_half", "scaled_half")


def encode(kind: str, values: Tensor, *, n_centroids: int = 4) -> Encoding:
    support = torch.rand(values.shape) < 0.5
    codebook = Codebook(
        torch.randint(0, n_centroids, values.shape, dtype=torch.uint8), Dense(torch.randn(n_centroids) * 0.5)
    )
    factor = torch.randn(values.shape[0])
    return {
        "dense": lambda: Dense(values),
        "sparse": lambda: Sparse(support, Dense(torch.where(support, values, 0.0))),
        "codebook": lambda: codebook,
        "sparse_codebook": lambda: Sparse(support, codebook),
        "scaled_codebook": lambda: Scaled(codebook, factor, 0),
        "scaled_sparse": lambda: Scaled(Sparse(support, Dense(torch.where(support, values, 0.0))), factor, 0),
        "scaled_sparse_codebook": lambda: Scaled(Sparse(support, codebook), factor, 0),
        "half": lambda: to_half(values),
        "sparse_half": lambda: Sparse(support, to_half(torch.where(support, values, 0.0))),
        "codebook_half": lambda: Codebook(codebook.indices, to_half(decode(codebook.centroids))),
        "scaled_half": lambda: Scaled(to_half(values), factor, 0),
    }[kind]()


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bn(self.conv(x)).relu().flatten(1))


class TiedText(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 6)
        self.rnn = nn.LSTM(6, 6, batch_first=True)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.out = nn.Linear(6, 7)
        self.out.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.rnn(self.embedding(x))[0]
        return self.out(h + self.attention(h, h, h)[0])


def image() -> Tensor:
    return torch.randn(5, 2, 4, 4)


def text() -> Tensor:
    return torch.randint(0, 7, (3, 5))


def model_of(network: nn.Module, kind: str) -> CompressedModel:
    dense = CompressedModel.dense(network)
    weights = {name: e for name, e in dense.encodings.items() if decode(e).ndim >= 2}
    return dense.with_encodings({name: encode(kind, decode(e)) for name, e in weights.items()})


def train(network: nn.Module, x: Tensor, steps: int = 3) -> None:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()


def require_same_structure(before: Encoding, after: Encoding) -> None:
    assert type(before) is type(after)
    old_support, new_support = support_of(before), support_of(after)
    assert (old_support is None) == (new_support is None)
    if old_support is not None and new_support is not None:
        assert torch.equal(old_support, new_support)
        assert not decode(after)[~new_support].any()
    old_book, new_book = codebook_of(before), codebook_of(after)
    if old_book is not None and new_book is not None:
        assert torch.equal(old_book.indices, new_book.indices)
        assert old_book.codebook_size == new_book.codebook_size
    if isinstance(before, Scaled) and isinstance(after, Scaled):
        assert torch.equal(before.factor, after.factor)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("build", "draw"), [(Convolutional, image), (TiedText, text)])
def test_training_keeps_structure_and_returns_what_the_network_computed_with(build, draw, kind, channels_last):
    torch.manual_seed(0)
    model = model_of(build(), kind)
    digest, x = model.digest(), draw()
    with trainable(model) as training:
        assert torch.equal(training.network.eval()(x), model.network.eval()(x))
        if channels_last:
            training.network.to(memory_format=torch.channels_last)
        train(training.network.train(), x)
        trained = {name: training.value(name).clone() for name in model.encodings if name in training._owners}
        expected = training.network.eval()(x)
        changed = training.finish()
        assert not any(parametrize.is_parametrized(m) for m in training.network.modules())
        torch.testing.assert_close(copy.deepcopy(training.network)(x), expected)
    after = model.with_encodings(changed)
    assert model.digest() == digest != after.digest()
    assert set(changed) == set(model.encodings)
    for name, encoding in changed.items():
        require_same_structure(model.encodings[name], encoding)
        assert decode(encoding).is_contiguous()
        if name in trained:
            assert torch.equal(decode(encoding), trained[name])
            assert decode(encoding).ndim < 2 or not torch.equal(decode(model.encodings[name]), trained[name])
    torch.testing.assert_close(after.network.eval()(x), expected)


def test_a_tied_weight_is_one_parameter_before_and_after():
    model = model_of(TiedText(), "sparse_codebook")
    with trainable(model) as training:
        names = [n for n, _ in training.network.named_parameters() if n.startswith(("embedding", "out.p"))]
        assert names == ["embedding.parametrizations.weight.original"]
        train(training.network, text())
        assert torch.equal(training.network.out.weight, training.network.embedding.weight)
        changed = training.finish()
        assert training.network.out.weight is training.network.embedding.weight
    assert "out.weight" not in changed


def test_batch_norm_statistics_are_updated_and_returned():
    model = CompressedModel.dense(Convolutional())
    with trainable(model) as training:
        train(training.network.train(), image(), steps=2)
        changed = training.finish()
    assert int(decode(changed["bn.num_batches_tracked"])) == 2
    assert not torch.equal(decode(changed["bn.running_mean"]), torch.zeros(4))
    assert int(decode(model.encodings["bn.num_batches_tracked"])) == 0


def test_integer_codes_are_frozen_and_not_returned():
    model = CompressedModel.dense(Convolutional())
    codes = torch.randint(-7, 8, (3, 64), dtype=torch.int32)
    affine = Affine(codes, torch.tensor([0.1]), torch.zeros(1, dtype=torch.int32), PerTensor(), 4, signed=True)
    model = model.with_encodings({"head.weight": Sparse(codes != 0, affine)})
    with trainable(model) as training:
        train(training.network, image())
        assert torch.equal(training.value("head.weight"), decode(affine))
        with pytest.raises(EncodingError, match="integer codes are not trained"):
            training.restrict("head.weight", codes > 0)
        changed = training.finish()
    assert "head.weight" not in changed
    assert "conv.weight" in changed


def test_a_parameter_that_the_user_froze_stays():
    network = Convolutional()
    network.conv.weight.requires_grad_(False)
    model = model_of(network, "sparse_codebook")
    with trainable(model) as training:
        train(training.network, image())
        changed = training.finish()
        assert not training.network.conv.weight.requires_grad
    assert torch.equal(decode(changed["conv.weight"]), decode(model.encodings["conv.weight"]))


@pytest.mark.parametrize("kind", KINDS)
def test_restrict_prunes_on_the_way_and_nothing_comes_back(kind):
    torch.manual_seed(1)
    model, x = model_of(Convolutional(), kind), image()
    everything = torch.ones(3, 64, dtype=torch.bool)
    with trainable(model) as training:
        training.restrict("head.weight", everything)
        start = training.support("head.weight")
        optimizer = torch.optim.SGD(training.network.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
        kept = start
        for step in range(4):
            kept = kept & (torch.rand(3, 64) < 0.8)
            training.restrict("head.weight", kept)
            if step == 2:
                training.restrict("head.weight", everything)
            optimizer.zero_grad()
            training.network(x).square().mean().backward()
            optimizer.step()
            assert not training.value("head.weight")[~kept].any()
            assert torch.equal(training.support("head.weight"), kept)
        changed = training.finish()
    assert torch.equal(support_of(changed["head.weight"]), kept)
    assert not decode(changed["head.weight"])[~kept].any()
    before = support_of(model.encodings["head.weight"])
    assert before is None or torch.equal(before, start)


def test_a_checkpoint_of_the_copy_holds_the_mask():
    model = model_of(Convolutional(), "sparse_codebook")
    with trainable(model) as training:
        fewer = training.support("head.weight") & (torch.rand(3, 64) < 0.5)
        training.network(image())
        training.restrict("head.weight", fewer)
        saved, expected = copy.deepcopy(dict(training.network.state_dict())), training.value("head.weight")
    with trainable(model) as training:
        training.network(image())
        training.network.load_state_dict(saved)
        assert torch.equal(training.value("head.weight"), expected)
        assert torch.equal(support_of(training.finish()["head.weight"]), fewer)
    assert not torch.equal(support_of(model.encodings["head.weight"]), fewer)


@pytest.mark.parametrize(
    ("name", "support", "words"),
    [
        ("nope", torch.ones(3, 64, dtype=torch.bool), "'nope' is not an encoded weight"),
        ("head.weight", torch.ones(3, 64), "must be bool"),
        ("head.weight", torch.ones(64, 3, dtype=torch.bool), r"shape \(3, 64\)"),
    ],
)
def test_restrict_refuses(name, support, words):
    with trainable(CompressedModel.dense(Convolutional())) as training, pytest.raises(EncodingError, match=words):
        training.restrict(name, support)


def test_hooks_and_modes_stay_with_the_caller():
    network, calls = Convolutional(), []
    network.conv.register_forward_hook(lambda *_: calls.append(1))
    network.eval()
    model = model_of(network, "sparse")
    with trainable(model) as training:
        train(training.network.train(), image(), steps=1)
        changed = training.finish()
    after = model.with_encodings(changed).network
    assert not model.network.training
    assert not after.training
    n_calls = len(calls)
    after(image())
    assert len(calls) == n_calls + 1
    assert type(after.conv) is nn.Conv2d


def test_parametrizations_go_also_where_training_fails():
    model = model_of(Convolutional(), "sparse")
    with pytest.raises(RuntimeError, match="boom"), trainable(model) as training:
        raise RuntimeError("boom")
    assert not any(parametrize.is_parametrized(m) for m in training.network.modules())


def test_a_network_changed_behind_the_models_back_is_refused():
    model = CompressedModel.dense(Convolutional())
    del model.network.head
    with pytest.raises(NetworkError, match=r"lacks the encoded tensors \['head.bias'"), trainable(model):
        pass


@given(st.integers(1, 5), st.integers(1, 40), st.booleans(), st.sampled_from(["mean", "sum"]), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_centroid_gets_the_mean_or_the_sum_of_its_kept_weights_gradients(k, n, is_sparse, rule, seed):
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(n, 1, bias=False)
    indices = torch.randint(0, k, (1, n), generator=generator, dtype=torch.uint8)
    support = torch.rand(1, n, generator=generator) < 0.5 if is_sparse else torch.ones(1, n, dtype=torch.bool)
    book = Codebook(indices, Dense(torch.randn(k, generator=generator)))
    model = CompressedModel.dense(layer).with_encodings({"weight": Sparse(support, book) if is_sparse else book})
    x = torch.randn(1, n, generator=generator)
    with trainable(model, centroid_gradient=rule) as training:
        training.network(x).sum().backward()
        (centroids,) = training.network.parameters()
        got = centroids.grad
    for i in range(k):
        shared = x[(indices == i) & support]
        expected = shared.sum() if rule == "sum" or not len(shared) else shared.mean()
        torch.testing.assert_close(got[i], expected, atol=1e-5, rtol=1e-5)


def test_a_look_up_reads_kept_weights_alone():
    torch.manual_seed(0)
    support = torch.rand(100, 200) < 0.1
    book = Codebook(torch.randint(0, 16, (100, 200), dtype=torch.uint8), Dense(torch.randn(16)))
    model = CompressedModel.dense(nn.Linear(200, 100)).with_encodings({"weight": Sparse(support, book)})
    with trainable(model) as training:
        training.network.weight.sum().backward()
        prepared = training.network.parametrizations.weight[0]._prepared[1]
        assert len(prepared.indices) == len(prepared.positions) == int(support.sum())
        training.network.weight.sum().backward()
        assert training.network.parametrizations.weight[0]._prepared[1] is prepared
        training.restrict("weight", torch.zeros_like(support))
        training.network.weight.sum().backward()
        assert len(training.network.parametrizations.weight[0]._prepared[1].indices) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_no_weight_and_no_gradient_changes_its_order_in_memory(kind):
    torch.manual_seed(0)
    model = model_of(Convolutional(), kind)
    gradient = torch.randn(4, 2, 3, 3)
    found = {}
    for order in (torch.contiguous_format, torch.channels_last):
        with trainable(model) as training:
            training.network.to(memory_format=order)
            weight = training.network.conv.weight
            assert weight.is_contiguous(memory_format=order)
            weight.backward(gradient)  # in row-major order, whatever the weight's
            (parameter,) = (p for n, p in training.network.named_parameters() if n.startswith("conv") and "weight" in n)
            found[order] = weight.detach().contiguous(), parameter.grad.contiguous()
    for one, other in zip(*found.values(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_pruned_gradient_is_zero_and_a_kept_one_untouched():
    model = model_of(Convolutional(), "sparse")
    with trainable(model) as training:
        support = training.support("conv.weight")
        training.network.conv.weight.backward(torch.full((4, 2, 3, 3), 3.0))
        (parameter,) = training.network.conv.parametrizations.weight.parameters()
        assert torch.equal(parameter.grad, torch.where(support, 3.0, 0.0))


def test_long_sums_are_exact_to_float32():
    n = 300_000  # more than two blocks
    book = Codebook((torch.arange(n) % 3).to(torch.uint8).reshape(1, n), Dense(torch.zeros(5)))
    model = CompressedModel.dense(nn.Linear(n, 1, bias=False)).with_encodings({"weight": book})
    x = torch.rand(1, n, generator=torch.Generator().manual_seed(0))
    with trainable(model, centroid_gradient="sum") as training:
        training.network(x).sum().backward()
        (centroids,) = training.network.parameters()
        expected = torch.stack([x[0, i::3].double().sum() for i in range(3)]).float()
        assert torch.equal(centroids.grad[:3], expected)
        assert not centroids.grad[3:].any()


@pytest.mark.parametrize("kind", HALVES)
def test_float16_numbers_train_as_floats_and_are_rounded_when_done(kind: str):
    torch.manual_seed(0)
    network = nn.Linear(6, 4)
    dense = CompressedModel.dense(network)
    model = dense.with_encodings({"weight": encode(kind, decode(dense.encodings["weight"]))})
    with trainable(model) as copy_:
        optimizer = torch.optim.SGD(copy_.network.parameters(), lr=0.05)
        for _ in range(3):
            optimizer.zero_grad()
            copy_.network(torch.ones(2, 6)).square().sum().backward()
            optimizer.step()
        trained = copy_.value("weight")
        changed = copy_.finish()
    after = model.with_encodings(changed)
    assert describe(after.encodings["weight"]) == describe(model.encodings["weight"])
    assert is_half(after.encodings["weight"])
    decoded = decode(after.encodings["weight"])
    assert not torch.equal(decoded, decode(model.encodings["weight"]))
    torch.testing.assert_close(decoded, trained, rtol=2**-10, atol=1e-7)
    assert torch.equal(after.network.state_dict()["weight"], decoded)


def test_a_float16_weight_that_grows_beyond_its_range_is_one_clear_error():
    model = CompressedModel.dense(nn.Linear(2, 2))
    model = model.with_encodings({"bias": to_half(torch.zeros(2))})
    with trainable(model) as copy_:
        with torch.no_grad():
            copy_.network.bias.fill_(1e6)
        with pytest.raises(EncodingError, match=r"'bias': 2 values lie beyond \+-65504"):
            copy_.finish()
