"""This file tests pruning by magnitude: how many weights go, which, and when."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

import dwindle as dw
from dwindle.core.encoding import decode, restrict, support_of
from dwindle.errors import RecipeError, SettingError
from dwindle.network.select import weight_names
from dwindle.technique import Needs, Trait
from dwindle.testing import PlainTrainer, small_context, small_network


@pytest.fixture
def dense() -> dw.CompressedModel:
    """Return two layers of which the second has weights a tenth as large."""
    network = nn.Sequential(nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 10))
    with torch.no_grad():
        network[2].weight.copy_(torch.randn(10, 10) / 10)
        network[0].weight.copy_(torch.randn(10, 20))
    return dw.CompressedModel.dense(network)


def zeros(model: dw.CompressedModel) -> dict[str, int]:
    return {name: int((~support_of(model.encodings[name])).sum()) for name in ("0.weight", "2.weight")}


def test_per_layer_each_layer_gets_its_share(dense):
    after = dw.PruneWeights(sparsity=0.9).apply(dense, dw.Context())
    assert zeros(after) == {"0.weight": 180, "2.weight": 90}
    assert support_of(after.encodings["0.bias"]) is None
    magnitudes = decode(dense.encodings["0.weight"]).abs()
    support = support_of(after.encodings["0.weight"])
    assert magnitudes[support].min() > magnitudes[~support].max()
    found = after.history[-1].decisions
    assert found["sparsity"] == pytest.approx(0.9)
    assert found["tensors"]["2.weight"]["sparsity"] == pytest.approx(0.9)
    assert found["tensors"]["0.weight"]["threshold"] == float(magnitudes[support].min())


def test_globally_small_layers_pay_for_large_ones(dense):
    after = dw.PruneWeights(sparsity=0.5, scope="global").apply(dense, dw.Context())
    assert sum(zeros(after).values()) == 150
    assert zeros(after)["2.weight"] > 85
    assert after.history[-1].decisions["sparsity"] == pytest.approx(0.5)


def test_the_std_rule_is_equation_1_of_tian(dense):
    after = dw.PruneWeights(std_multiplier=0.7).apply(dense, dw.Context())
    for name in ("0.weight", "2.weight"):
        weight = decode(dense.encodings[name])
        expected = weight.abs() >= 0.7 * weight.std(correction=0)
        assert torch.equal(support_of(after.encodings[name]), expected)
    assert after.history[-1].decisions["std_multiplier"] == 0.7


def test_the_std_rule_finds_its_multiplier(dense):
    after = dw.PruneWeights(sparsity=0.8, criterion="std").apply(dense, dw.Context())
    assert sum(zeros(after).values()) == 240
    multiplier = after.history[-1].decisions["std_multiplier"]
    again = dw.PruneWeights(std_multiplier=multiplier).apply(dense, dw.Context())
    assert again.digest() == after.digest()


def test_only_selected_weights_are_pruned(dense):
    after = dw.PruneWeights(sparsity=0.5, select=dw.Select(names=("2.*",), exclude=("*bias",))).apply(
        dense, dw.Context()
    )
    assert support_of(after.encodings["0.weight"]) is None
    assert list(after.history[-1].decisions["tensors"]) == ["2.weight"]


def test_pruning_everything_of_a_tensor_leaves_no_threshold():
    model = dw.CompressedModel.dense(nn.Linear(2, 2, bias=False))
    nothing = {"weight": restrict(model.encodings["weight"], torch.zeros(2, 2, dtype=torch.bool))}
    after = dw.PruneWeights(sparsity=0.5).apply(model.with_encodings(nothing), dw.Context())
    assert after.history[-1].decisions["tensors"]["weight"] == {"sparsity": 1.0, "threshold": None}


class TestOnASchedule:
    recipe = dw.PruneWeights(sparsity=0.75, schedule=dw.Polynomial(end=0.8, frequency=1), epochs=2)

    def test_it_reaches_its_sparsity_and_learns(self):
        before = dw.CompressedModel.dense(small_network())
        after = self.recipe.apply(before, small_context())
        for name in weight_names(before.network):
            support = support_of(after.encodings[name])
            assert int((~support).sum()) == int(0.75 * support.numel())
            assert not torch.equal(decode(after.encodings[name])[support], decode(before.encodings[name])[support])
        record = after.history[-1]
        assert len(record.curve) == 2
        assert record.decisions["sparsity"] == pytest.approx(0.75, abs=0.01)

    def test_sparsity_rises_step_by_step_and_zeros_never_come_back(self):
        context = small_context()
        seen: list[torch.Tensor] = []

        class Watching(PlainTrainer):
            def __call__(self, network, *, after_step, **arguments):
                def watch(step):
                    after_step(step)
                    seen.append(network.head.weight.detach() == 0)

                return super().__call__(network, after_step=watch, **arguments)

        trainer = Watching(inputs=context.trainer.inputs, targets=context.trainer.targets)
        self.recipe.apply(dw.CompressedModel.dense(small_network()), dw.Context(trainer=trainer))
        counts = [int(mask.sum()) for mask in seen]
        assert counts == sorted(counts)
        assert len(set(counts)) > 3
        assert not any((earlier & ~later).any() for earlier, later in pairwise(seen))

    def test_two_equal_steps_train_under_different_names(self):
        context = small_context()
        twice = dw.Recipe((self.recipe, self.recipe))
        twice.run(dw.CompressedModel.dense(small_network()), context)
        assert len(set(context.trainer.calls)) == 2

    def test_a_trained_scheme_keeps_the_codebook(self):
        context = small_context()
        clustered = dw.Cluster(codebook_size=4).apply(dw.CompressedModel.dense(small_network()), context)
        after = self.recipe.apply(clustered, context)
        values = decode(after.encodings["head.weight"])
        assert len(values[support_of(after.encodings["head.weight"])].unique()) <= 4

    def test_it_says_what_it_needs(self):
        assert self.recipe.needs == Needs.TRAINING
        assert Trait.INTEGER in self.recipe.effect.refuses
        assert dw.PruneWeights(sparsity=0.5).needs == Needs.NOTHING
        with pytest.raises(RecipeError, match="give the context a trainer"):
            self.recipe.apply(dw.CompressedModel.dense(small_network()), dw.Context())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "exactly one of sparsity and std_multiplier, got sparsity=None"),
        ({"sparsity": 0.5, "std_multiplier": 1.0}, "exactly one of"),
        ({"sparsity": 1.0}, r"\[0, 1\), got 1\.0"),
        ({"sparsity": -0.1}, r"got -0\.1"),
        ({"sparsity": float("nan")}, "got nan"),
        ({"std_multiplier": -1.0}, r"at least 0 and finite, got -1\.0"),
        ({"std_multiplier": float("inf")}, "got inf"),
        ({"sparsity": 0.5, "criterion": "size"}, "criterion is 'magnitude' or 'std'"),
        ({"sparsity": 0.5, "scope": "network"}, "scope 'layer' or 'global'"),
        ({"std_multiplier": 1.0, "scope": "global"}, "leave scope out"),
        ({"sparsity": 0.5, "epochs": 2}, r"to train afterwards add FineTune"),
        ({"sparsity": 0.5, "learning_rate": 0.1}, r"belong to a schedule"),
        ({"sparsity": 0.5, "schedule": dw.Constant()}, "give positive epochs, got None"),
        ({"sparsity": 0.5, "schedule": dw.Constant(), "epochs": 0}, "give positive epochs, got 0"),
        (
            {"sparsity": 0.5, "schedule": dw.Constant(), "epochs": 1, "learning_rate": 0.0},
            r"must be positive, got 0\.0",
        ),
        (
            {"sparsity": 0.5, "schedule": dw.Constant(), "epochs": 1, "criterion": "std"},
            "a schedule ends at a sparsity",
        ),
        ({"std_multiplier": 1.0, "schedule": dw.Constant(), "epochs": 1}, "a schedule ends at a sparsity"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        dw.PruneWeights(**settings)
