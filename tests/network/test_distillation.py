"""This file tests learning from a teacher: the mixed loss, what it leaves alone, and what a checkpoint knows of it."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from dwindle.core.losses import divergence
from dwindle.core.schedule import Polynomial
from dwindle.errors import NetworkError, RecipeError, SettingError
from dwindle.network.compressed import CompressedModel
from dwindle.network.distillation import Distillation, distilled_loss
from dwindle.network.fabric_trainer import FabricTrainer
from dwindle.network.identity import identify
from dwindle.recipe import Recipe
from dwindle.technique import Context, Needs
from dwindle.techniques.binarize import Binarize
from dwindle.techniques.cluster import Cluster
from dwindle.techniques.fine_tune import FineTune
from dwindle.techniques.prune_weights import PruneWeights
from dwindle.techniques.quantize_aware import QuantizeAware


def network(seed, n_classes=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, n_classes))


@torch.no_grad()
def gap(student, teacher, x):
    return float(divergence(student.eval()(x), teacher.eval()(x), temperature=1.0))


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn((96, 6), generator=generator), torch.randint(0, 3, (96,), generator=generator))


@pytest.mark.parametrize("is_balanced", [False, True])
def test_the_loss_is_the_mixture_that_its_settings_say(data, is_balanced):
    teacher = network(1)
    x, y = data[:8]
    output = torch.randn(8, 3)
    base = functional.cross_entropy(output, y)
    settings = Distillation(alpha=0.3, temperature=2.0, is_balanced=is_balanced)
    found = settings.loss_from(teacher)(output, (x, y), base)
    expected = divergence(output, copy.deepcopy(teacher).eval()(x).detach(), temperature=2.0)
    assert float(found) == pytest.approx(float(0.3 * base + 0.7 * (4.0 if is_balanced else 1.0) * expected))


def test_alpha_one_trains_as_if_there_were_no_teacher(data):
    def train(**settings):
        trainer = FabricTrainer(train=data, batch_size=32, learning_rate=0.05)
        context = Context(trainer=trainer, teacher=network(1))
        return Recipe((FineTune(epochs=2, **settings),)).run(CompressedModel.dense(network(0)), context)

    plain, mixed = train(), train(distillation=Distillation(alpha=1.0))
    for name, value in plain.network.state_dict().items():
        assert torch.allclose(value.float(), mixed.network.state_dict()[name].float(), atol=1e-6)


def test_a_student_comes_to_answer_like_its_teacher_without_labels(data):
    teacher = network(1).eval()
    x, y = data.tensors
    nonsense = TensorDataset(x, torch.zeros_like(y))
    trainer = FabricTrainer(train=nonsense, batch_size=32, learning_rate=0.1)
    step = FineTune(epochs=60, distillation=Distillation(alpha=0.0, temperature=1.0))
    student = network(0)
    before = gap(student, teacher, x)
    trained = Recipe((step,)).run(CompressedModel.dense(student), Context(trainer=trainer, teacher=teacher))
    assert gap(trained.network, teacher, x) < 0.5 * before


def test_the_teacher_stays_as_it_is(data):
    teacher = network(1).train()
    before = copy.deepcopy(teacher.state_dict())
    trainer = FabricTrainer(train=data, batch_size=32, learning_rate=0.05)
    step = PruneWeights(sparsity=0.5, schedule=Polynomial(), epochs=2, distillation=Distillation())
    pruned = Recipe((step,)).run(CompressedModel.dense(network(0)), Context(trainer=trainer, teacher=teacher))
    assert teacher.training
    assert all(parameter.requires_grad for parameter in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert pruned.history[-1].decisions["sparsity"] == pytest.approx(0.5, abs=0.01)
    assert pruned.history[-1].settings["distillation"]["alpha"] == 0.5


def test_a_checkpoint_tells_teachers_and_settings_apart():
    losses = [
        Distillation().loss_from(network(1)),
        Distillation().loss_from(network(2)),
        Distillation(alpha=0.1).loss_from(network(1)),
        Distillation(temperature=2.0).loss_from(network(1)),
        Distillation(is_balanced=False).loss_from(network(1)),
    ]
    assert len({identify(loss) for loss in losses}) == len(losses)
    assert identify(losses[0]) == identify(Distillation().loss_from(network(1)))


def test_a_step_that_distills_needs_a_teacher(data):
    step = FineTune(distillation=Distillation())
    assert Needs.TEACHER in step.needs
    assert Needs.TEACHER not in FineTune().needs
    context = Context(trainer=FabricTrainer(train=data))
    with pytest.raises(RecipeError, match="teacher"):
        Recipe((step,)).run(CompressedModel.dense(network(0)), context)
    with pytest.raises(RecipeError, match="needs a teacher"), distilled_loss(Distillation(), Context(), network(0)):
        pass


def test_a_teacher_of_other_classes_is_one_error(data):
    context = Context(trainer=FabricTrainer(train=data), teacher=network(1, n_classes=4))
    with pytest.raises(Exception, match="same classes"):
        Recipe((FineTune(distillation=Distillation()),)).run(CompressedModel.dense(network(0)), context)


def test_a_teacher_of_two_outputs_is_one_error(data):
    class Two(nn.Module):
        def forward(self, x):
            return x, x

    x, y = data[:4]
    with pytest.raises(NetworkError, match="from the teacher"):
        Distillation().loss_from(Two())(torch.zeros(4, 3), (x, y), torch.tensor(0.0))


@pytest.mark.parametrize(
    "wrong", [{"alpha": -0.1}, {"alpha": 1.1}, {"temperature": 0.0}, {"temperature": float("nan")}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        Distillation(**wrong)


def test_pruning_at_once_has_nothing_to_distill():
    with pytest.raises(SettingError, match="distillation belong to a schedule"):
        PruneWeights(sparsity=0.5, distillation=Distillation())


def test_a_recipe_with_distillation_survives_toml():
    recipe = Recipe((FineTune(epochs=1, distillation=Distillation(alpha=0.3)), FineTune()))
    assert Recipe.from_toml(recipe.to_toml()) == recipe


def test_an_ensemble_teaches_the_mean_of_its_softened_probabilities(data):
    first, second = network(1), network(2)
    x, y = data[:8]
    output = torch.randn(8, 3)
    found = Distillation(alpha=0.0, temperature=2.0, is_balanced=False).loss_from(first, second)
    wanted = torch.stack([(teacher.eval()(x) / 2).softmax(1) for teacher in (first, second)]).mean(0).detach()
    ours = (output / 2).log_softmax(1)
    expected = (wanted * (wanted.log() - ours)).sum(1).mean()
    assert float(found(output, (x, y), torch.tensor(1.0))) == pytest.approx(float(expected), rel=1e-4)


STEPS = [
    FineTune(epochs=1),
    PruneWeights(sparsity=0.5, schedule=Polynomial(), epochs=1),
    Cluster(codebook_size=4, epochs=1),
    QuantizeAware(epochs=1, activations=None),
    QuantizeAware(epochs=1),
    Binarize(epochs=1, keeps_ends=False),
]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
def test_every_training_can_learn_from_an_ensemble_by_name(data, step):
    def train(**offered):
        taught = replace(step, distillation=Distillation(alpha=0.2, teachers=("first", "second")))
        assert Needs.TEACHER not in taught.needs
        trainer = FabricTrainer(train=data, batch_size=32, learning_rate=0.05, accelerator="cpu")
        x = data.tensors[0]
        context = Context(trainer=trainer, example=x[:2], calibration=[x], networks=offered)
        return Recipe((taught,)).run(CompressedModel.dense(network(0)), context).digest()

    both = train(first=network(1), second=network(2))
    assert both == train(second=network(2), first=network(1), third=network(4))
    assert both != train(first=network(1), second=network(3))
    with pytest.raises(RecipeError, match="'second', which the context does not offer; known: first"):
        train(first=network(1))


def test_a_checkpoint_knows_every_teacher_of_an_ensemble_and_its_code():
    def name(*teachers):
        return identify(Distillation().loss_from(*teachers))

    other = network(1)
    other[2] = nn.GELU()
    names = [name(network(1)), name(network(1), network(2)), name(network(2), network(1)), name(other)]
    assert len(set(names)) == len(names)
    assert name(network(1), network(2)) == names[1]
    hinted = Distillation(hints=(("0", "0"),)).loss_from(network(1))
    assert identify(hinted) not in names


def test_its_text_names_earlier_checkpoints_and_knows_one_output():
    assert repr(Distillation(alpha=0.3)) == (
        "Distillation(alpha=0.3, temperature=4.0, is_balanced=True, teachers=(), hints=(), hint_weight=1.0)"
    )
    assert "one_output='logit'" in repr(Distillation(one_output="logit"))
