"""Tests of PruneChannels: which channels go, what it asks for, what it refuses, and that a killed run goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

import dwindle as dw
from dwindle.errors import NetworkError, RecipeError, SelectionError, SettingError
from dwindle.job.control import control_recipe
from dwindle.network.channel_scores import taylor_scores
from dwindle.network.compressed import CompressedModel
from dwindle.network.groups import find_groups
from dwindle.runtimes.torch import TorchRuntime
from dwindle.technique import Context, Needs
from dwindle.testing.small import PlainTrainer, small_context, small_network

SHAPE = (1, 8, 8)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 8, 3, padding=1)
        self.hidden, self.head = nn.Linear(8, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.second(functional.relu(self.norm(self.first(x)))))
        return self.head(functional.relu(self.hidden(x.mean(dim=(2, 3)))))


def plain(seed: int = 0) -> Plain:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Plain().eval()


def prune(network: nn.Module | None = None, context: Context | None = None, **settings: Any) -> CompressedModel:
    step = dw.PruneChannels(**({"pruning_ratio": 0.5, "round_to": 1} | settings))
    model = CompressedModel.dense(plain() if network is None else network)
    return step.apply(model, small_context() if context is None else context)


def kept(model: CompressedModel) -> dict[str, int]:
    return {name: after for name, (_, after) in model.history[-1].decisions["channels"].items()}


def test_half_of_each_layer_goes() -> None:
    model = prune()
    assert kept(model) == {"first": 8, "second": 4, "hidden": 6}
    assert model.network(torch.zeros(3, *SHAPE)).shape == (3, 4)
    assert model.history[-1].decisions["left"] == {"head": "its channels are outputs of the network"}


def test_how_many_stay_is_rounded_up() -> None:
    assert kept(prune(round_to=8)) == {"first": 8, "second": 8, "hidden": 8}
    assert kept(prune(pruning_ratio=0.4, round_to=4)) == {"first": 12, "second": 8, "hidden": 8}


def test_rounds_end_at_the_same_number() -> None:
    assert kept(prune(rounds=3, epochs=0.5)) == kept(prune())


def test_rounds_that_find_nothing_left_to_cut_still_train() -> None:
    """Two channels become one in the second of four rounds; the epochs of the others are trained all the same."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4)).eval()
    context = small_context()
    assert isinstance(context.trainer, PlainTrainer)
    for scope in ("layer", "global"):
        context.trainer.calls.clear()
        model = prune(network, context, pruning_ratio=0.8, rounds=4, epochs=4, scope=scope)
        assert model.history[-1].decisions["channels"] == {"0": [2, 1]}
        assert len(context.trainer.calls) == 4
        assert len(model.history[-1].curve) == 4


def test_all_layers_together_none_loses_too_much() -> None:
    network = plain()
    with torch.no_grad():
        network.second.weight[:7] *= 1e-3  # all but one channel of the second layer are next to nothing
        network.hidden.weight[:, :7] *= 1e-3
    model = prune(network, scope="global", pruning_ratio=0.3, max_pruning_ratio=0.5)
    assert kept(model)["second"] == 4
    assert kept(prune(network, scope="global", pruning_ratio=0.3))["second"] == 1


@pytest.mark.parametrize("importance", ["l1", "l2", "taylor"])
def test_channels_that_do_nothing_go_first(importance: str) -> None:
    network = plain()
    with torch.no_grad():
        for tensor in (network.first.weight, network.first.bias, network.norm.weight, network.norm.bias):
            tensor[::2] = 0.0
        network.second.weight[:, ::2] = 0.0
    before = network(torch.ones(2, *SHAPE))
    model = prune(network, importance=importance, select=dw.Select(names=("first.weight",)))
    assert kept(model) == {"first": 8}
    torch.testing.assert_close(model.network(torch.ones(2, *SHAPE)), before)


def test_batch_norm_factors_rank() -> None:
    network = plain()
    with torch.no_grad():
        network.norm.weight.copy_(torch.arange(16.0) * torch.tensor([1.0, -1.0]).repeat(8))
    model = prune(network, importance="batchnorm", select=dw.Select(names=("first.weight",)))
    assert model.network.get_parameter("norm.weight").abs().tolist() == [float(n) for n in range(8, 16)]
    with pytest.raises(NetworkError, match=r"'second' pass no batch norm.*importance='l2'"):
        prune(network, importance="batchnorm")


def test_a_selection_takes_whole_groups() -> None:
    assert kept(prune(select=dw.Select(exclude=("hidden.*",)))) == {"first": 8, "second": 4}
    with pytest.raises(SelectionError, match=r"no channel of the 1 selected weights.*outputs of the network"):
        prune(select=dw.Select(names=("head.weight",)))
    with pytest.raises(SelectionError, match="select every layer whose outputs are added together"):
        prune(small_network(), select=dw.Select(names=("depthwise.weight",)))


class Added(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 8), nn.Linear(64, 8)
        self.c, self.head = nn.Linear(8, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.head(functional.relu(self.c(functional.relu(self.a(x) + self.b(x)))))


@pytest.mark.parametrize(("one", "other"), [("a", "b"), ("b", "a")])
def test_a_layer_whose_partner_is_not_selected_stays_with_a_reason(one: str, other: str) -> None:
    model = prune(Added().eval(), select=dw.Select(names=(f"{one}.weight", "c.weight")))
    assert kept(model) == {"c": 3}
    reason = f"its channels are coupled with those of '{other}', not selected as well"
    assert model.history[-1].decisions["left"] == {one: reason}
    with pytest.raises(SelectionError, match=f"no channel of the 1 selected weights.*{reason}"):
        prune(Added().eval(), select=dw.Select(names=(f"{one}.weight",)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pruning_ratio": 1.0}, r"pruning_ratio is .* got 1\.0"),
        ({"pruning_ratio": -0.1}, r"got -0\.1"),
        ({"pruning_ratio": float("nan")}, "got nan"),
        ({"importance": "size"}, "importance is 'l1'.*'size'"),
        ({"scope": "model"}, "scope 'layer' or 'global'.*'model'"),
        ({"max_pruning_ratio": 0.0}, "max_pruning_ratio must be in"),
        ({"round_to": 0}, "round_to must be at least 1, got 0"),
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"n_batches": 0}, "n_batches must be at least 1, got 0"),
        ({"epochs": 0.0}, "epochs must be positive"),
        ({"learning_rate": 0.1}, "give epochs, or add FineTune"),
        ({"distillation": dw.Distillation()}, "give epochs, or add FineTune"),
        ({"epochs": 1, "learning_rate": -1.0}, "learning_rate must be positive"),
    ],
)
def test_settings_that_make_no_sense_are_told(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=f"PruneChannels: .*{message}"):
        dw.PruneChannels(**({"pruning_ratio": 0.5} | settings))


def test_it_says_what_it_needs() -> None:
    assert dw.PruneChannels(pruning_ratio=0.5).needs == Needs.EXAMPLE
    assert dw.PruneChannels(pruning_ratio=0.5, importance="taylor").needs == Needs.EXAMPLE | Needs.TRAINING
    taught = dw.PruneChannels(pruning_ratio=0.5, epochs=1, distillation=dw.Distillation())
    assert taught.needs == Needs.EXAMPLE | Needs.TRAINING | Needs.TEACHER
    with pytest.raises(RecipeError, match="needs an example batch"):
        prune(context=Context())
    with pytest.raises(RecipeError, match="give the context a trainer"):
        prune(context=replace(small_context(), trainer=None), epochs=1)


def test_ranking_by_the_loss_is_no_training_of_the_dense_baseline() -> None:
    ranked = dw.PruneChannels(pruning_ratio=0.5, importance="taylor")
    trained = dw.PruneChannels(pruning_ratio=0.5, importance="taylor", epochs=2, learning_rate=0.1)
    assert control_recipe(dw.Recipe((ranked,))) == dw.Recipe(())
    steps = (dw.FineTune(epochs=2, learning_rate=0.1), dw.FineTune(epochs=0.3))
    assert control_recipe(dw.Recipe((ranked, trained, dw.FineTune(epochs=0.3)))) == dw.Recipe(steps)


def test_rounding_that_leaves_everything_is_told() -> None:
    with pytest.raises(
        RecipeError, match=r"round_to=64 leaves all channels of groups of \[8, 12, 16\]; lower round_to"
    ):
        prune(round_to=64)
    assert kept(prune(pruning_ratio=0.0)) == {"first": 16, "second": 8, "hidden": 12}


def test_quantized_activations_are_refused() -> None:
    quantized = dw.QuantizeStatic().apply(CompressedModel.dense(plain()), small_context())
    with pytest.raises(RecipeError, match="ranges of its activations"):
        dw.PruneChannels(pruning_ratio=0.5).apply(quantized, small_context())


def test_scores_of_the_loss_do_not_train() -> None:
    network, context = plain(), small_context()
    assert context.example is not None
    groups = find_groups(network, context.example).groups
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert isinstance(context.trainer, PlainTrainer)
    scores = taylor_scores(network, groups, trainer=context.trainer, n_batches=3, seed=0, stage="score")
    assert {name: one.numel() for name, one in scores.items()} == {"first": 16, "second": 8, "hidden": 12}
    assert all(float(one.min()) >= 0 and float(one.max()) > 0 for one in scores.values())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_scores_of_a_channel_are_the_squared_change_of_the_loss() -> None:
    """To first order: on one batch, the sum of gradient times weight over everything that computes the channel."""
    context = small_context()
    assert isinstance(context.trainer, PlainTrainer)
    assert context.example is not None
    network = plain()
    trainer = replace(context.trainer, batch_size=24)
    (group,) = (one for one in find_groups(network, context.example).groups if one.name == "hidden")
    found = taylor_scores(network, [group], trainer=trainer, n_batches=1, seed=0, stage="score")["hidden"]
    network.train()
    functional.cross_entropy(network(trainer.inputs), trainer.targets).backward()
    weight, bias = network.hidden.weight, network.hidden.bias
    assert weight.grad is not None
    assert bias.grad is not None
    wanted = ((weight.grad * weight).sum(dim=1) + bias.grad * bias).square().double()
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-4, atol=1e-10)


def test_scores_do_not_depend_on_what_is_frozen() -> None:
    """With some layers frozen, or with all of them, the same channels go."""
    network = plain()
    with torch.no_grad():
        for tensor in (network.first.weight, network.first.bias, network.norm.weight, network.norm.bias):
            tensor[:8] = 0.0
    wanted = prune(network, importance="taylor").network
    assert bool(wanted.get_parameter("first.weight").detach().flatten(1).any(dim=1).all())
    for frozen in (network.first, network):
        frozen.requires_grad_(requires_grad=False)
        found = prune(network, importance="taylor").network
        assert all(torch.equal(tensor, wanted.state_dict()[name]) for name, tensor in found.state_dict().items())
        assert not found.get_parameter("first.weight").requires_grad


@pytest.mark.parametrize("with_fabric", [False, True])
def test_scores_of_a_container_that_calls_all_its_modules(with_fabric: bool) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    context = small_context()
    if with_fabric:
        data = TensorDataset(torch.randn(32, *SHAPE), torch.arange(32) % 4)
        context = replace(context, trainer=dw.FabricTrainer(train=data, batch_size=16))
    model = prune(network, context, importance="taylor")
    assert kept(model) == {"1": 8}
    assert set(model.network.state_dict()) == set(network.state_dict())


class KilledError(Exception):
    pass


def test_a_killed_run_goes_on_with_what_its_scores_have_seen(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(64, *SHAPE, generator=generator), torch.arange(64) % 4)
    step = dw.PruneChannels(
        pruning_ratio=0.5, round_to=1, importance="taylor", n_batches=12, rounds=2, epochs=4, learning_rate=0.01
    )

    def run(folder: Path, stop_at: int | None) -> CompressedModel:
        calls = 0

        def tick(what: str, done: int, total: int) -> None:
            nonlocal calls
            calls += 1
            if calls == stop_at:
                raise KilledError

        trainer = dw.FabricTrainer(train=data, batch_size=16, workdir=folder, report_progress=tick)
        context = Context(seed=3, example=torch.zeros(1, *SHAPE), trainer=trainer)
        return step.apply(CompressedModel.dense(plain()), context)

    wanted = run(tmp_path / "whole", None).digest()
    for stop_at in (7, 15, 25):
        folder = tmp_path / str(stop_at)
        with pytest.raises(KilledError):
            run(folder, stop_at)
        assert run(folder, None).digest() == wanted


def test_the_file_runs_in_torch_and_comes_out_of_the_cache(tmp_path: Path) -> None:
    context = replace(small_context(), workdir=tmp_path / "work")
    steps = (
        dw.PruneChannels(pruning_ratio=0.5, round_to=1, epochs=0.5),
        dw.Cluster(codebook_size=4),
        dw.FoldBatchNorm(),
    )
    cached: list[bool] = []
    for _ in range(2):
        model = dw.Recipe(steps).run(
            CompressedModel.dense(plain()), context, on_stage=lambda stage: cached.append(stage.was_cached)
        )
    assert cached == [False, False, False, True, True, True]
    assert context.example is not None
    result = dw.deploy(model, context.example, tmp_path / "out", formats=("dwn",))
    with TorchRuntime(network=plain(seed=9)).load(result.artifacts["dwn"]) as session:
        (found,) = session.run(context.example.numpy())
    with torch.no_grad():
        assert np.array_equal(found, model.network(context.example).numpy())
