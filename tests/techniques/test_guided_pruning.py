"""This file tests pruning that is shared out among layers by how much they matter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import dwindle as dw
from dwindle.core.encoding import support_of
from dwindle.errors import RecipeError, SettingError
from dwindle.network.compressed import CompressedModel
from dwindle.recipe import Recipe
from dwindle.settings import from_plain, to_plain
from dwindle.technique import Needs
from dwindle.testing.small import small_context


class Chain(nn.Module):
    """Four linear layers, each with weights twice as wide as the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(16, 16) for _ in range(4)))
        for number, layer in enumerate(self.layers):
            nn.init.normal_(layer.weight, std=0.1 * 2**number)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(1)[:, :16])


NAMES = tuple(f"layers.{number}.weight" for number in range(4))
GUIDE = dw.Guide(by=dw.WeightDeviation(), ratio=8.0)


def dense() -> CompressedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CompressedModel.dense(Chain().eval())


def kept(model: CompressedModel) -> list[int]:
    supports = [support_of(model.encodings[name]) for name in NAMES]
    return [256 if support is None else int(support.sum()) for support in supports]


def test_layers_that_matter_more_stay_denser_and_the_total_is_that_of_the_sparsity() -> None:
    found = kept(dw.PruneWeights(sparsity=0.8, guide=GUIDE).apply(dense(), small_context()))
    assert found == sorted(found)
    assert found[3] / found[0] == pytest.approx(8.0, rel=0.1)
    assert sum(found) == pytest.approx(0.2 * 1024, abs=4)


def test_the_control_is_the_other_way_round() -> None:
    forward = kept(dw.PruneWeights(sparsity=0.8, guide=GUIDE).apply(dense(), small_context()))
    reverse = kept(
        dw.PruneWeights(sparsity=0.8, guide=replace(GUIDE, is_reversed=True)).apply(dense(), small_context())
    )
    assert reverse == forward[::-1]


def test_a_schedule_ends_at_the_same_sparsities() -> None:
    at_once = dw.PruneWeights(sparsity=0.8, guide=GUIDE)
    little_by_little = replace(at_once, schedule=dw.Polynomial(), epochs=2.0)
    assert kept(little_by_little.apply(dense(), small_context())) == kept(at_once.apply(dense(), small_context()))


def test_the_record_holds_scores_and_shares_and_replays() -> None:
    start, context = dense(), small_context()
    model = Recipe((dw.PruneWeights(sparsity=0.8, guide=GUIDE),)).run(start, context)
    found = model.history[0].decisions["guide"]
    assert found[NAMES[3]]["score"] == pytest.approx(0.8, rel=0.2)
    assert found[NAMES[0]]["sparsity"] > found[NAMES[3]]["sparsity"]
    assert Recipe.replay(model.history, start, context).digest() == model.digest()


def test_a_guide_without_its_data_is_told_before_the_run() -> None:
    step = dw.PruneWeights(sparsity=0.5, guide=dw.Guide(by=dw.LossSensitivity()))
    assert Needs.LABELS in step.needs
    with pytest.raises(RecipeError, match="needs LABELS"):
        Recipe((step,)).run(dense(), replace(small_context(), validation=None))


def test_settings_come_back_from_plain_values() -> None:
    step = dw.PruneWeights(sparsity=0.5, guide=dw.Guide(by=dw.PCAChange(), ratio=4.0))
    assert from_plain(dw.PruneWeights, to_plain(step), where="step") == step


@pytest.mark.parametrize(
    "settings",
    [
        {"std_multiplier": 1.0},
        {"sparsity": 0.5, "scope": "global"},
        {"sparsity": 0.5, "criterion": "std"},
        {"sparsity": 0.5, "scope": "lamp"},
        {"pattern": dw.NOfM(n=2, m=4)},
        {"sparsity": 0.5, "rewind": dw.Rewind(), "epochs": 1.0},
    ],
)
def test_a_guide_needs_a_sparsity_to_share_out(settings: dict[str, object]) -> None:
    with pytest.raises(SettingError, match="guide shares a sparsity out"):
        dw.PruneWeights(guide=GUIDE, **settings)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("ratio", [0.5, 0.0, float("nan"), float("inf")])
def test_a_ratio_below_one_is_refused(ratio: float) -> None:
    with pytest.raises(SettingError, match="ratio must be at least 1"):
        dw.Guide(ratio=ratio)
