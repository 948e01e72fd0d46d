"""This file tests students: what they learn, what they forget, chains, caches, replay, and what is refused."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import dwindle as dw
from dwindle.bench.probes.size import measure_size
from dwindle.core.encoding import Dense, codebook_of, support_of
from dwindle.core.losses import divergence
from dwindle.errors import DataError, NetworkError, RecipeError, SettingError
from dwindle.network.compressed import CompressedModel, FoldedBatchNorm, Replaced
from dwindle.network.edits import own_edits
from dwindle.recipe.pack import fingerprint, pack, unpack
from dwindle.technique import Context, Needs
from dwindle.testing import small_context, small_network

ONLY_ANSWERS = dw.Distillation(alpha=0.0, temperature=2.0)


def plain(seed: int = 0, width: int = 12, n_classes: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    layers = (nn.Flatten(), nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, n_classes))
    return nn.Sequential(*layers)


def context_of(**changed: Any) -> Context:
    """Everything, except that no reference is given: as in a job."""
    offered = small_context()
    trainer = dw.FabricTrainer(
        train=TensorDataset(offered.trainer.inputs, offered.trainer.targets),
        batch_size=8,
        learning_rate=0.05,
        accelerator="cpu",
    )
    networks = {"student": plain(), "assistant": plain(1, width=24)}
    context = replace(offered, trainer=trainer, reference=None, teacher=small_network(), networks=networks)
    return replace(context, **changed)


def start(seed: int = 0) -> CompressedModel:
    return CompressedModel.dense(small_network(seed))


@torch.no_grad()
def gap(student: nn.Module, *teachers: nn.Module) -> float:
    """Return how far the student is from the mean of the probabilities of its teachers."""
    inputs = small_context().trainer.inputs
    ours = copy.deepcopy(student).eval()(inputs)
    theirs = torch.stack([copy.deepcopy(teacher).eval()(inputs).softmax(1) for teacher in teachers]).mean(0).log()
    return float(divergence(ours, theirs, temperature=1.0))


def run(*steps: Any, model: CompressedModel | None = None, context: Context | None = None) -> CompressedModel:
    return dw.Recipe(steps).run(start() if model is None else model, context_of() if context is None else context)


class TestOutcome:
    def test_the_student_is_dense_and_sizes_are_compared_with_the_first_network(self) -> None:
        before = run(dw.PruneWeights(sparsity=0.5), dw.Cluster(codebook_size=4))
        after = dw.Distill(student="student", epochs=3).apply(before, context_of())
        assert all(isinstance(encoding, Dense) for encoding in after.encodings.values())
        assert set(after.encodings) == set(plain().state_dict())
        assert after.edits == (Replaced("student"),)
        assert own_edits(after.edits) == ()
        assert after.n_dense_weights == before.n_dense_weights != sum(p.numel() for p in plain().parameters())
        assert after.history[:-1] == before.history
        record = after.history[-1]
        assert len(record.curve) == 3
        assert record.decisions["steps"] == 9
        assert record.decisions["network"] == "Sequential"
        assert record.decisions["teachers"] == ["model"]
        assert record.settings["student"] == "student"

    def test_the_student_and_the_model_stay_as_they_are(self) -> None:
        context, before = context_of(), start()
        student = context.networks["student"].train()
        values, seen = copy.deepcopy(student.state_dict()), fingerprint(before)
        after = dw.Distill(student="student").apply(before, context)
        assert fingerprint(before) == seen
        assert student.training
        assert all(torch.equal(value, values[name]) for name, value in student.state_dict().items())
        assert after.network is not student
        assert all(p.requires_grad and p.grad is None for p in student.parameters())
        assert after.digest() == dw.Distill(student="student").apply(before, context).digest()

    def test_what_is_frozen_or_tied_in_the_student_stays_so(self) -> None:
        class Tied(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.mix, self.again = nn.Linear(64, 6), nn.Linear(6, 6), nn.Linear(6, 6)
                self.head = nn.Linear(6, 4)
                self.again.weight = self.mix.weight
                self.first.requires_grad_(False)

            def forward(self, x: Tensor) -> Tensor:
                return self.head(self.again(self.mix(self.first(x.flatten(1))).relu()).relu())

        torch.manual_seed(0)
        student = Tied()
        after = run(dw.Distill(student="student"), context=context_of(networks={"student": student}))
        assert after.network.again.weight is after.network.mix.weight
        assert after.aliases == {"again.weight": "mix.weight"}
        assert torch.equal(after.network.first.weight, student.first.weight)
        assert not torch.equal(after.network.mix.weight, student.mix.weight)


class TestTeachers:
    def test_the_model_teaches_as_it_is_or_the_network_as_given_or_who_is_named(self) -> None:
        model = start(5)
        context = context_of(networks={"student": plain(), "first": small_network(7), "second": small_network(8)})
        choices: dict[str, dict[str, Any]] = {
            "model": {"distillation": ONLY_ANSWERS},
            "given": {"distillation": ONLY_ANSWERS, "teacher": "given"},
            "ensemble": {"distillation": replace(ONLY_ANSWERS, teachers=("first", "second"))},
        }
        teachers = {
            "model": (model.network,),
            "given": (small_network(),),
            "ensemble": (small_network(7), small_network(8)),
        }
        for choice, settings in choices.items():
            after = dw.Distill(student="student", epochs=25, **settings).apply(model, context)
            gaps = {name: gap(after.network, *who) for name, who in teachers.items()}
            assert min(gaps, key=gaps.__getitem__) == choice, gaps

    def test_a_chain_by_way_of_an_assistant_is_two_steps(self) -> None:
        first, second = (dw.Distill(student=name, epochs=2) for name in ("assistant", "student"))
        chained = run(first, second)
        assert chained.edits == (Replaced("assistant"), Replaced("student"))
        assistant = run(first)
        alone = second.apply(CompressedModel.dense(assistant.network), context_of())
        for name, value in alone.network.state_dict().items():
            assert torch.equal(value, chained.network.state_dict()[name]), name
        direct = run(second)
        assert direct.digest() != chained.digest()
        assert chained.n_dense_weights == start().n_dense_weights

    def test_integer_weights_teach_and_rounded_activations_do_not(self) -> None:
        quantized = run(dw.QuantizeWeights(n_bits=4))
        assert run(dw.Distill(student="student"), model=quantized).edits == (Replaced("student"),)
        for step in (dw.QuantizeStatic(), dw.QuantizeDynamic()):
            model = run(step)
            (problem,) = dw.Recipe((step, dw.Distill(student="student"))).check(context_of())
            assert "cannot follow step 1" in problem
            assert "without the rounding of its activations" in problem
            with pytest.raises(RecipeError, match="activations are quantized"):
                dw.Distill(student="student").apply(model, context_of())
            others = (
                dw.Distill(student="student", teacher="given"),
                dw.Distill(student="student", distillation=dw.Distillation(teachers=("assistant",))),
            )
            for other in others:
                after = run(other, dw.QuantizeStatic(), model=model)
                assert after.activations
                assert set(after.encodings) <= set(plain().state_dict())

    def test_a_network_may_be_its_own_student(self) -> None:
        context = context_of(networks={"again": small_network(3)})
        after = run(dw.Distill(student="again"), dw.FoldBatchNorm(), context=context)
        assert after.edits[0] == Replaced("again")
        assert {type(edit) for edit in after.edits[1:]} == {FoldedBatchNorm}

    def test_what_it_needs(self) -> None:
        assert dw.Distill(student="x").needs == Needs.TRAINING
        assert dw.Distill(student="x", teacher="given").needs == Needs.TRAINING | Needs.TEACHER
        named = dw.Distillation(teachers=("y",), hints=(("a", "b"),))
        assert dw.Distill(student="x", distillation=named).needs == Needs.TRAINING | Needs.EXAMPLE


class TestAfterwards:
    def test_steps_behind_it_work_on_the_student_and_its_file_answers_like_it(self, tmp_path: Path) -> None:
        select = dw.Select(names=("1.weight",))
        after = run(
            dw.PruneWeights(sparsity=0.3, select=dw.Select(names=("stem.weight",))),
            dw.Distill(student="student", epochs=2),
            dw.PruneWeights(sparsity=0.5, select=select),
            dw.Cluster(codebook_size=4, select=select),
            dw.FoldBatchNorm(),
            dw.QuantizeStatic(),
            dw.CorrectBias(n=16),
        )
        weight = after.encodings["1.weight"]
        assert support_of(weight) is not None
        assert codebook_of(weight) is not None
        assert own_edits(after.edits) == (FoldedBatchNorm(layer="1", batchnorm="2"),)
        result = dw.deploy(after, small_context().example, tmp_path)
        file = result.artifacts["dwn"]
        ratio = next(m for m in measure_size(file, n_dense_weights=result.n_dense_weights) if m.metric.unit == "x")
        assert ratio.value == pytest.approx(4 * start().n_dense_weights / file.path.stat().st_size)
        assert all(m.conditions.get("within_bound") != "no" for m in result.parity)

    def test_a_selection_is_looked_up_in_the_student(self) -> None:
        def problems(pattern: str) -> list[str]:
            prune = dw.PruneWeights(sparsity=0.5, select=dw.Select(names=(pattern,)))
            return dw.Recipe((dw.Distill(student="student"), prune)).check(context_of(), model=start())

        assert problems("1.weight") == []
        (problem,) = problems("stem.weight")
        assert "step 2, PruneWeights" in problem
        assert "matches no weight" in problem

    def test_it_is_taken_apart_and_put_together_where_the_student_is_at_hand(self) -> None:
        after = run(dw.Distill(student="student"), dw.FoldBatchNorm(), dw.QuantizeWeights())
        tensors, state = pack(after)
        rebuilt = unpack(tensors, state, base=start(), networks={"student": plain(9)})
        assert rebuilt.digest() == after.digest()
        assert fingerprint(rebuilt) == fingerprint(after)
        with pytest.raises(NetworkError, match="network named 'student', which is not at hand"):
            unpack(tensors, state, base=start())

    def test_a_replay_gives_the_same_weights(self) -> None:
        steps = (dw.PruneWeights(sparsity=0.5), dw.Distill(student="assistant"), dw.Distill(student="student"))
        after = run(*steps, dw.QuantizeStatic(), dw.CorrectBias(n=16))
        assert dw.Recipe.replay(after.history, start(), context_of()).digest() == after.digest()
        other = context_of(networks={"assistant": plain(1, width=24), "student": plain(4)})
        with pytest.raises(RecipeError, match="step 3 of 5"):
            dw.Recipe.replay(after.history, start(), other)


class Relu6(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(0, 6)


class TestCache:
    def seen(self, tmp_path: Path, step: Any, **changed: Any) -> bool:
        """Return whether the outcome of `step` came from the cache."""
        cached: list[bool] = []
        context = context_of(workdir=tmp_path, **changed)
        dw.Recipe((step,)).run(start(), context, on_stage=lambda stage: cached.append(stage.was_cached))
        return cached[0]

    def test_a_finished_student_is_read_and_answers_like_the_one_that_was_trained(self, tmp_path: Path) -> None:
        steps = (dw.Distill(student="assistant"), dw.Distill(student="student"), dw.FoldBatchNorm(), dw.Cluster())
        first = run(*steps, context=context_of(workdir=tmp_path))
        cached: list[bool] = []
        again = dw.Recipe(steps).run(
            start(), context_of(workdir=tmp_path), on_stage=lambda stage: cached.append(stage.was_cached)
        )
        assert cached == [True] * 4
        assert fingerprint(again) == fingerprint(first)
        assert again.history == first.history
        assert gap(again.network, first.network) == pytest.approx(0, abs=1e-7)

    def test_the_student_decides_and_other_networks_do_not(self, tmp_path: Path) -> None:
        step = dw.Distill(student="student")
        assert not self.seen(tmp_path, step)
        assert self.seen(tmp_path, step)
        assert self.seen(tmp_path, step, networks={"student": plain(), "other": plain(3)})
        assert not self.seen(tmp_path, step, networks={"student": plain(3)})
        rectified = plain()
        rectified[3] = Relu6()
        assert not self.seen(tmp_path, step, networks={"student": rectified})
        dropping = plain()
        dropping[3] = nn.Dropout(0.25)
        assert not self.seen(tmp_path, step, networks={"student": dropping})
        less = plain()
        less[3] = nn.Dropout(0.5)
        assert not self.seen(tmp_path, step, networks={"student": less})

    def test_settings_and_teachers_by_name_decide(self, tmp_path: Path) -> None:
        def taught(teacher: nn.Module, **settings: Any) -> bool:
            step = dw.FineTune(distillation=dw.Distillation(teachers=("one",), **settings))
            return self.seen(tmp_path, step, networks={"one": teacher})

        assert not taught(plain(3))
        assert taught(plain(3))
        assert not taught(plain(4))
        assert not taught(plain(3), alpha=0.2)
        assert not self.seen(tmp_path, dw.Distill(student="student"))
        assert not self.seen(tmp_path, dw.Distill(student="student", teacher="given"))
        assert not self.seen(tmp_path, dw.Distill(student="assistant"))


def test_a_killed_chain_goes_on_where_it_was(tmp_path: Path) -> None:
    """SIGKILL in the middle of the second student: the first comes from the cache, the second from its checkpoint."""
    script = tmp_path / "chain.py"
    script.write_text(CHAIN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(tmp_path / "work")]
    process = subprocess.Popen([*command, "slowly"], env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "work").glob("02-distill*.ckpt"))) < 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    names: dict[str, Any] = {}
    exec(CHAIN.partition("if __name__")[0], names)
    steps: list[tuple[str, int]] = []
    cached: list[bool] = []
    resumed = names["chain"](
        tmp_path / "work",
        lambda what, done, _: steps.append((what, done)),
        lambda stage: cached.append(stage.was_cached),
    )
    assert cached == [True, False]
    trained = [done for what, done in steps if what.startswith("02-distill")]
    assert trained[0] >= 3, "training began again at its first step"
    assert resumed.digest() == names["chain"](None, None, None).digest()


CHAIN = """
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

import dwindle as dw
from dwindle.testing import small_context, small_network


def plain(seed, width):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 4))


def chain(workdir, progress, on_stage):
    offered = small_context()
    trainer = dw.FabricTrainer(
        train=TensorDataset(offered.trainer.inputs, offered.trainer.targets),
        batch_size=8,
        learning_rate=0.05,
        accelerator="cpu",
        workdir=workdir,
        report_progress=progress,
    )
    networks = {"assistant": plain(0, 9), "student": plain(1, 5)}
    context = dw.Context(seed=3, example=offered.example, trainer=trainer, networks=networks, workdir=workdir)
    hints = dw.Distillation(hints=(("1", "1"),))
    recipe = dw.Recipe(
        (dw.Distill(student="assistant"), dw.Distill(student="student", epochs=20, distillation=hints))
    )
    return recipe.run(dw.CompressedModel.dense(small_network_of()), context, on_stage=on_stage)


def small_network_of():
    return plain(5, 16)


if __name__ == "__main__":
    chain(Path(sys.argv[1]), lambda *_: time.sleep(0.05), None)
"""


class TestRefusals:
    def test_what_is_missing_is_named(self) -> None:
        step = dw.Distill(student="studnet")
        (problem,) = dw.Recipe((step,)).check(context_of(), model=start())
        assert "names the network 'studnet'" in problem
        assert "nearest known one is 'student'" in problem
        with pytest.raises(RecipeError, match="no network 'studnet'; the nearest known one is 'student'"):
            step.apply(start(), context_of())
        with pytest.raises(RecipeError, match="needs training data"):
            dw.Distill(student="student").apply(start(), context_of(trainer=None))
        named = dw.Distill(student="student", distillation=dw.Distillation(teachers=("assistent",)))
        with pytest.raises(RecipeError, match=r"'assistent'.*nearest known one is 'assistant'"):
            named.apply(start(), context_of())
        with pytest.raises(RecipeError, match="needs a teacher"):
            dw.Distill(student="student", teacher="given").apply(start(), context_of(teacher=None))
        (problem,) = dw.Recipe((dw.Distill(student="a"),)).check(context_of(networks={}), model=start())
        assert "none is known here" in problem

    def test_a_student_of_other_classes_is_seen_before_anything_runs(self) -> None:
        context = context_of(networks={"student": plain(n_classes=5)})
        (problem,) = dw.Recipe((dw.Distill(student="student"),)).check(context, model=start())
        assert "its student answers (2, 5) and its teacher (2, 4)" in problem
        with pytest.raises(DataError, match="of the same classes"):
            dw.Distill(student="student").apply(start(), replace(context, trainer=small_context().trainer))
        freely = dw.Distill(student="student", distillation=dw.Distillation(alpha=1.0))
        assert dw.Recipe((freely,)).check(context, model=start()) == []

    def test_a_teacher_of_other_classes_or_odd_answers_is_seen_before_anything_runs(self) -> None:
        class Two(nn.Module):
            def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
                return x, x

        networks = {"wide": plain(n_classes=5), "two": Two(), "narrow": nn.Linear(3, 4)}
        for name, words in (("wide", "teacher (2, 5)"), ("two", "its teacher tuple"), ("narrow", "does not take")):
            step = dw.FineTune(distillation=dw.Distillation(teachers=(name,)))
            (problem,) = dw.Recipe((step,)).check(context_of(networks=networks), model=start())
            assert words in problem

    def test_the_second_of_a_chain_is_asked_about_the_first(self) -> None:
        networks = {"assistant": plain(n_classes=5), "student": plain(n_classes=5)}
        steps = (dw.Distill(student="assistant"), dw.Distill(student="student"))
        (problem,) = dw.Recipe(steps).check(context_of(networks=networks), model=start())
        assert "step 1" in problem

    def test_what_is_no_network_or_gives_one_score_is_said_to_be_so(self) -> None:
        (problem,) = dw.Recipe((dw.Distill(student="x"),)).check(context_of(networks={"x": "small.py"}), model=start())
        assert "names the network 'x', which is str; give an nn.Module" in problem
        one = dw.CompressedModel.dense(plain(n_classes=1))
        context = context_of(networks={"x": plain(1, n_classes=1)})
        (problem,) = dw.Recipe((dw.Distill(student="x"),)).check(context, model=one)
        assert "at least two" in problem

    def test_a_student_full_of_nan_is_refused(self) -> None:
        broken = plain()
        broken[1].weight.data[0] = float("nan")
        context = context_of(networks={"student": broken})
        (problem,) = dw.Recipe((dw.Distill(student="student"),)).check(context, model=start())
        assert "holds NaN or infinite values in '1.weight'" in problem
        with pytest.raises(NetworkError, match="NaN"):
            dw.Distill(student="student").apply(start(), context)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"student": ""}, "student is the name"),
            ({"epochs": 0.0}, "epochs must be positive"),
            ({"epochs": float("nan")}, "epochs must be positive"),
            ({"learning_rate": -1.0}, "learning_rate"),
            ({"teacher": "nobody"}, "teacher must be"),
            ({"teacher": "given", "distillation": dw.Distillation(teachers=("a",))}, "exclude each other"),
        ],
    )
    def test_settings_out_of_range(self, settings: Any, message: str) -> None:
        with pytest.raises(SettingError, match=message):
            dw.Distill(**{"student": "student", **settings})
