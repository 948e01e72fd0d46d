"""This file tests the run that all trainings with rounded weights share: how long, when frozen, what comes back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

from dwindle.core.encoding import affine_of, decode
from dwindle.core.granularity import PerTensor
from dwindle.errors import NetworkError
from dwindle.network.aware import training_graph
from dwindle.network.capture import capture
from dwindle.network.compressed import CompressedModel
from dwindle.network.rounded_training import RoundedTraining
from dwindle.network.weight_grids import UniformGrid


@dataclass(eq=False)
class Scripted:
    """A trainer of four steps an epoch that adds `change` to every parameter in each step."""

    change: float = 0.01
    calls: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])
    frozen: list[bool] = field(default_factory=list[bool])
    steps_per_epoch: int = 4

    def __call__(self, network: nn.Module, **arguments: Any) -> tuple[Mapping[str, float], ...]:
        self.calls.append(arguments)
        for step in range(1, arguments["steps"] + 1):
            self._note(network)
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.add_(self.change)
            if arguments["after_step"] is not None:
                arguments["after_step"](step)
        self._note(network)
        return ({"loss": 1.0},)

    def _note(self, network: nn.Module) -> None:
        flags = {bool(module.frozen) for module in network.modules() if hasattr(module, "frozen")}
        self.frozen.append(flags == {True})


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 3)).eval()


def grids(model: CompressedModel) -> dict[str, UniformGrid]:
    encoding = model.encodings["3.weight"]
    return {"3.weight": UniformGrid(encoding, n_bits=4, granularity=PerTensor(), scale="extremes")}


@pytest.mark.parametrize(
    ("epochs", "freeze_after", "n_steps", "first_frozen"),
    [(0.01, 1.0, 1, 1), (1, 0.0, 4, 0), (1, 0.5, 4, 2), (1, 0.6, 4, 3), (2, 1.0, 8, 8), (1.5, 0.75, 6, 5)],
)
def test_graphs_are_frozen_at_their_share_of_the_steps(
    epochs: float, freeze_after: float, n_steps: int, first_frozen: int
):
    model = CompressedModel.dense(network())
    graph = training_graph(capture(model.network, torch.randn(2, 1, 4, 4)), {}, folded=())
    trainer = Scripted()
    training = RoundedTraining(trainer=trainer, epochs=epochs, seed=5, stage="s", freeze_after=freeze_after)
    training.run(model, grids(model), network=graph)
    assert trainer.calls[0]["steps"] == n_steps
    assert trainer.frozen == [step >= first_frozen for step in range(n_steps + 1)]


def test_the_trainer_is_told_what_it_needs_and_its_curve_comes_back():
    def loss(*_: Any) -> torch.Tensor:
        return torch.zeros(())

    model, trainer = CompressedModel.dense(network()), Scripted()
    training = RoundedTraining(
        trainer=trainer, epochs=1, seed=5, stage="s", learning_rate=0.3, loss_for=lambda _: nullcontext(loss)
    )
    _, curve = training.run(model, grids(model))
    assert curve == ({"loss": 1.0},)
    wanted = {"steps": 4, "seed": 5, "stage": "s", "learning_rate": 0.3, "loss": loss, "after_step": None}
    assert trainer.calls == [wanted]


@pytest.mark.parametrize("is_graph", [True, False])
def test_what_has_a_grid_comes_back_as_codes_and_the_model_stays(is_graph: bool):
    model = CompressedModel.dense(network())
    digest = model.digest()
    graph = training_graph(capture(model.network, torch.randn(2, 1, 4, 4)), {}, folded=()) if is_graph else None
    found, _ = RoundedTraining(trainer=Scripted(), epochs=1, seed=0, stage="s").run(model, grids(model), network=graph)
    assert model.digest() == digest
    moved = decode(model.encodings["3.weight"]) + 4 * 0.01
    step = moved.abs().max() / 7
    torch.testing.assert_close(decode(found["3.weight"]), (moved / step).round() * step)
    assert affine_of(found["0.weight"]) is None
    torch.testing.assert_close(decode(found["0.weight"]), decode(model.encodings["0.weight"]) + 0.04)


@pytest.mark.parametrize("change", [math.nan, math.inf])
def test_a_trainer_that_leaves_nan_is_one_clear_error(change: float):
    model = CompressedModel.dense(network())
    training = RoundedTraining(trainer=Scripted(change=change), epochs=1, seed=0, stage="s")
    with pytest.raises(NetworkError, match=r"training left NaN or infinite values in '0.weight'; lower the learning"):
        training.run(model, grids(model))
