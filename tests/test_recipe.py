"""This file tests the recipe: check, run, the cache of stages, replay, TOML, and its table of orders."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import dwindle as dw
from dwindle.core.encoding import Dense, Scaled, decode
from dwindle.errors import DwindleError, EncodingError, RecipeError, SelectionError, SettingError
from dwindle.recipe import TECHNIQUES, Stage
from dwindle.recipe.orders import orders_table
from dwindle.recipe.pack import fingerprint, pack, unpack
from dwindle.recipe.plain import describe_step
from dwindle.technique import Effect, Needs, Technique, recorded
from dwindle.testing import small_context, small_network

DEEP = dw.Recipe((dw.PruneWeights(sparsity=0.6), dw.Cluster(codebook_size=4), dw.QuantizeWeights()))


@dataclass(frozen=True, kw_only=True)
class Nudge:
    """Adds `by` to every bias of the head; can be killed, or forget to keep a record."""

    by: float = 0.5
    fails: bool = False
    keeps_record: bool = True

    @property
    def needs(self) -> Needs:
        return Needs.NOTHING

    @property
    def effect(self) -> Effect:
        return Effect()

    def apply(self, model: dw.CompressedModel, context: dw.Context) -> dw.CompressedModel:
        if self.fails:
            raise KeyboardInterrupt
        bias = decode(model.encodings["head.bias"])
        after = model.with_encodings(
            {"head.bias": dataclasses.replace(model.encodings["head.bias"], values=bias + self.by)}
        )
        return recorded(self, after, context) if self.keeps_record else after


@pytest.fixture
def dense() -> dw.CompressedModel:
    return dw.CompressedModel.dense(small_network())


class TestRun:
    def test_errors_carry_the_step(self, dense):
        large = Dense(torch.full_like(decode(dense.encodings["stem.weight"]), 1e5))  # beyond float16
        model = dense.with_encodings({"stem.weight": large})
        with pytest.raises(DwindleError, match=r"'stem\.weight'") as caught:
            dw.Recipe((dw.PruneWeights(sparsity=0.5), dw.CastHalf())).run(model, dw.Context())
        assert caught.value.__notes__ == ["in step 2 of 2: CastHalf()"]

    def test_progress_and_stages_are_reported(self, dense):
        said: list[tuple[str, int, int]] = []
        stages: list[Stage] = []
        context = dw.Context(report_progress=lambda *event: said.append(event))
        DEEP.run(dense, context, on_stage=stages.append)
        assert [(s.number, s.n_steps, s.record.technique, s.was_cached) for s in stages] == [
            (1, 3, "PruneWeights", False), (2, 3, "Cluster", False), (3, 3, "QuantizeWeights", False)
        ]  # fmt: skip
        assert all(stage.seconds >= 0 for stage in stages)
        assert said[0] == ("PruneWeights(sparsity=0.6)", 0, 3)
        assert said[-1] == ("recipe", 3, 3)

    def test_a_step_that_keeps_no_record_is_found(self, dense):
        with pytest.raises(RecipeError, match=r"Nudge\.apply kept no record"):
            dw.Recipe((Nudge(keeps_record=False),)).run(dense, dw.Context())

    def test_an_empty_recipe_changes_nothing(self, dense):
        assert dw.Recipe(()).run(dense, dw.Context()) is dense


class TestCache:
    @staticmethod
    def run(recipe: dw.Recipe, model: dw.CompressedModel, context: dw.Context) -> tuple[dw.CompressedModel, list[bool]]:
        stages: list[Stage] = []
        after = recipe.run(model, context, on_stage=stages.append)
        return after, [stage.was_cached for stage in stages]

    def test_a_killed_run_goes_on_where_it_was(self, dense, tmp_path):
        context, first, killed = dw.Context(workdir=tmp_path), Nudge(), Nudge(fails=True)
        with pytest.raises(KeyboardInterrupt):
            dw.Recipe((first, killed)).run(dense, context)
        after, cached = self.run(dw.Recipe((first, Nudge())), dense, context)
        assert cached == [True, False]
        assert fingerprint(after) == fingerprint(dw.Recipe((Nudge(), Nudge())).run(dense, dw.Context()))

    def test_a_stored_outcome_is_the_outcome(self, dense, tmp_path):
        context = replace(small_context(), workdir=tmp_path)
        recipe = dw.Recipe((*DEEP.steps[:2], dw.FineTune(epochs=1), dw.QuantizeWeights()))
        fresh, cached = self.run(recipe, dense, context)
        again, cached_again = self.run(recipe, dense, context)
        assert (cached, cached_again) == ([False] * 4, [True] * 4)
        assert again.history == fresh.history
        assert fingerprint(again) == fingerprint(fresh)
        inputs = small_context().example
        assert torch.equal(again.network(inputs), fresh.network(inputs))

    def test_structural_edits_and_activations_survive(self, dense, tmp_path):
        context = replace(small_context(), workdir=tmp_path)
        recipe = dw.Recipe(
            (dw.Cluster(codebook_size=4), dw.FoldBatchNorm(), dw.QuantizeWeights(), dw.QuantizeStatic(weights=None))
        )
        fresh, _ = self.run(recipe, dense, context)
        again, cached = self.run(recipe, dense, context)
        assert cached == [True] * 4
        assert any(isinstance(encoding, Scaled) for encoding in again.encodings.values())
        assert again.activations == fresh.activations != {}
        assert again.edits == fresh.edits != ()
        assert fingerprint(again) == fingerprint(fresh)
        assert torch.equal(again.network(context.example), fresh.network(context.example))

    @pytest.mark.parametrize("change", ["seed", "settings", "weights", "structure", "calibration", "trainer"])
    def test_whatever_goes_in_makes_another_entry(self, dense, tmp_path, change):
        context = replace(small_context(), workdir=tmp_path)
        step: Technique = dw.ReestimateBatchNorm() if change == "calibration" else dw.FineTune(epochs=1)
        self.run(dw.Recipe((step,)), dense, context)
        model = dense
        match change:
            case "seed":
                context = replace(context, seed=context.seed + 1)
            case "settings":
                step = dw.FineTune(epochs=2)
            case "weights":
                model = Nudge().apply(dense, context)
            case "structure":  # the same values, but their zeros may be trained away
                pruned = dw.PruneWeights(sparsity=0.5).apply(dense, context)
                self.run(dw.Recipe((step,)), pruned, context)
                model = dw.Densify().apply(pruned, context)
                assert model.digest() == pruned.digest()
            case "calibration":
                context = replace(context, calibration=tuple(2 * batch for batch in context.calibration))
            case _:
                context = replace(context, trainer=replace(context.trainer, batch_size=4))
        assert self.run(dw.Recipe((step,)), model, context)[1] == [False]

    def test_other_training_data_make_another_entry(self, dense, tmp_path):
        def trainer(targets: int) -> dw.FabricTrainer:
            data = TensorDataset(torch.zeros(8, 1, 8, 8), torch.full((8,), targets))
            return dw.FabricTrainer(train=data, batch_size=4, report_progress=lambda *_: None)

        recipe = dw.Recipe((dw.FineTune(epochs=1), dw.FineTune(epochs=1)))
        assert self.run(recipe, dense, dw.Context(workdir=tmp_path, trainer=trainer(0)))[1] == [False, False]
        assert self.run(recipe, dense, dw.Context(workdir=tmp_path, trainer=trainer(0)))[1] == [True, True]
        assert self.run(recipe, dense, dw.Context(workdir=tmp_path, trainer=trainer(1)))[1] == [False, False]

    @pytest.mark.parametrize("damage", ["bit", "truncated", "empty", "no checksum", "wrong checksum", "garbage"])
    def test_a_damaged_entry_is_ignored_and_written_again(self, dense, tmp_path, damage):
        context, recipe = dw.Context(workdir=tmp_path), dw.Recipe((dw.Cluster(),))
        fresh, _ = self.run(recipe, dense, context)
        (entry,), (checksum,) = tmp_path.rglob("*.safetensors"), tmp_path.rglob("*.sha256")
        content = entry.read_bytes()
        match damage:
            case "bit":
                entry.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            case "truncated":
                entry.write_bytes(content[: len(content) // 2])
            case "empty":
                entry.write_bytes(b"")
            case "no checksum":
                checksum.unlink()
            case "wrong checksum":
                checksum.write_text("")
            case _:  # a right checksum of a wrong file
                entry.write_bytes(b"garbage")
                import hashlib

                checksum.write_text(hashlib.sha256(b"garbage").hexdigest())
        again, cached = self.run(recipe, dense, context)
        assert cached == [False]
        assert fingerprint(again) == fingerprint(fresh)
        assert entry.read_bytes() == content
        assert self.run(recipe, dense, context)[1] == [True]

    def test_a_full_disk_warns_and_the_run_goes_on(self, dense, tmp_path, monkeypatch):
        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.warns(RuntimeWarning, match="could not be kept in .*No space left on device.*make room"):
            after = dw.Recipe((dw.Cluster(),)).run(dense, dw.Context(workdir=tmp_path))
        assert len(after.history) == 1
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]

    def test_a_stage_of_another_network_is_refused(self, dense):
        folded = dw.FoldBatchNorm().apply(dense, small_context())
        with pytest.raises(RecipeError, match="other structural edits"):
            unpack(*pack(dense), base=folded)


class TestReplay:
    def test_a_history_gives_the_same_bytes(self, dense):
        recipe = dw.Recipe(
            (dw.PruneWeights(sparsity=0.5), dw.Cluster(init="random"), dw.FineTune(), dw.QuantizeWeights())
        )
        after = recipe.run(dense, replace(small_context(), seed=11))
        assert fingerprint(dw.Recipe.replay(after.history, dense, small_context())) == fingerprint(after)

    def test_another_outcome_is_found(self, dense):
        history = DEEP.run(dense, dw.Context()).history
        forged = (history[0], replace(history[1], settings={**history[1].settings, "codebook_size": 3}), history[2])
        with pytest.raises(
            RecipeError, match=r"step 2 of 3, Cluster\(codebook_size=3\), replayed to digest .* record of"
        ):
            dw.Recipe.replay(forged, dense, dw.Context())

    def test_an_unknown_technique_is_named(self, dense):
        history = (replace(DEEP.run(dense, dw.Context()).history[0], technique="PruneWeight"),)
        with pytest.raises(SettingError, match=r"step 1 of 1: unknown technique 'PruneWeight'.*'PruneWeights'"):
            dw.Recipe.replay(history, dense, dw.Context())


class TestToml:
    def test_it_reads_what_it_writes(self):
        recipe = dw.Recipe(
            (
                dw.PruneWeights(
                    sparsity=0.9, schedule=dw.Polynomial(end=0.5), epochs=3, select=dw.Select(exclude=("head*",))
                ),
                dw.FineTune(epochs=0.5, learning_rate=0.01),
                dw.Cluster(codebook_size=15, init="near_optimal"),
                dw.QuantizeWeights(n_bits=4, granularity=dw.PerGroup(32), symmetric=False),
                dw.QuantizeStatic(weights=None),
            )
        )
        assert dw.Recipe.from_toml(recipe.to_toml()) == recipe
        assert dw.Recipe.from_plain(recipe.to_plain()) == recipe

    def test_a_person_can_write_it(self):
        text = """
            [[steps]]
            type = "PruneWeights"
            sparsity = 0.9

            [[steps]]
            type = "QuantizeWeights"
            granularity = { type = "PerChannel", axis = 0 }
            select = { names = ["head*"] }
        """
        select = dw.Select(names=("head*",))
        expected = (dw.PruneWeights(sparsity=0.9), dw.QuantizeWeights(granularity=dw.PerChannel(0), select=select))
        assert dw.Recipe.from_toml(text).steps == expected

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("steps = [", "the recipe is not TOML"),
            ("steps = " + "1" * 5_000, "the recipe is not TOML: .*digits"),
            ("steps = " + "[" * 20_000, "the recipe is not TOML"),
            ("step = []", "recipe: unknown key 'step'; the nearest known one is 'steps'"),
            ("", r"write each step as a table \[\[steps\]\], got steps = None"),
            ("steps = 3", r"got steps = 3"),
            ("steps = [1]", r"recipe: step 1: a step is a table like .*got 1"),
            ("steps = [{sparsity = 0.5}]", "recipe: step 1: say which technique with type = one of .*Cluster"),
            (
                'steps = [{type = "Clutser"}]',
                "recipe: step 1: unknown technique 'Clutser'; the nearest known one is 'Cluster'",
            ),
            (
                'steps = [{type = "Cluster", codebook = 3}]',
                "step 1: unknown key 'codebook'; the nearest.*'codebook_size'",
            ),
            (
                'steps = [{type = "Cluster", codebook_size = 0}]',
                r"step 1: Cluster: codebook_size must be in \[1, 65536\], got 0",
            ),
            ('steps = [{type = "Cluster", codebook_size = 2.5}]', r"step 1\.codebook_size: expected int, got 2\.5"),
        ],
    )
    def test_mistakes_are_named(self, text, message):
        with pytest.raises(SettingError, match=message):
            dw.Recipe.from_toml(text)


def test_every_technique_is_in_the_catalogue(repository: Path):
    files = {path.stem for path in (repository / "src/dwindle/techniques").glob("[a-z]*.py")}
    modules = {TECHNIQUES[name].__module__.rpartition(".")[2] for name in TECHNIQUES}
    assert len(TECHNIQUES) == len(modules)
    assert set(TECHNIQUES) == {cls.__name__ for cls in TECHNIQUES.values()}
    assert modules == files  # each file is one technique, and none is left out


def test_docs_orders_is_what_the_code_says(repository: Path):
    written = (repository / "docs/orders.md").read_text(encoding="utf-8")
    assert written == orders_table(), "write dwindle.recipe.orders.orders_table() to docs/orders.md"


def test_a_step_is_described_by_its_numbers_and_what_differs():
    assert describe_step(dw.Cluster()) == "Cluster(codebook_size=16)"
    assert describe_step(dw.Cluster(include_zeros=True)) == "Cluster(codebook_size=16, include_zeros=True)"
    assert describe_step(dw.QuantizeStatic(weights=None)) == "QuantizeStatic(weights=None, activations=8)"
    assert describe_step(dw.Densify()) == "Densify()"


def test_fingerprints_see_structure_and_modules(dense):
    def variants() -> Iterator[dw.CompressedModel]:
        yield dense
        yield dw.PruneWeights(sparsity=0.0).apply(dense, dw.Context())
        yield dw.Cluster().apply(dense, dw.Context())
        yield dw.CompressedModel.dense(nn.Sequential(nn.Linear(1, 1), nn.ReLU()))

    found = [fingerprint(model) for model in variants()]
    assert len(set(found)) == len(found)
    assert fingerprint(dw.CompressedModel.dense(small_network())) == found[0]


def test_encodings_without_floats_are_one_clear_error(dense):
    quantized = dw.QuantizeWeights().apply(dense, dw.Context())
    with pytest.raises(EncodingError, match=r"'stem\.weight': Affine\(8 bit\) has no float"):
        dw.Cluster().apply(quantized, dw.Context())
    with pytest.raises(SelectionError, match="matches no weight"):
        dw.Densify(select=dw.Select(names=("x",))).apply(dense, dw.Context())
