"""This file tests selections by significance: resolved by a recipe, on the network as it was given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import dwindle as dw
from dwindle.core.encoding import codebook_of, support_of
from dwindle.errors import RecipeError, SelectionError, SettingError
from dwindle.network.compressed import CompressedModel
from dwindle.recipe import Recipe
from dwindle.technique import Context, evidence_of
from dwindle.testing.small import small_context


class Chain(nn.Module):
    """Five linear layers, each with weights twice as wide as the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(8, 8) for _ in range(5)))
        for number, layer in enumerate(self.layers):
            nn.init.normal_(layer.weight, std=0.1 * 2**number)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(1)[:, :8])


NAMES = tuple(f"layers.{number}.weight" for number in range(5))
WIDE = dw.Significance(by=dw.WeightDeviation(), threshold=0.3)
NARROW = replace(WIDE, side="insignificant")
SPLIT = Recipe(
    (
        dw.Cluster(codebook_size=4, select=dw.Select(significance=NARROW)),
        dw.PruneWeights(sparsity=0.5, select=dw.Select(significance=WIDE)),
    )
)


def dense() -> CompressedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CompressedModel.dense(Chain().eval())


def test_two_sides_share_out_the_layers_between_the_ends() -> None:
    model = SPLIT.run(dense(), small_context())
    assert [name for name in NAMES if codebook_of(model.encodings[name])] == [NAMES[1]]
    assert [name for name in NAMES if support_of(model.encodings[name]) is not None] == [NAMES[2], NAMES[3]]


def test_the_side_is_that_of_the_network_as_given_whatever_earlier_steps_did() -> None:
    shrink = dw.PruneWeights(sparsity=0.99, select=dw.Select(names=(NAMES[2],)))  # its deviation falls below 0.3
    model = Recipe((shrink, *SPLIT.steps)).run(dense(), small_context())
    assert codebook_of(model.encodings[NAMES[2]]) is None


def test_the_record_says_names_and_scores_and_replays_without_data() -> None:
    start = dense()
    model = SPLIT.run(start, small_context())
    first = model.history[0]
    assert first.settings["select"] == {"type": "Select", "names": [NAMES[1]], "types": [], "exclude": []}
    found = first.decisions["significance"]
    assert found["significant"] == [NAMES[2], NAMES[3]]
    assert found["scores"][NAMES[3]]["value"] > found["scores"][NAMES[1]]["value"]
    assert Recipe.replay(model.history, start, Context(seed=7)).digest() == model.digest()


def test_a_side_without_layers_is_skipped_and_says_so() -> None:
    none = dw.Significance(by=dw.WeightDeviation(), threshold=1e6)
    start = dense()
    recipe = Recipe((dw.PruneWeights(sparsity=0.5, select=dw.Select(significance=none)), dw.Cluster()))
    model = recipe.run(start, small_context())
    assert model.history[0].decisions["skipped"]
    assert model.history[0].digest == start.digest()
    assert len(model.history) == 2
    assert Recipe.replay(model.history, start, Context(seed=7)).digest() == model.digest()


def test_a_killed_run_goes_on_from_the_cache_with_the_same_record(tmp_path: Path) -> None:
    context = replace(small_context(), workdir=tmp_path)
    first = SPLIT.run(dense(), context)
    cached: list[bool] = []
    second = SPLIT.run(dense(), context, on_stage=lambda stage: cached.append(stage.was_cached))
    assert cached == [True, True]
    assert second.history == first.history


def test_toml_brings_a_selection_back() -> None:
    text = SPLIT.to_toml()
    assert Recipe.from_toml(text).steps == SPLIT.steps
    assert 'side = "insignificant"' in text


def test_check_asks_for_what_the_criterion_needs() -> None:
    select = dw.Select(significance=dw.Significance(by=dw.TwoNNChange(), threshold=20.0))
    recipe = Recipe((dw.Cluster(select=select),))
    problems = recipe.check(Context())
    assert any("EXAMPLE" in problem and "CALIBRATION" in problem for problem in problems)
    assert recipe.check(small_context()) == []


def test_check_knows_that_two_sides_never_meet() -> None:
    narrow, wide = dw.Select(significance=NARROW), dw.Select(significance=WIDE)
    apart = Recipe((dw.QuantizeWeights(select=narrow), dw.Cluster(select=wide)))
    together = Recipe((dw.QuantizeWeights(select=wide), dw.Cluster(select=wide)))
    assert apart.check(small_context(), model=dense()) == []
    assert any("cannot follow" in problem for problem in together.check(small_context(), model=dense()))


def test_a_pattern_that_matches_nothing_is_found_before_the_run() -> None:
    select = dw.Select(names=("head.*",), significance=WIDE)
    with pytest.raises(RecipeError, match=r"'head\.\*' matches no weight"):
        Recipe((dw.Cluster(select=select),)).run(dense(), small_context())


def test_outside_a_recipe_the_step_says_that_data_are_needed() -> None:
    with pytest.raises(SelectionError, match="run the step in a Recipe"):
        dw.Cluster(select=dw.Select(significance=WIDE)).apply(dense(), small_context())


def test_no_layer_between_the_ends_is_an_error() -> None:
    select = dw.Select(names=NAMES[:2], significance=WIDE)
    with pytest.raises(SelectionError, match="of 2 selected weights, 2 of them in use, none is left to judge"):
        Recipe((dw.Cluster(select=select),)).run(dense(), small_context())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "either threshold or share"),
        ({"threshold": 1.0, "share": 0.5}, "either threshold or share"),
        ({"threshold": float("nan")}, "finite"),
        ({"share": 1.5}, r"in \[0, 1\]"),
        ({"share": 0.5, "side": "left"}, "one of significant, insignificant"),
    ],
)
def test_a_cut_that_makes_no_sense_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        dw.Significance(**settings)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("share", "n"), [(0.0, 0), (0.34, 1), (0.5, 2), (1.0, 3)])
def test_a_share_takes_the_highest_scores(share: float, n: int) -> None:
    network = dense().network
    judged = dw.Significance(by=dw.WeightDeviation(), share=share).judge(network, evidence_of(small_context()), NAMES)
    assert judged.significant == NAMES[1:4][3 - n :]
