"""This file tests weight sharing: how many values are left, where zeros go, what chance and training do."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, starmap
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import dwindle as dw
from dwindle.core.encoding import Dense, Scaled, codebook_of, decode, restrict, support_of
from dwindle.errors import NetworkError, RecipeError, SettingError
from dwindle.network.select import weight_names
from dwindle.technique import Needs, Trait
from dwindle.testing import small_context, small_network

INITS = ("linear", "kmeans++", "random", "density", "near_optimal")


def layered(*widths: int) -> dw.CompressedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return dw.CompressedModel.dense(nn.Sequential(*starmap(nn.Linear, pairwise(widths))))


@pytest.mark.parametrize("init", INITS)
@given(codebook_size=st.integers(1, 20), seed=st.integers(0, 5))
def test_a_tensor_keeps_so_many_values_and_no_more(init, codebook_size, seed):
    after = dw.Cluster(codebook_size=codebook_size, init=init).apply(layered(12, 9), dw.Context(seed=seed))
    values = after.network.state_dict()["0.weight"]
    codebook = codebook_of(after.encodings["0.weight"])
    assert len(values.unique()) <= codebook.codebook_size <= codebook_size
    assert codebook_of(after.encodings["0.bias"]) is None
    found = after.history[-1].decisions["tensors"]["0.weight"]
    before = decode(layered(12, 9).encodings["0.weight"])
    assert found["codebook_size"] == codebook.codebook_size
    assert found["distortion"] == pytest.approx(float((values - before).double().square().mean()))
    if init == "near_optimal" and codebook_size > 1:
        assert found["distortion"] < float(before.double().var(correction=0))


def test_only_weights_that_stayed_pull_at_the_centroids():
    positive = layered(30, 20).encodings["0.weight"].values.abs()
    model = layered(30, 20).with_encodings({"0.weight": Dense(positive)})
    pruned = dw.PruneWeights(sparsity=0.5).apply(model, dw.Context())
    without = dw.Cluster(codebook_size=5).apply(pruned, dw.Context())
    with_zeros = dw.Cluster(codebook_size=5, include_zeros=True).apply(pruned, dw.Context())
    support = support_of(pruned.encodings["0.weight"])
    for after in (without, with_zeros):
        assert torch.equal(support_of(after.encodings["0.weight"]), support)
        assert not decode(after.encodings["0.weight"])[~support].any()
        assert len(decode(after.encodings["0.weight"])[support].unique()) <= 5
    distortions = [m.history[-1].decisions["tensors"]["0.weight"]["distortion"] for m in (without, with_zeros)]
    assert distortions[0] < distortions[1]


def test_without_pruned_weights_zeros_make_no_difference():
    plain, published = (dw.Cluster(include_zeros=z).apply(layered(9, 9), dw.Context()) for z in (False, True))
    assert plain.digest() == published.digest()


@pytest.mark.parametrize("init", ["kmeans++", "random"])
def test_chance_depends_on_the_seed_and_the_name_but_not_on_the_order(init):
    cluster = dw.Cluster(codebook_size=6, init=init)
    alone = dw.Cluster(codebook_size=6, init=init, select=dw.Select(names=("1.weight",)))
    model = layered(40, 30, 20)
    both, one = cluster.apply(model, dw.Context()), alone.apply(model, dw.Context())
    assert torch.equal(decode(both.encodings["1.weight"]), decode(one.encodings["1.weight"]))
    outcomes = {cluster.apply(model, dw.Context(seed=seed)).digest() for seed in range(4)}
    assert len(outcomes) > 1


def test_equal_tensors_of_different_names_draw_different_starts():
    model = layered(20, 20, 20)
    equal = model.with_encodings({"1.weight": model.encodings["0.weight"]})
    cluster = dw.Cluster(codebook_size=6, init="random")
    after = [cluster.apply(equal, dw.Context(seed=seed)).network.state_dict() for seed in range(6)]
    assert any(not torch.equal(state["0.weight"], state["1.weight"]) for state in after)


def test_a_codebook_is_clustered_again_and_never_grows():
    first = dw.Cluster(codebook_size=5).apply(layered(12, 9), dw.Context())
    assert dw.Cluster(codebook_size=16).apply(first, dw.Context()).digest() == first.digest()
    smaller = dw.Cluster(codebook_size=2).apply(first, dw.Context())
    assert len(decode(smaller.encodings["0.weight"]).unique()) == 2


def test_a_tensor_without_a_weight_left_is_fine():
    model = layered(3, 3)
    nothing = {"0.weight": restrict(model.encodings["0.weight"], torch.zeros(3, 3, dtype=torch.bool))}
    after = dw.Cluster().apply(model.with_encodings(nothing), dw.Context())
    assert not decode(after.encodings["0.weight"]).any()
    assert after.history[-1].decisions["tensors"]["0.weight"] == {"codebook_size": 1, "distortion": 0.0}


def test_half_precision_stays_half_precision():
    model = dw.CompressedModel.dense(nn.Linear(8, 8).half())
    after = dw.Cluster(codebook_size=3).apply(model, dw.Context())
    assert after.network.weight.dtype == torch.float16
    assert torch.equal(after.network.weight, decode(after.encodings["weight"]))


@pytest.mark.parametrize("codebook_size", [0, -1, 65537])
def test_a_codebook_has_a_sensible_size(codebook_size):
    with pytest.raises(SettingError, match=rf"codebook_size must be in \[1, 65536\], got {codebook_size}"):
        dw.Cluster(codebook_size=codebook_size)


def test_an_unknown_start_is_refused_when_it_is_written():
    with pytest.raises(SettingError, match=r"init.*'linaer'"):
        dw.Cluster(init="linaer")


def trained(**settings: Any) -> dw.Cluster:
    return dw.Cluster(**{"codebook_size": 4, "epochs": 2, **settings})


def moving(**settings: Any) -> dw.Cluster:
    return trained(reassign=dw.Reassign(), **settings)


def shares_moved(model: dw.CompressedModel) -> list[float]:
    return [found["moved"] for found in model.history[-1].decisions["tensors"].values()]


class TestDuringTraining:
    def test_without_reassignment_it_is_clustering_and_then_fine_tuning(self):
        before, context = dw.CompressedModel.dense(small_network()), small_context()
        for rule, rate in (("mean", None), ("sum", 0.001)):
            at_once = trained(centroid_gradient=rule, learning_rate=rate).apply(before, context)
            clustered = dw.Cluster(codebook_size=4).apply(before, context)
            after = dw.FineTune(epochs=2, centroid_gradient=rule, learning_rate=rate).apply(clustered, context)
            assert at_once.digest() == after.digest()
            assert at_once.history[-1].decisions["steps"] == 6
            assert len(at_once.history[-1].curve) == 2
            assert shares_moved(at_once) == [0.0, 0.0, 0.0]

    def test_weights_move_and_codebooks_and_zeros_stay(self):
        context = small_context()
        pruned = dw.PruneWeights(sparsity=0.5).apply(dw.CompressedModel.dense(small_network()), context)
        after = moving().apply(pruned, context)
        still = trained().apply(pruned, context)
        assert max(shares_moved(after)) > 0
        for name in weight_names(pruned.network):
            support, values = support_of(pruned.encodings[name]), after.network.state_dict()[name]
            assert torch.equal(support_of(after.encodings[name]), support)
            assert not values[~support].any()
            assert len(values[support].unique()) <= 4
            assert after.history[-1].decisions["tensors"][name]["codebook_size"] <= 4
        assert after.digest() != still.digest()

    def test_it_learns(self):
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(64, 6, generator=generator)
        data = TensorDataset(inputs, (inputs[:, 0] > inputs[:, 1]).long())
        trainer = dw.FabricTrainer(train=data, batch_size=16, learning_rate=0.1, accelerator="cpu")
        after = moving(epochs=15).apply(layered(6, 12, 2), dw.Context(trainer=trainer))
        losses = [figures["loss"] for figures in after.history[-1].curve]
        assert losses[-1] < losses[0] * 0.7

    def test_weights_move_when_they_should_and_are_held_at_the_end(self):
        seen: list[Tensor] = []
        context = small_context()

        class Watching(type(context.trainer)):
            def __call__(self, network: nn.Module, *, after_step: Any, **arguments: Any) -> Any:
                def watch(step: int) -> None:
                    after_step(step)
                    (indices,) = (b for n, b in network.named_buffers() if n.startswith("head") and "indices" in n)
                    seen.append(indices.clone())

                return super().__call__(network, after_step=watch, **arguments)

        trainer = Watching(inputs=context.trainer.inputs, targets=context.trainer.targets)
        step = trained(epochs=4, reassign=dw.Reassign(frequency=3, end=0.75))
        step.apply(dw.CompressedModel.dense(small_network()), dw.Context(trainer=trainer))
        changed = [n for n, (a, b) in enumerate(pairwise(seen), start=2) if not torch.equal(a, b)]
        assert changed == [3, 6, 9]  # of 12 steps; held from step 9 on

    @pytest.mark.parametrize("structure", ["dense", "sparse", "clustered"])
    def test_a_killed_training_goes_on_as_if_never_cut(self, tmp_path: Path, structure: str):
        class KilledError(Exception):
            pass

        def kill(_: str, step: int, __: int) -> None:
            if step == 7:  # in the third of four epochs of three steps
                raise KilledError

        def trainer(workdir: Path | None) -> dw.FabricTrainer:
            inputs, targets = small_context().trainer.inputs, small_context().trainer.targets
            return dw.FabricTrainer(
                train=TensorDataset(inputs, targets),
                batch_size=8,
                workdir=workdir,
                accelerator="cpu",
                learning_rate=0.1,
            )

        model = dw.CompressedModel.dense(small_network())
        if structure == "sparse":
            model = dw.PruneWeights(sparsity=0.4).apply(model, dw.Context())
        if structure == "clustered":
            model = dw.Cluster(codebook_size=6).apply(model, dw.Context())
        step = moving(epochs=4)
        uncut = step.apply(model, dw.Context(trainer=trainer(None)))
        with pytest.raises(KilledError):
            step.apply(model, dw.Context(trainer=replace(trainer(tmp_path), report_progress=kill)))
        went_on: list[int] = []
        again = replace(trainer(tmp_path), report_progress=lambda _, step, __: went_on.append(step))
        resumed = step.apply(model, dw.Context(trainer=again))
        assert went_on[0] == 6
        assert resumed.digest() == uncut.digest()
        assert shares_moved(resumed) == shares_moved(uncut)
        assert max(shares_moved(uncut)) > 0

    def test_other_settings_never_go_on_from_each_others_checkpoints(self, tmp_path: Path):
        inputs, targets = small_context().trainer.inputs, small_context().trainer.targets
        trainer = dw.FabricTrainer(train=TensorDataset(inputs, targets), batch_size=8, accelerator="cpu")
        steps = [trained(), trained(centroid_gradient="sum", learning_rate=1e-3), moving(), moving(include_zeros=True)]
        steps += [trained(reassign=dw.Reassign(frequency=2)), trained(reassign=dw.Reassign(end=0.3))]
        pruned = dw.PruneWeights(sparsity=0.4).apply(dw.CompressedModel.dense(small_network()), dw.Context())
        kept = [s.apply(pruned, dw.Context(trainer=replace(trainer, workdir=tmp_path))).digest() for s in steps]
        alone = [s.apply(pruned, dw.Context(trainer=trainer)).digest() for s in steps]
        assert kept == alone
        assert len(set(kept)) == len(steps)

    def test_a_codebook_is_clustered_again_and_its_weights_may_part(self):
        context = small_context()
        first = dw.Cluster(codebook_size=6).apply(dw.CompressedModel.dense(small_network()), context)
        again = moving(codebook_size=16, epochs=5).apply(first, context)
        before, after = (codebook_of(model.encodings["head.weight"]) for model in (first, again))
        assert after.codebook_size <= before.codebook_size
        assert any(len(after.indices[before.indices == i].unique()) > 1 for i in range(6))

    def test_factors_of_folded_batch_norms_stay(self):
        context = small_context()
        clustered = dw.Cluster(codebook_size=6).apply(dw.CompressedModel.dense(small_network()), context)
        folded = dw.FoldBatchNorm().apply(clustered, context)
        before = folded.encodings["stem.weight"]
        assert isinstance(before, Scaled)
        after = moving(learning_rate=1e-5).apply(folded, context).encodings["stem.weight"]
        assert isinstance(after, Scaled)
        assert torch.equal(after.factor, before.factor)
        expected = dw.Cluster(codebook_size=4).apply(folded, context).encodings["stem.weight"]
        torch.testing.assert_close(decode(after), decode(expected), atol=1e-2, rtol=1e-2)

    @pytest.mark.parametrize("structure", ["sparse", "folded"])
    def test_latent_values_start_where_the_weights_were(self, structure: str):
        context = small_context()
        model = dw.PruneWeights(sparsity=0.4).apply(dw.CompressedModel.dense(small_network()), context)
        if structure == "folded":
            model = dw.FoldBatchNorm().apply(model, context)
        latents: dict[str, Tensor] = {}

        class Looking(type(context.trainer)):
            def __call__(self, network: nn.Module, **arguments: Any) -> Any:
                latents.update(
                    {n.split(".")[0]: p.detach().clone() for n, p in network.named_parameters() if "latent" in n}
                )
                return super().__call__(network, **arguments)

        trainer = Looking(inputs=context.trainer.inputs, targets=context.trainer.targets)
        moving().apply(model, dw.Context(trainer=trainer))
        assert sorted(latents) == ["depthwise", "head", "stem"]
        for name, latent in latents.items():
            encoding = model.encodings[f"{name}.weight"]
            inner = encoding.values if isinstance(encoding, Scaled) else encoding
            assert torch.equal(latent, decode(inner)[support_of(encoding)])

    def test_a_teacher_is_heard(self):
        context = replace(small_context(), teacher=small_network(1))
        step = moving(distillation=dw.Distillation(alpha=0.0))
        assert step.needs == Needs.TRAINING | Needs.TEACHER
        before = dw.CompressedModel.dense(small_network())
        assert step.apply(before, context).digest() != moving().apply(before, context).digest()

    def test_only_selected_weights_are_shared_and_all_are_trained(self):
        before = dw.CompressedModel.dense(small_network())
        after = moving(select=dw.Select(names=("head.weight",))).apply(before, small_context())
        assert list(after.history[-1].decisions["tensors"]) == ["head.weight"]
        assert codebook_of(after.encodings["stem.weight"]) is None
        assert not torch.equal(decode(after.encodings["stem.weight"]), decode(before.encodings["stem.weight"]))

    def test_it_says_what_it_needs(self):
        assert trained().needs == Needs.TRAINING
        assert trained().effect.refused == Trait.INTEGER | Trait.QUANTIZED_ACTIVATIONS
        with pytest.raises(RecipeError, match=r"Cluster\(epochs=2\) trains; give the context a trainer"):
            trained().apply(layered(3, 3), dw.Context())

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"epochs": None, "learning_rate": 0.1}, "belong to a training; give epochs, too"),
            ({"epochs": None, "reassign": dw.Reassign()}, "give epochs, too"),
            ({"epochs": None, "centroid_gradient": "sum"}, "give epochs, too"),
            ({"epochs": None, "distillation": dw.Distillation()}, "give epochs, too"),
            ({"epochs": 0}, "epochs must be positive, or None for no training, got 0"),
            ({"epochs": -1.0}, r"got -1\.0"),
            ({"epochs": float("nan")}, "got nan"),
            ({"epochs": float("inf")}, "got inf"),
            ({"learning_rate": 0.0}, r"learning_rate must be positive, got 0\.0"),
            ({"learning_rate": float("nan")}, "learning_rate must be positive, got nan"),
            ({"centroid_gradient": "median"}, "must be 'mean' or 'sum', got 'median'"),
        ],
    )
    def test_settings_that_cannot_work_are_refused(self, settings: dict[str, Any], message: str):
        with pytest.raises(SettingError, match=f"Cluster: .*{message}"):
            trained(**settings)


class Odd(nn.Module):
    """A weight of any shape, used as one factor of its sum; the empty one, too."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, int(torch.Size(shape).numel())).reshape(shape))
        self.head = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x) * (1 + self.weight.square().sum())


def odd_context() -> dw.Context:
    data = TensorDataset(torch.randn(16, 2, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 2)
    return dw.Context(trainer=dw.FabricTrainer(train=data, batch_size=4, accelerator="cpu", learning_rate=0.01))


EVERYTHING = dw.Select(names=("weight",))


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (7, 5)])
@pytest.mark.parametrize("codebook_size", [1, 4, 65536])
def test_tensors_of_any_size_and_codebooks_of_any_size_are_trained(shape: tuple[int, ...], codebook_size: int):
    model = dw.CompressedModel.dense(Odd(*shape))
    after = moving(codebook_size=codebook_size, select=EVERYTHING).apply(model, odd_context())
    values = after.network.state_dict()["weight"]
    assert torch.equal(values, decode(after.encodings["weight"]))
    assert len(values.unique()) <= codebook_size
    assert values.isfinite().all()


def test_a_tensor_without_a_weight_left_is_trained_to_nothing():
    model = dw.CompressedModel.dense(Odd(3, 3))
    nothing = {"weight": restrict(model.encodings["weight"], torch.zeros(3, 3, dtype=torch.bool))}
    for step in (trained(select=EVERYTHING), moving(select=EVERYTHING)):
        after = step.apply(model.with_encodings(nothing), odd_context())
        assert not decode(after.encodings["weight"]).any()
        found = after.history[-1].decisions["tensors"]["weight"]
        assert found == {"codebook_size": 1, "distortion": 0.0, "moved": 0.0}


def test_weights_that_are_not_numbers_are_one_clear_error():
    model = dw.CompressedModel.dense(Odd(3, 3))
    model = model.with_encodings({"weight": Dense(torch.full((3, 3), float("nan")))})
    with pytest.raises(SettingError, match=r"'weight': .*9 of 9 values are NaN"):
        moving(select=EVERYTHING).apply(model, odd_context())


def test_a_training_that_diverges_is_one_clear_error():
    with pytest.raises(NetworkError, match=r"the loss became .* lower the learning rate"):
        moving(epochs=20, learning_rate=1e20, select=EVERYTHING).apply(
            dw.CompressedModel.dense(Odd(3, 3)), odd_context()
        )


def test_settings_of_a_training_survive_toml():
    recipe = dw.Recipe((moving(learning_rate=0.01, centroid_gradient="sum", distillation=dw.Distillation()),))
    assert dw.Recipe.from_toml(recipe.to_toml()) == recipe
    plain = dw.Recipe.from_plain({"steps": [{"type": "Cluster", "epochs": 1, "reassign": {"frequency": 5}}]})
    assert plain.steps == (dw.Cluster(epochs=1, reassign=dw.Reassign(frequency=5)),)
