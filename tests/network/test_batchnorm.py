from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from dwindle.core.affine import quantize
from dwindle.core.encoding import Affine, Codebook, Dense, Encoding, Scaled, Sparse, decode, describe
from dwindle.core.granularity import PerChannel, PerTensor
from dwindle.errors import NetworkError
from dwindle.network.activations import ActivationQuantizer, CallSite
from dwindle.network.batchnorm import fold_batchnorms, multiply, plan_folds
from dwindle.network.capture import capture
from dwindle.network.compressed import CompressedModel, FoldedBatchNorm
from dwindle.network.edits import apply_edits


class Block(nn.Module):
    """A residual block with a depthwise convolution; each batch norm follows another kind of layer."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, n, 3, padding="same", bias=False), nn.BatchNorm2d(n), nn.ReLU())
        self.depthwise = nn.Conv2d(n, n, 3, padding=1, groups=n)
        self.norm = nn.BatchNorm2d(n, affine=False)
        self.up = nn.ConvTranspose2d(n, 3, 2, stride=2)
        self.up_norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 4)
        self.head_norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = functional.relu(x + self.norm(self.depthwise(x)))
        x = self.up_norm(self.up(x))
        return self.head_norm(self.head(x.mean((2, 3))))


class Custom(nn.Module):
    """Two layers `a` and `b` and a batch norm, put together by `wire`."""

    def __init__(self, a: nn.Module, b: nn.Module, wire: Callable[[Custom, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.norm, self.wire = a, b, nn.BatchNorm2d(4), wire

    def forward(self, x: Tensor) -> Tensor:
        return self.wire(self, x)


class NormAndMore(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(super().forward(x))


def shake(network: nn.Module) -> nn.Module:
    """Give the batch norms statistics and parameters far from 0 and 1: gamma of both signs, and one that is zero."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            module.running_mean.normal_()
            module.running_var.uniform_(0.3, 3.0)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
                with torch.no_grad():
                    module.weight[0] = 0.0
                    module.weight[-1] = -abs(module.weight[-1]) - 0.1
    return network


@settings(max_examples=8)
@given(st.integers(1, 5), st.integers(0, 1000))
def test_a_folded_network_answers_as_before(n_channels: int, seed: int) -> None:
    torch.manual_seed(seed)
    network = shake(Block(n_channels))
    model, x = CompressedModel.dense(network), torch.randn(3, 2, 4, 4)
    folded, edits = fold_batchnorms(model, x)
    pairs = (("stem.0", "stem.1"), ("depthwise", "norm"), ("up", "up_norm"), ("head", "head_norm"))
    assert [(edit.layer, edit.batchnorm) for edit in edits] == list(pairs)
    torch.testing.assert_close(folded.network.eval()(x), network.eval()(x), rtol=1e-4, atol=1e-5)
    assert set(folded.encodings) == set(folded.network.state_dict())
    assert not any("norm" in name for name in folded.encodings)
    assert all(torch.equal(decode(e), folded.network.state_dict()[name]) for name, e in folded.encodings.items())


def test_folding_leaves_its_input_alone_and_keeps_the_mode() -> None:
    model = CompressedModel.dense(shake(Block(2)).train())
    digest = model.digest()
    folded, _ = fold_batchnorms(model, torch.randn(2, 2, 4, 4))
    assert model.digest() == digest
    assert isinstance(model.network.norm, nn.BatchNorm2d)
    assert folded.network.norm.training
    assert isinstance(folded.network.norm, nn.Identity)
    assert folded.n_dense_weights == model.n_dense_weights


def test_edits_replayed_on_a_fresh_network_give_the_same_structure() -> None:
    folded, edits = fold_batchnorms(CompressedModel.dense(Block(2)), torch.randn(2, 2, 4, 4))
    fresh = apply_edits(Block(2), edits)
    assert {k: v.shape for k, v in fresh.state_dict().items()} == {
        k: v.shape for k, v in folded.network.state_dict().items()
    }
    assert isinstance(fresh.stem[0].bias, nn.Parameter)


def test_an_edit_of_another_network_is_refused() -> None:
    with pytest.raises(NetworkError, match="no module 'nowhere'"):
        apply_edits(Block(2), (FoldedBatchNorm("nowhere", "norm"),))


def _structures(weight: Tensor) -> list[tuple[Encoding, str]]:
    indices = (weight > 0).to(torch.uint8)
    codebook = Codebook(indices, Dense(torch.tensor([-0.4, 0.7])))
    support = torch.rand(weight.shape) > 0.5
    eight_bits = quantize(weight, n_bits=8, granularity=PerChannel(0))
    return [
        (Sparse(support, Dense(weight)), "Sparse(Dense)"),
        (codebook, "Scaled(Codebook(2, Dense))"),
        (Sparse(support, codebook), "Scaled(Sparse(Codebook(2, Dense)))"),
        (eight_bits, "Scaled(Affine(8 bit))"),
        (Codebook(indices, quantize(torch.tensor([-0.4, 0.7]), n_bits=8)), "Scaled(Codebook(2, Affine(8 bit)))"),
        (Scaled(codebook, torch.rand(4), 0), "Scaled(Codebook(2, Dense))"),
    ]


@pytest.mark.parametrize("which", range(6))
def test_structure_survives_folding(which: int) -> None:
    network = shake(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    encoding, expected = _structures(network[0].weight.detach())[which]
    model = CompressedModel.dense(network).with_encodings({"0.weight": encoding})
    x = torch.randn(2, 3, 5, 5)
    folded, _ = fold_batchnorms(model, x)
    after = folded.encodings["0.weight"]
    assert describe(after) == expected
    torch.testing.assert_close(folded.network.eval()(x), model.network.eval()(x), rtol=1e-4, atol=1e-5)
    inner = after.values if isinstance(after, Scaled) else None
    if isinstance(inner, Codebook) and isinstance(encoding, Codebook):
        assert inner is encoding


def test_a_factor_of_zero_keeps_codes_and_zeros() -> None:
    codes = quantize(torch.randn(2, 3), n_bits=8)
    product = multiply(codes, torch.tensor([0.0, -2.0]), 0)
    assert isinstance(product, Scaled)
    assert product.values is codes
    assert decode(product)[0].abs().max() == 0


def _plain(c: Custom, x: Tensor) -> Tensor:
    return c.norm(c.a(x))


CONV = {"kernel_size": 1}
UNFOLDABLE: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "not follow": ("follow a conv", lambda: Custom(nn.ReLU(), nn.ReLU(), lambda c, x: c.norm(c.a(x)))),
    "used elsewhere": (
        "also used elsewhere",
        lambda: Custom(nn.Conv2d(4, 4, 1), nn.ReLU(), lambda c, x: c.norm(y := c.a(x)) + y),
    ),
    "called twice": (
        "'a.weight' is used more than once",
        lambda: Custom(nn.Conv2d(4, 4, 1), nn.ReLU(), lambda c, x: c.norm(c.a(c.a(x)))),
    ),
    "norm called twice": (
        "'norm.weight' is used more than once",
        lambda: Custom(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), lambda c, x: c.norm(c.b(c.norm(c.a(x))))),
    ),
    "groups": (
        "two axes",
        lambda: Custom(nn.ConvTranspose2d(4, 4, 1, groups=2), nn.ReLU(), _plain),
    ),
    "computed weight": (
        "computes its weight",
        lambda: Custom(parametrizations.weight_norm(nn.Conv2d(4, 4, 1)), nn.ReLU(), _plain),
    ),
    "linear over pixels": (
        "not normalize the output axis",
        lambda: Custom(nn.Linear(4, 4), nn.ReLU(), _plain),
    ),
}


@pytest.mark.parametrize("case", UNFOLDABLE)
def test_what_cannot_be_folded_is_left_with_a_reason(case: str) -> None:
    reason, build = UNFOLDABLE[case]
    model, x = CompressedModel.dense(shake(build())), torch.randn(2, 4, 4, 4)
    plan = plan_folds(model, capture(model.network, x))
    assert plan.edits == ()
    assert reason in plan.left["norm"]
    folded, edits = fold_batchnorms(model, x)
    assert not edits
    assert folded.digest() == model.digest()


def test_a_norm_without_running_statistics_is_left() -> None:
    network = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    _, edits = fold_batchnorms(CompressedModel.dense(network), torch.randn(2, 2, 3, 3))
    assert edits == ()


def test_a_module_that_does_more_than_normalize_is_left() -> None:
    model = CompressedModel.dense(shake(nn.Sequential(nn.Conv2d(2, 4, 1), NormAndMore(4))))
    plan = plan_folds(model, capture(model.network, torch.randn(2, 2, 3, 3)))
    assert plan.left == {"1": "its module does more than a batch norm"}


def test_tied_layers_are_left() -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
    network[2].weight = network[0].weight
    model = CompressedModel.dense(shake(network))
    plan = plan_folds(model, capture(model.network, torch.randn(2, 4, 3, 3)))
    assert plan.left == {"1": "'0.weight' is used more than once"}


def test_structure_that_folding_would_lose_is_left() -> None:
    network = shake(nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4)))
    dense, x = CompressedModel.dense(network), torch.randn(2, 2, 3, 3)
    weight, bias = (decode(dense.encodings[f"0.{key}"]) for key in ("weight", "bias"))
    inner = Scaled(quantize(weight, n_bits=8), torch.ones(2), 1)
    for changed, reason in (({"0.weight": inner}, "along axis 1"), ({"0.bias": _eight_bits(bias)}, "Affine(8 bit)")):
        model = dense.with_encodings(changed)
        assert reason in plan_folds(model, capture(model.network, x)).left["1"]


def _eight_bits(values: Tensor) -> Affine:
    return quantize(values, n_bits=8, granularity=PerTensor())


def test_ops_that_write_in_place_do_not_hinder_folding() -> None:
    network = shake(Custom(nn.Conv2d(4, 4, 1), nn.ReLU(), lambda c, x: c.norm(c.a(x)).relu_()))
    x = torch.randn(2, 4, 3, 3)
    folded, edits = fold_batchnorms(CompressedModel.dense(network), x)
    assert edits == (FoldedBatchNorm("a", "norm"),)
    torch.testing.assert_close(folded.network.eval()(x), network.eval()(x), rtol=1e-4, atol=1e-5)


def test_folding_after_activations_were_quantized_is_refused() -> None:
    model = CompressedModel.dense(Block(2))
    model = replace(model, activations={CallSite("<input>", 0): ActivationQuantizer(scale=1.0, zero_point=0)})
    with pytest.raises(NetworkError, match="fold before QuantizeStatic"):
        fold_batchnorms(model, torch.randn(2, 2, 4, 4))
