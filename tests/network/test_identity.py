"""This file tests that the name of a piece of code changes when the code does."""

from __future__ import annotations

import copy
import functools
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import dwindle as dw
from dwindle.data.augment import Chain, RandomCrop, RandomFlip
from dwindle.network.identity import code_of, identify
from dwindle.recipe.cache import StageCache


def load(path: Path, text: str) -> Any:
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_another_body_under_the_same_name_is_another_function(tmp_path: Path) -> None:
    first = load(tmp_path / "a.py", "def loss(o, t):\n    return o - t\n").loss
    second = load(tmp_path / "b.py", "def loss(o, t):\n    return t - o\n").loss
    again = load(tmp_path / "c.py", "def loss(o, t):\n    return o - t\n").loss
    assert identify(first) == identify(again)
    assert identify(first) != identify(second)
    assert identify(first).startswith("loss#")


def test_what_a_function_holds_belongs_to_it() -> None:
    def smoothed(amount: float) -> Any:
        return lambda output, target: amount * output

    class Weighted:
        def __init__(self, weight: float) -> None:
            self.weight = weight

        def __call__(self, output: Any, target: Any) -> Any:
            return self.weight * output

    assert identify(smoothed(0.1)) != identify(smoothed(0.2))
    assert identify(Weighted(1.0)) != identify(Weighted(2.0))
    assert identify(functools.partial(smoothed, 0.1)) != identify(functools.partial(smoothed, 0.2))
    assert identify(Weighted(1.0)) == identify(Weighted(1.0))


@pytest.mark.parametrize("function", [len, functools.partial(len)])
def test_what_has_no_source_goes_by_its_name(function: Any) -> None:
    assert identify(function).startswith("len")


NETWORK = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
    def forward(self, x):
        return self.layer({})
"""


def test_a_cached_stage_is_not_met_by_other_code_with_the_same_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain, negated = (load(tmp_path / f"{n}.py", NETWORK.format(n)).Net() for n in ("x", "x.neg()"))
    negated.load_state_dict(plain.state_dict())
    assert code_of(plain) != code_of(negated)
    cache, step, context = StageCache(tmp_path), dw.PruneWeights(sparsity=0.5), dw.Context()
    keys = {cache.key(step, dw.CompressedModel.dense(network), context) for network in (plain, negated)}
    assert len(keys) == 2


def test_layers_of_torch_are_all_alike_to_it() -> None:
    assert code_of(nn.Sequential(nn.Linear(2, 2))) == code_of(nn.Sequential(nn.Conv2d(1, 1, 1)))


def test_a_checkpoint_is_not_met_by_another_loss_of_the_same_name(tmp_path: Path) -> None:
    train = TensorDataset(torch.randn(8, 3), torch.randn(8, 2))
    for factor in ("1.0", "2.0"):
        text = f"def loss(output, target):\n    return {factor} * (output - target).square().mean()\n"
        loss: Any = load(tmp_path / f"l{factor[0]}.py", text).loss
        trainer = dw.FabricTrainer(train=train, batch_size=4, base_loss=loss, workdir=tmp_path, accelerator="cpu")
        trainer(nn.Linear(3, 2).requires_grad_(), steps=2, seed=0, stage="s")
    assert len(list(tmp_path.glob("s-*.ckpt"))) == 2


def test_a_tensor_in_a_closure_is_left_alone() -> None:
    weight: Tensor = torch.ones(2)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return (weight * (output - target)).mean()

    assert "weight" not in identify(loss).partition("#")[2]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (RandomCrop(padding=4), RandomCrop(padding=2)),
        (Chain((RandomCrop(),)), Chain((RandomFlip(),))),
        (Chain((RandomCrop(padding=4),)), Chain((RandomCrop(padding=2),))),
    ],
)
def test_settings_of_dataclasses_with_slots_count_however_deep(first, second):
    assert identify(first) != identify(second)
    assert identify(first) == identify(copy.deepcopy(first))
