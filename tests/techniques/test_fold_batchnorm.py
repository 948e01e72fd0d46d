from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from dwindle.core.encoding import Dense, decode
from dwindle.errors import NetworkError, RecipeError
from dwindle.network.activations import ActivationQuantizer, CallSite
from dwindle.network.compressed import CompressedModel, FoldedBatchNorm
from dwindle.technique import Context, Needs, Technique, Trait
from dwindle.techniques.fold_batchnorm import FoldBatchNorm

EXAMPLE = torch.zeros(1, 2, 5, 5)


def _network() -> nn.Module:
    norms = [nn.BatchNorm2d(2), nn.BatchNorm2d(3)]
    for norm in norms:
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
        nn.init.normal_(norm.running_mean)
    return nn.Sequential(norms[0], nn.Conv2d(2, 3, 3), norms[1], nn.ReLU())


def test_it_merges_what_it_can_and_records_the_rest() -> None:
    network = _network()
    model = CompressedModel.dense(network)
    after = FoldBatchNorm().apply(model, Context(example=EXAMPLE))
    assert after.edits == (FoldedBatchNorm("1", "2"),)
    record = after.history[-1]
    assert record.decisions == {
        "folded": {"2": "1"},
        "left": {"0": "it does not follow a convolution or a linear layer"},
    }
    assert record.digest == after.digest()
    assert model.edits == ()
    x = torch.randn(4, 2, 5, 5)
    torch.testing.assert_close(after.network.eval()(x), network.eval()(x))


def test_weights_equal_their_encodings_and_folding_again_changes_nothing() -> None:
    context = Context(example=EXAMPLE)
    after = FoldBatchNorm().apply(CompressedModel.dense(_network()), context)
    state = after.network.state_dict()
    assert list(state) == list(after.encodings)
    assert all(torch.equal(decode(encoding), state[name]) for name, encoding in after.encodings.items())
    assert isinstance(after.encodings["1.weight"], Dense)
    assert FoldBatchNorm().apply(after, context).digest() == after.digest()


def test_it_says_what_it_needs_and_does() -> None:
    technique: Technique = FoldBatchNorm()
    assert technique.needs == Needs.EXAMPLE
    assert technique.effect.adds == Trait.FOLDED
    assert technique.effect.refused == Trait.QUANTIZED_ACTIVATIONS


def test_without_an_example_it_refuses() -> None:
    with pytest.raises(RecipeError, match="needs an example"):
        FoldBatchNorm().apply(CompressedModel.dense(_network()), Context())


def test_after_measured_ranges_it_refuses() -> None:
    model = CompressedModel.dense(_network())
    model = replace(model, activations={CallSite("3", 0): ActivationQuantizer(scale=1.0, zero_point=0)})
    with pytest.raises(NetworkError, match="fold before QuantizeStatic"):
        FoldBatchNorm().apply(model, Context(example=EXAMPLE))
