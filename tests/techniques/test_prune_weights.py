"""This file tests pruning by magnitude: how many weights go, which, and when."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
import torch
from torch import nn

import dwindle as dw
from dwindle.core.encoding import decode, restrict, support_of
from dwindle.errors import RecipeError, SettingError
from dwindle.job.control import control_recipe
from dwindle.network.select import weight_names
from dwindle.recipe.cache import StageCache
from dwindle.technique import Needs, Trait, epochs_of
from dwindle.testing import PlainTrainer, small_context, small_network


class SayingTrainer(PlainTrainer):
    """Trains nothing."""

    def __call__(self, network, *, stage, **arguments):
        self.calls.append(stage)
        return ()


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


def leaves_at_most(support: torch.Tensor, n: int, m: int) -> bool:
    """Whether every whole group of m inputs of an output keeps at most n."""
    rows = support.movedim(1, -1).flatten(1)
    whole = rows[:, : rows.shape[1] // m * m]
    return bool((whole.reshape(len(rows), -1, m).sum(-1) <= n).all())


class TestNOfM:
    def test_two_of_four(self, dense):
        after = dw.PruneWeights(pattern=dw.NOfM()).apply(dense, dw.Context())
        assert zeros(after) == {"0.weight": 100, "2.weight": 40}  # ten inputs: two whole groups, and two that stay
        assert leaves_at_most(support_of(after.encodings["0.weight"]), 2, 4)
        assert after.history[-1].decisions["tensors"]["2.weight"]["sparsity"] == pytest.approx(0.4)

    def test_on_a_schedule(self):
        recipe = dw.PruneWeights(pattern=dw.NOfM(n=1, m=3), schedule=dw.Polynomial(end=0.8, frequency=1), epochs=2)
        before = dw.CompressedModel.dense(small_network())
        after = recipe.apply(before, small_context())
        for name in weight_names(before.network):
            assert leaves_at_most(support_of(after.encodings[name]), 1, 3)
        assert int(support_of(after.encodings["head.weight"]).sum()) == 4 * 96 // 3

    def test_a_depthwise_kernel_is_a_row_of_its_own(self):
        before = dw.CompressedModel.dense(small_network())
        after = dw.PruneWeights(pattern=dw.NOfM()).apply(before, dw.Context())
        kept = support_of(after.encodings["depthwise.weight"])  # nine weights: 2 of 4, 2 of 4, and the last
        assert kept.flatten(1).sum(1).tolist() == [5] * 6

    def test_recurrent_and_tied_weights(self):
        network = nn.Sequential(nn.Embedding(6, 8), nn.Linear(8, 6, bias=False), nn.LSTM(6, 4))
        network[1].weight = network[0].weight
        after = dw.PruneWeights(pattern=dw.NOfM()).apply(dw.CompressedModel.dense(network), dw.Context())
        assert torch.equal(after.network[0].weight, after.network[1].weight)
        for name in ("0.weight", "2.weight_ih_l0", "2.weight_hh_l0"):
            assert leaves_at_most(support_of(after.encodings[name]), 2, 4)
            assert support_of(after.encodings[name]).float().mean() < 0.7

    def test_a_transposed_convolution_is_read_from_its_outputs(self):
        network = nn.ConvTranspose1d(8, 6, 3, groups=2)  # weight (8, 3, 3): inputs 0 to 3 lead to outputs 0 to 2
        after = dw.PruneWeights(pattern=dw.NOfM()).apply(dw.CompressedModel.dense(network), dw.Context())
        kept, weight = support_of(after.encodings["weight"]), network.weight.detach().abs()
        for group in range(2):
            inputs = slice(4 * group, 4 * group + 4)
            assert (kept[inputs].sum(0) == 2).all()
            smallest = torch.where(kept, weight, torch.inf)[inputs].amin(0)
            assert (smallest >= torch.where(kept, 0, weight)[inputs].amax(0)).all()

    def test_earlier_zeros_stay_and_count(self, dense):
        once = dw.PruneWeights(sparsity=0.6).apply(dense, dw.Context())
        after = dw.PruneWeights(pattern=dw.NOfM()).apply(once, dw.Context())
        earlier, later = (support_of(m.encodings["0.weight"]) for m in (once, after))
        assert not (later & ~earlier).any()
        groups = earlier.reshape(-1, 4).sum(1)
        assert torch.equal(later.reshape(-1, 4).sum(1), groups.clamp(max=2))

    def test_a_bias_has_no_inputs(self, dense):
        with pytest.raises(SettingError, match=r"'0\.bias': n_of_m_support: weights of shape \(10,\)"):
            dw.PruneWeights(pattern=dw.NOfM(), select=dw.Select(names=("0.*",))).apply(dense, dw.Context())


class TestRewinding:
    recipe = dw.PruneWeights(sparsity=0.75, rewind=dw.Rewind(rounds=2), epochs=2)

    def watched(self, recipe):
        """Return the outcome, and the network's state and stage name at the start of every training."""
        context = small_context()
        seen: list[dict[str, torch.Tensor]] = []

        class Watching(PlainTrainer):
            def __call__(self, network, **arguments):
                state = {n: t.detach().clone() for n, t in network.state_dict().items()}
                seen.append(state | {"head.weight": network.head.weight.detach().clone()})
                return super().__call__(network, **arguments)

        trainer = Watching(inputs=context.trainer.inputs, targets=context.trainer.targets)
        before = dw.CompressedModel.dense(small_network())
        after = recipe.apply(before, dw.Context(trainer=trainer, early=context.early))
        return before, after, seen, trainer.calls

    def test_what_stays_goes_back_to_what_it_was(self):
        before, after, seen, calls = self.watched(self.recipe)
        early = small_network(seed=1)
        assert len(set(calls)) == 2
        for state, share in zip(seen, (0.5, 0.75), strict=True):
            kept = state["head.weight"] != 0
            assert float((~kept).float().mean()) == pytest.approx(share)
            assert torch.equal(state["head.weight"][kept], early.head.weight.detach()[kept])
            for name in ("stem.bias", "norm1.weight", "norm1.running_mean", "norm2.running_var", "head.bias"):
                assert torch.equal(state[name], early.state_dict()[name]), name
        trained = decode(before.encodings["head.weight"]).abs()
        first = seen[0]["head.weight"] != 0  # ranked by the trained values, not by the early ones
        assert trained[first].min() >= trained[~first].max()
        assert not torch.equal(decode(after.encodings["head.weight"]), seen[1]["head.weight"])
        record = after.history[-1]
        assert record.decisions["rounds"] == pytest.approx([0.5, 0.75], abs=0.02)
        assert [epoch["epoch"] for epoch in record.curve] == [1.0, 2.0, 3.0, 4.0]

    def test_the_learning_rate_alone(self):
        recipe = dw.PruneWeights(sparsity=0.5, rewind=dw.Rewind(to="learning_rate"), epochs=1)
        assert recipe.needs == Needs.TRAINING
        before, _, seen, _ = self.watched(recipe)
        kept = seen[0]["head.weight"] != 0
        assert torch.equal(seen[0]["head.weight"][kept], decode(before.encodings["head.weight"])[kept])
        assert torch.equal(seen[0]["norm1.running_mean"], before.network.norm1.running_mean)

    @pytest.mark.parametrize(
        "amount",
        [
            {"sparsity": 0.75, "scope": "global"},
            {"sparsity": 0.75, "criterion": "std"},
            {"sparsity": 0.75, "scope": "lamp"},
            {"pattern": dw.NOfM(n=1)},
        ],
    )
    def test_rounds_with_every_rule(self, amount):
        recipe = dw.PruneWeights(**amount, rewind=dw.Rewind(rounds=3), epochs=0.1)
        after = recipe.apply(dw.CompressedModel.dense(small_network()), small_context())
        rounds = after.history[-1].decisions["rounds"]
        assert rounds == sorted(rounds)
        assert rounds[0] < rounds[2]
        assert after.history[-1].decisions["sparsity"] == pytest.approx(rounds[2])
        if "sparsity" in amount:
            assert rounds == pytest.approx([1 - 0.25 ** (i / 3) for i in (1, 2, 3)], abs=0.01)

    def test_a_killed_run_goes_on_and_ends_at_the_same_weights(self, tmp_path):
        inputs, targets = small_context().trainer.inputs, small_context().trainer.targets

        def trainer(folder, fail_after=None):
            steps = iter(range(1000))

            def report(stage, done, total):
                if fail_after is not None and next(steps) >= fail_after:
                    raise KeyboardInterrupt

            data = torch.utils.data.TensorDataset(inputs, targets)
            return dw.FabricTrainer(
                train=data, batch_size=8, learning_rate=0.05, workdir=folder, report_progress=report, accelerator="cpu"
            )

        before, early = dw.CompressedModel.dense(small_network()), small_network(seed=1)
        whole = self.recipe.apply(before, dw.Context(trainer=trainer(tmp_path / "a"), early=early))
        with pytest.raises(KeyboardInterrupt):
            self.recipe.apply(before, dw.Context(trainer=trainer(tmp_path / "b", fail_after=10), early=early))
        assert list((tmp_path / "b").iterdir())
        resumed = self.recipe.apply(before, dw.Context(trainer=trainer(tmp_path / "b"), early=early))
        assert resumed.digest() == whole.digest()

    def test_it_says_what_it_needs(self):
        assert self.recipe.needs == Needs.TRAINING | Needs.EARLY
        taught = dw.PruneWeights(sparsity=0.5, rewind=dw.Rewind(), epochs=1, distillation=dw.Distillation())
        assert taught.needs == Needs.TRAINING | Needs.EARLY | Needs.TEACHER
        trainer = small_context().trainer
        problems = dw.Recipe((self.recipe,)).check(dw.Context(trainer=trainer))
        assert len(problems) == 1
        assert "EARLY" in problems[0]
        assert "the same network early in training" in problems[0]
        dense = dw.CompressedModel.dense(small_network())
        with pytest.raises(RecipeError, match=r"Context\(early=network\)"):
            self.recipe.apply(dense, dw.Context(trainer=trainer))
        with pytest.raises(RecipeError, match="give the context a trainer"):
            self.recipe.apply(dense, dw.Context(early=small_network()))

    def test_shared_and_folded_weights_cannot_go_back(self):
        for earlier, words in ((dw.Cluster(), "codebooks"), (dw.FoldBatchNorm(), "folded batch norms")):
            (problem,) = dw.Recipe((earlier, self.recipe)).check(small_context())
            assert words in problem
            assert "early in training" in problem

    def test_the_cache_knows_the_early_weights(self, tmp_path):
        before, context = dw.CompressedModel.dense(small_network()), small_context()
        key = StageCache(tmp_path).key(self.recipe, before, context)
        assert StageCache(tmp_path).key(self.recipe, before, context) == key
        other = dataclasses.replace(context, early=small_network(seed=2))
        assert StageCache(tmp_path).key(self.recipe, before, other) != key

    def test_it_counts_all_its_epochs(self):
        assert epochs_of(self.recipe) == 4.0
        (control,) = control_recipe(dw.Recipe((self.recipe,))).steps
        assert control == dw.FineTune(epochs=4.0)


def test_settings_that_came_later_do_not_rename_earlier_checkpoints():
    network = nn.Linear(2, 2)
    nn.init.ones_(network.weight)
    nn.init.zeros_(network.bias)
    trainer = SayingTrainer(inputs=torch.zeros(8, 2), targets=torch.zeros(8))
    recipe = dw.PruneWeights(sparsity=0.5, schedule=dw.Polynomial(), epochs=2)
    recipe.apply(dw.CompressedModel.dense(network), dw.Context(trainer=trainer))
    assert trainer.calls == ["01-prune-53e64618eb05"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "exactly one of sparsity, std_multiplier and pattern, got sparsity=None"),
        ({"sparsity": 0.5, "pattern": dw.NOfM()}, r"got sparsity=0\.5, std_multiplier=None, pattern=NOfM\(n=2, m=4\)"),
        ({"pattern": "2:4"}, "pattern must be a NOfM or None, got '2:4'"),
        ({"sparsity": 0.5, "rewind": "weights", "epochs": 1}, "rewind must be a Rewind or None, got 'weights'"),
        ({"pattern": dw.NOfM(), "scope": "global"}, "leave scope and criterion out"),
        ({"pattern": dw.NOfM(), "criterion": "std"}, "leave scope and criterion out"),
        ({"sparsity": 0.5, "rewind": dw.Rewind()}, "rewind trains again after pruning: give positive epochs, got None"),
        ({"sparsity": 0.5, "rewind": dw.Rewind(), "epochs": float("inf")}, "got inf"),
        ({"sparsity": 0.5, "rewind": dw.Rewind(), "schedule": dw.Constant(), "epochs": 1}, "keep one of them"),
        ({"std_multiplier": 1.0, "rewind": dw.Rewind(rounds=2), "epochs": 1}, "give sparsity .* for std_multiplier"),
        ({"sparsity": 0.5, "std_multiplier": 1.0}, "exactly one of"),
        ({"sparsity": 1.0}, r"\[0, 1\), got 1\.0"),
        ({"sparsity": -0.1}, r"got -0\.1"),
        ({"sparsity": float("nan")}, "got nan"),
        ({"std_multiplier": -1.0}, r"at least 0 and finite, got -1\.0"),
        ({"std_multiplier": float("inf")}, "got inf"),
        ({"sparsity": 0.5, "criterion": "size"}, "criterion is 'magnitude' or 'std'"),
        ({"sparsity": 0.5, "criterion": "std", "scope": "lamp"}, "leave scope out"),
        ({"std_multiplier": 1.0, "scope": "lamp"}, "scope='lamp' ranks magnitudes"),
        ({"sparsity": 0.5, "scope": "network"}, "scope 'layer', 'global' or 'lamp'"),
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
