from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dwindle.core.encoding import Half, decode
from dwindle.core.ranges import Calibration
from dwindle.errors import RecipeError, SettingError
from dwindle.network.capture import capture
from dwindle.network.compressed import CompressedModel
from dwindle.network.placement import biased_layers
from dwindle.network.simulate import simulate
from dwindle.recipe import Recipe
from dwindle.technique import Context, Needs
from dwindle.techniques.cast_half import CastHalf
from dwindle.techniques.correct_bias import CorrectBias
from dwindle.techniques.fine_tune import FineTune
from dwindle.techniques.fold_batchnorm import FoldBatchNorm
from dwindle.techniques.prune_weights import PruneWeights
from dwindle.techniques.quantize_static import QuantizeStatic
from dwindle.techniques.quantize_weights import QuantizeWeights
from dwindle.testing.small import small_context, small_network

N = 96


class Chain(nn.Module):
    """Two convolutions, one behind a batch norm, and a linear layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(2, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.wide = nn.Conv2d(8, 8, 3)
        self.linear, self.head = nn.Linear(8, 8), nn.Linear(8, 4, bias=False)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)
        nn.init.normal_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        x = torch.relu(self.wide(x)).mean((2, 3))
        return self.head(torch.relu(self.linear(torch.relu(self.linear(x)))))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return Chain().eval()


@pytest.fixture(scope="module")
def context(network: nn.Module) -> Context:
    x = torch.randn(N, 2, 8, 8, generator=torch.Generator().manual_seed(1)) + 0.5
    return Context(example=x[:2], calibration=list(x.split(32)), reference=network)


@pytest.fixture(scope="module")
def coarse(network: nn.Module, context: Context) -> CompressedModel:
    return QuantizeStatic(weights=3, calibration=Calibration(n=N)).apply(CompressedModel.dense(network), context)


def _error(model: CompressedModel, network: nn.Module, context: Context) -> float:
    calibration: Any = context.calibration
    x = torch.cat(list(calibration))
    with torch.no_grad():
        wanted, found = network(x), simulate(model, x[:2])(x)
    return float(((found - wanted).square().sum() / wanted.square().sum()).sqrt())


@pytest.mark.parametrize(
    ("technique", "factor"),
    [(CorrectBias(), 0.97), (CorrectBias(method="learned", steps=60, learning_rate=0.03), 0.8)],
)
def test_the_answers_come_closer(technique, factor, network, context, coarse) -> None:
    after = technique.apply(coarse, context)
    before, corrected = _error(coarse, network, context), _error(after, network, context)
    assert corrected < factor * before
    decisions = after.history[-1].decisions
    assert decisions["answer_error_before"] == pytest.approx(before, rel=1e-3)
    assert decisions["answer_error_after"] == pytest.approx(corrected, rel=1e-3)
    assert decisions["kept"] == "new biases"
    assert decisions["left"] == ["head.weight"]
    changed = {
        name for name, e in after.encodings.items() if not torch.equal(decode(e), decode(coarse.encodings[name]))
    }
    assert changed == {"conv.bias", "wide.bias", "linear.bias"}
    assert after.activations == coarse.activations


def test_the_mean_of_every_channel_is_restored(network, context) -> None:
    quantized = QuantizeWeights(n_bits=3).apply(FoldBatchNorm().apply(CompressedModel.dense(network), context), context)
    after = CorrectBias().apply(quantized, context)
    folded = FoldBatchNorm().apply(CompressedModel.dense(network), context).network
    x = torch.cat(list(context.calibration))
    with torch.no_grad():
        for path in ("conv", "wide"):
            wanted, found = (_output(net, path, x).mean((0, 2, 3)) for net in (folded, after.network))
            assert torch.allclose(found, wanted, atol=1e-5)
            assert not torch.allclose(_output(quantized.network, path, x).mean((0, 2, 3)), wanted, atol=1e-3)


def _output(network: nn.Module, path: str, x: Tensor) -> Tensor:
    kept: list[Tensor] = []
    handle = network.get_submodule(path).register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    network(x)
    handle.remove()
    return kept[0]


def test_a_layer_that_is_called_twice_is_one_layer(network) -> None:
    layers = biased_layers(capture(network, torch.zeros(2, 2, 8, 8)))
    assert [(layer.bias, len(layer.sites)) for layer in layers] == [("wide.bias", 1), ("linear.bias", 2)]


def test_float16_biases_stay_float16(network, context) -> None:
    start = QuantizeWeights(n_bits=3).apply(
        CastHalf().apply(FoldBatchNorm().apply(CompressedModel.dense(network), context), context), context
    )
    after = CorrectBias().apply(start, context)
    changed = {name for name, encoding in after.encodings.items() if encoding is not start.encodings[name]}
    assert changed == {"conv.bias", "wide.bias", "linear.bias"}
    assert all(isinstance(after.encodings[name], Half) for name in changed)
    assert all(torch.equal(decode(e), after.network.state_dict()[name]) for name, e in after.encodings.items())
    found = after.history[-1].decisions["answer_error_after"]
    assert found == pytest.approx(_error(after, network, context), rel=1e-6)


def test_a_loss_that_overflows_can_be_written_into_a_file() -> None:
    network = nn.Linear(4, 3).eval()
    with torch.no_grad():
        network.weight.mul_(1e25)  # the square of an answer is beyond float32
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    start = QuantizeWeights(n_bits=3).apply(CompressedModel.dense(network), Context())
    context = Context(example=x, calibration=[x], reference=network)
    decisions = CorrectBias(method="learned", steps=1).apply(start, context).history[-1].decisions
    assert decisions["first_loss"] == "not finite"
    json.dumps(decisions, allow_nan=False)


def test_worse_biases_are_not_kept(context, coarse) -> None:
    wild = CorrectBias(method="learned", steps=1, learning_rate=1.0).apply(coarse, context)
    assert wild.history[-1].decisions["answer_error_after"] > wild.history[-1].decisions["answer_error_before"]
    assert wild.digest() == coarse.digest()
    uncompressed = CorrectBias().apply(CompressedModel.dense(context.reference), context)
    assert uncompressed.history[-1].decisions["kept"].startswith("old biases")
    assert uncompressed.digest() == CompressedModel.dense(context.reference).digest()


def test_no_more_than_n_examples_are_used(context, coarse) -> None:
    first = replace(context, calibration=[next(iter(context.calibration))[:10]])
    assert CorrectBias(n=10).apply(coarse, context).digest() == CorrectBias(n=500).apply(coarse, first).digest()


def test_a_reference_of_another_shape_is_refused(context, coarse) -> None:
    with pytest.raises(RecipeError, match=r"no layer with bias .*Context\(reference=\.\.\.\)"):
        CorrectBias().apply(coarse, replace(context, reference=nn.Sequential(nn.Conv2d(2, 8, 3))))
    with pytest.raises(RecipeError, match="needs Context"):
        CorrectBias().apply(coarse, replace(context, reference=None))
    bare = nn.Sequential(nn.Conv2d(2, 3, 1, bias=False))
    with pytest.raises(SettingError, match="put FoldBatchNorm before"):
        CorrectBias().apply(CompressedModel.dense(bare), replace(context, reference=bare))


@pytest.mark.parametrize("wrong", [{"n": 0}, {"steps": 0}, {"learning_rate": 0.0}, {"learning_rate": 2.0}])
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="must be"):
        CorrectBias(**wrong)


def test_a_recipe_keeps_the_network_as_it_was_before_it_was_quantized(tmp_path: Path) -> None:
    context = replace(small_context(), reference=None)
    recipe = Recipe((PruneWeights(sparsity=0.4), FineTune(epochs=1), QuantizeStatic(weights=4), CorrectBias()))
    assert recipe.check(context) == []
    model = CompressedModel.dense(small_network())
    stages: list[CompressedModel] = []
    after = recipe.run(model, context, on_stage=lambda stage: stages.append(stage.model))
    by_hand = CorrectBias().apply(stages[2], replace(context, reference=stages[1].network))
    assert after.digest() == by_hand.digest()
    assert Recipe.replay(after.history, model, context).digest() == after.digest()
    cached = replace(context, workdir=tmp_path)
    digests = [recipe.run(model, cached).digest() for _ in range(2)]
    assert digests == [after.digest()] * 2


def test_a_model_that_is_quantized_already_needs_a_reference() -> None:
    context = replace(small_context(), reference=None)
    quantized = QuantizeWeights().apply(CompressedModel.dense(small_network()), context)
    problems = Recipe((CorrectBias(),)).check(context, model=quantized)
    assert problems == [problem for problem in problems if "Context(reference=...)" in problem] != []
    assert Recipe((CorrectBias(),)).check(small_context(), model=quantized) == []
    assert CorrectBias().needs & Needs.REFERENCE
