"""This file tests one output that stands for two classes: in training, in early stopping, and in distillation."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from dwindle.core.losses import divergence
from dwindle.errors import DataError, RecipeError, SettingError
from dwindle.job.losses import bce, bce_with_logits, threshold_of
from dwindle.network.compressed import CompressedModel
from dwindle.network.distillation import Distillation
from dwindle.network.fabric_trainer import FabricTrainer
from dwindle.network.two_classes import as_logits, as_scores
from dwindle.recipe import Recipe
from dwindle.technique import Context
from dwindle.techniques.fine_tune import FineTune


def network(seed=0, *, has_sigmoid=True):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1), *([nn.Sigmoid()] if has_sigmoid else []))


def data(n=96, seed=0):
    x = torch.randn((n, 4), generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, (x.sum(1) > 0).long())


@pytest.mark.parametrize("shape", [(5, 1), (5,)])
def test_answers_above_the_threshold_name_the_second_class(shape):
    output = torch.tensor([0.1, 0.5, 0.500001, 0.9, 0.3]).reshape(shape)
    assert as_scores(output, 0.5).argmax(1).tolist() == [0, 0, 1, 1, 0]


@pytest.mark.parametrize("output", [torch.zeros(4, 2), torch.zeros(4, 1, 3), (torch.zeros(4, 1),), "no tensor"])
def test_everything_else_stays_as_it_is(output):
    assert as_scores(output, 0.5) is output
    assert as_logits(output, "logit") is output


@pytest.mark.parametrize(("loss", "has_sigmoid"), [(bce, True), (bce_with_logits, False)])
def test_accuracy_is_counted_and_training_stops_by_it(loss, has_sigmoid):
    student = network(has_sigmoid=has_sigmoid)
    trainer = FabricTrainer(
        train=data(),
        validation=data(64, seed=1),
        batch_size=16,
        learning_rate=0.2,
        base_loss=loss,
        threshold=threshold_of(loss),
        patience=2,
    )
    curve = trainer(student, steps=60 * trainer.steps_per_epoch, seed=0, stage="test")
    assert len(curve) < 60
    assert curve[-1]["accuracy"] > 0.8
    x, y = data(64, seed=1).tensors
    student.eval()
    answers = student(x)[:, 0] > threshold_of(loss)
    best = max(figures["validation_accuracy"] for figures in curve)
    assert float((answers == y).float().mean()) == pytest.approx(best)


def test_without_a_threshold_there_are_no_classes():
    trainer = FabricTrainer(train=data(), validation=data(32, seed=1), batch_size=16, base_loss=bce)
    (figures,) = trainer(network(), steps=trainer.steps_per_epoch, seed=0, stage="test")
    assert "accuracy" not in figures
    assert "validation_accuracy" not in figures


@pytest.mark.parametrize(
    ("output", "target", "words"),
    [
        (torch.full((3, 1), 1.5), torch.ones(3).long(), "outputs in .* use bce_with_logits"),
        (torch.full((3, 1), 0.5), torch.full((3,), 2), "targets in .* renumber"),
        (torch.full((3, 2), 0.5), torch.ones(3).long(), "as many targets as outputs"),
    ],
)
def test_what_bce_cannot_judge_is_one_clear_error(output, target, words):
    with pytest.raises(DataError, match=words):
        bce(output, target)


def test_no_examples_are_no_error_of_range():
    assert torch.isnan(bce(torch.zeros(0, 1), torch.zeros(0)))


@pytest.mark.parametrize("kind", ["logit", "probability"])
def test_a_teacher_of_one_output_is_compared_as_two_classes(kind):
    logits, wanted = torch.tensor([[1.0], [-2.0]]), torch.tensor([[0.5], [3.0]])
    given = logits if kind == "logit" else logits.sigmoid()
    expected = divergence(*(torch.cat([torch.zeros(2, 1), part], 1) for part in (logits, wanted)), temperature=2.0)
    answers = wanted if kind == "logit" else wanted.sigmoid()
    found = divergence(as_logits(given, kind), as_logits(answers, kind), temperature=2.0)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_a_certain_teacher_gives_a_finite_gradient():
    certain = torch.tensor([[1.0], [0.0]])
    student = torch.tensor([[0.0], [1.0]], requires_grad=True)
    divergence(as_logits(student, "probability"), as_logits(certain, "probability"), temperature=1.0).backward()
    assert student.grad is not None
    assert bool(torch.isfinite(student.grad).all())


def test_a_recipe_learns_from_a_teacher_of_one_output():
    teacher = network(1)
    trainer = FabricTrainer(train=data(), batch_size=16, learning_rate=0.05, base_loss=bce, threshold=0.5)
    context = Context(trainer=trainer, teacher=teacher, example=data().tensors[0][:2])
    model = CompressedModel.dense(network(0))
    taught = FineTune(epochs=40, distillation=Distillation(alpha=0.0, temperature=1.0, one_output="probability"))
    trained = Recipe((taught,)).run(model, context)
    x = data().tensors[0]
    with torch.no_grad():
        before, after = (float((m.network.eval()(x) - teacher.eval()(x)).abs().mean()) for m in (model, trained))
    assert after < 0.75 * before
    silent = FineTune(epochs=1, distillation=Distillation(alpha=0.0))
    with pytest.raises(RecipeError, match="one_output"):
        Recipe((silent,)).run(model, context)


def test_what_one_output_is_has_two_names():
    with pytest.raises(SettingError, match="one of logit, probability"):
        Distillation(one_output="sigmoid")  # type: ignore[arg-type]
