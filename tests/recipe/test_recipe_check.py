"""This file tests what a recipe finds wrong with itself before anything runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

import dwindle as dw
from dwindle.core.encoding import describe
from dwindle.core.granularity import PerChannel
from dwindle.errors import RecipeError, SettingError
from dwindle.technique import Trait
from dwindle.testing import small_context, small_network

DEEP = dw.Recipe((dw.PruneWeights(sparsity=0.6), dw.Cluster(codebook_size=4), dw.QuantizeWeights()))


@pytest.fixture
def dense() -> dw.CompressedModel:
    return dw.CompressedModel.dense(small_network())


def test_all_problems_are_found_with_number_settings_and_remedy():
    recipe = dw.Recipe(
        (dw.FineTune(epochs=2), dw.QuantizeWeights(n_bits=4), dw.Cluster(codebook_size=8), dw.QuantizeStatic())
    )
    problems = recipe.check(dw.Context())
    assert len(problems) == 4
    assert problems[0].startswith("step 1, FineTune(epochs=2), needs TRAINING, which the context does not offer; give")
    assert "Context(trainer=...)" in problems[0]
    assert problems[1].startswith("step 3, Cluster(codebook_size=8), cannot follow step 2, QuantizeWeights(n_bits=4)")
    assert problems[1].endswith("put step 3 before step 2")
    assert "Context(example=...)" in problems[2]
    assert "Context(calibration=...)" in problems[2]
    assert problems[3].endswith("keep one of the steps 2 and 4")


def test_a_recipe_without_problems_has_none():
    assert dw.Recipe(()).check(dw.Context()) == []
    assert DEEP.check(dw.Context()) == []


def test_traits_of_the_model_count():
    problems = dw.Recipe((dw.Cluster(),)).check(dw.Context(), Trait.INTEGER)
    assert problems == [
        "step 1, Cluster(codebook_size=16), cannot start from a model that has integer codes, because "
        "integer codes have no float values left to cluster; start from the model before it had them"
    ]


def test_what_a_step_requires_must_be_there(dense):
    step = dw.QuantizeStatic(weights=None)
    problem = "step 1, QuantizeStatic(weights=None, activations=8), needs a model that has integer codes"
    assert dw.Recipe((step,)).check(small_context())[0].startswith(problem)
    assert dw.Recipe((dw.QuantizeWeights(), step)).check(small_context()) == []
    assert dw.Recipe((step,)).check(small_context(), Trait.KERNEL) == []
    quantized = dw.QuantizeWeights().apply(dense, dw.Context())
    assert dw.Recipe((step,)).check(small_context(), model=quantized) == []


def test_a_model_at_hand_is_read(dense):
    quantized = dw.QuantizeWeights().apply(dense, dw.Context())
    assert len(dw.Recipe((dw.Cluster(),)).check(dw.Context(), model=quantized)) == 1
    assert dw.Recipe((dw.Cluster(),)).check(dw.Context(), model=dense) == []


def test_steps_on_different_weights_do_not_clash(dense):
    head, stem = dw.Select(names=("head*",)), dw.Select(names=("stem.w*",))
    mixed = dw.Recipe((dw.QuantizeWeights(select=head), dw.QuantizeWeights(n_bits=4, select=stem)))
    assert mixed.check(dw.Context()) == []
    assert mixed.check(dw.Context(), model=dense) == []
    after = mixed.run(dense, dw.Context())
    assert [describe(after.encodings[n]) for n in ("head.weight", "stem.weight")] == [
        "Affine(8 bit)",
        "Affine(4 bit)",
    ]


def test_steps_on_shared_weights_clash_where_the_model_is_known(dense):
    some, all_of_them = dw.Select(names=("head.w*",)), dw.Select(names=("*.weight",), exclude=("norm*",))
    recipe = dw.Recipe((dw.QuantizeWeights(select=some), dw.QuantizeWeights(select=all_of_them)))
    assert recipe.check(dw.Context()) == []
    with pytest.raises(RecipeError, match=r"step 2, .*keep one of the steps 1 and 2"):
        recipe.run(dense, dw.Context())


def test_a_selection_that_matches_nothing_is_found_before_anything_runs(dense):
    lost = dw.Cluster(select=dw.Select(names=("haed.weight",)))
    with pytest.raises(RecipeError, match=r"step 2, Cluster.*'haed\.weight' matches no weight.*head\.weight"):
        dw.Recipe((dw.PruneWeights(sparsity=0.5), lost)).run(dense, dw.Context())


def test_a_granularity_that_does_not_fit_is_found_before_anything_runs(dense):
    step = dw.QuantizeWeights(granularity=PerChannel(2), select=dw.Select(names=("stem.weight", "head.*")))
    problems = dw.Recipe((step,)).check(dw.Context(), model=dense)
    assert len(problems) == 2
    assert "'head.weight': PerChannel(axis=2) does not fit shape (4, 96)" in problems[0]
    assert "'head.bias'" in problems[1]
    clustered = (dw.Cluster(codebook_size=4, select=step.select), step)
    assert dw.Recipe(clustered).check(dw.Context(), model=dense) == []
    dw.Recipe(clustered).run(dense, dw.Context())


def test_densify_takes_the_reason_to_refuse_away(dense):
    assert dw.Recipe((dw.QuantizeWeights(), dw.Densify(), dw.Cluster())).check(dw.Context(), model=dense) == []
    partly = dw.Recipe((dw.QuantizeWeights(), dw.Densify(select=dw.Select(names=("head.w*",))), dw.Cluster()))
    assert len(partly.check(dw.Context(), model=dense)) == 1
    assert len(partly.check(dw.Context())) == 1


def test_many_problems_are_listed(dense):
    with pytest.raises(RecipeError, match=r"^2 problems:\n- step 2.*\n- step 3"):
        dw.Recipe((dw.QuantizeWeights(), dw.QuantizeWeights(), dw.FineTune())).run(dense, small_context())


@pytest.mark.parametrize("steps", [dw.Cluster(), 3, (dw.Cluster,), ("Cluster",), (None,)])
def test_what_is_no_technique_is_refused(steps):
    with pytest.raises(SettingError, match="Recipe: st"):
        dw.Recipe(steps)


def test_the_remedy_names_the_first_step_in_the_way():
    partly = dw.Select(names=("head*",))
    steps = (
        dw.QuantizeWeights(select=partly),
        dw.QuantizeWeights(select=dw.Select(names=("stem*",))),
        dw.Cluster(),
    )
    (problem,) = dw.Recipe(steps).check(dw.Context())
    assert problem.endswith("put step 3 before step 1")


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (dw.QuantizeStatic(), dw.QuantizeStatic(weights=None), "because activations are quantized once; keep one"),
        (dw.QuantizeWeights(), dw.QuantizeAware(activations=None), "no float values left to train; keep one"),
        (dw.QuantizeWeights(), dw.QuantizeAware(), "no float values left to train (weights=None keeps them); keep one"),
        (
            dw.QuantizeStatic(),
            dw.FineTune(),
            "cannot be trained and the measured ranges of activations would no longer fit; put",
        ),
        (
            dw.PruneChannels(pruning_ratio=0.5),
            dw.PruneWeights(sparsity=0.5, epochs=1, rewind=dw.Rewind()),
            "because the early network has the weights of the network given; put",
        ),
        (dw.FoldBatchNorm(), dw.ReestimateBatchNorm(), "because folded batch norms have no statistics; put"),
    ],
)
def test_the_reason_is_that_of_what_stands_in_the_way(first: dw.Technique, second: dw.Technique, reason: str):
    problem = dw.Recipe((first, second)).check(dw.Context())[-1]
    assert reason in problem


def test_a_network_that_lost_channels_is_what_it_is_compared_with(dense):
    steps = (dw.PruneChannels(pruning_ratio=0.5, round_to=1), dw.QuantizeWeights(n_bits=4), dw.CorrectBias())
    context = replace(small_context(), reference=None)
    for some in (steps, (steps[0], steps[2])):
        assert len(dw.Recipe(some).run(dense, context).history) == len(some)


def test_a_list_becomes_a_tuple():
    assert dw.Recipe([dw.Cluster()]) == dw.Recipe((dw.Cluster(),))
