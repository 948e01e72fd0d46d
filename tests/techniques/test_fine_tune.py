"""This file tests fine-tuning: structure stays, the record says what happened, integer codes are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from dwindle.core.encoding import Affine, Codebook, Dense, Sparse, codebook_of, decode, support_of
from dwindle.core.granularity import PerTensor
from dwindle.errors import RecipeError, SettingError
from dwindle.network.activations import ActivationQuantizer, CallSite
from dwindle.network.compressed import CompressedModel
from dwindle.network.fabric_trainer import FabricTrainer
from dwindle.settings import from_plain, to_plain
from dwindle.technique import Context, Needs, Trait
from dwindle.techniques.fine_tune import FineTune


def trainer() -> FabricTrainer:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 6, generator=generator)
    return FabricTrainer(train=TensorDataset(inputs, (inputs[:, 0] > 0).long()), batch_size=16, accelerator="cpu")


def model() -> CompressedModel:
    generator = torch.Generator().manual_seed(1)
    network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
    support = torch.rand(8, 6, generator=generator) < 0.5
    indices = torch.randint(0, 4, (8, 6), generator=generator, dtype=torch.uint8)
    book = Codebook(indices, Dense(torch.tensor([-0.5, -0.1, 0.2, 0.6])))
    return CompressedModel.dense(network).with_encodings({"0.weight": Sparse(support, book)})


def test_fine_tuning_learns_and_keeps_structure():
    before = model()
    digest = before.digest()
    after = FineTune(epochs=20, learning_rate=0.1).apply(before, Context(trainer=trainer(), seed=3))
    assert before.digest() == digest
    old, new = before.encodings["0.weight"], after.encodings["0.weight"]
    assert torch.equal(support_of(old), support_of(new))
    assert torch.equal(codebook_of(old).indices, codebook_of(new).indices)
    assert not torch.equal(decode(old), decode(new))
    record = after.history[-1]
    assert (record.technique, record.seed, record.decisions) == ("FineTune", 3, {"steps": 80})
    assert record.digest == after.digest()
    assert len(record.curve) == 20
    assert record.curve[-1]["loss"] < record.curve[0]["loss"] * 0.8
    for name, tensor in after.network.state_dict().items():
        assert torch.equal(tensor, decode(after.encodings[name]))


def test_the_same_seed_gives_the_same_digest_and_another_another():
    digests = [FineTune(epochs=2).apply(model(), Context(trainer=trainer(), seed=s)).digest() for s in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(("epochs", "steps"), [(0.01, 1), (0.5, 2), (1, 4), (2.5, 10)])
def test_epochs_may_be_a_fraction(epochs, steps):
    after = FineTune(epochs=epochs).apply(model(), Context(trainer=trainer()))
    assert after.history[-1].decisions == {"steps": steps}


def test_integer_codes_are_refused_by_name():
    codes = torch.zeros(2, 8, dtype=torch.int32)
    affine = Affine(codes, torch.tensor([0.1]), torch.zeros(1, dtype=torch.int32), PerTensor(), 8, signed=True)
    quantized = model().with_encodings({"3.weight": affine})
    assert Trait.INTEGER in FineTune().effect.refuses
    with pytest.raises(RecipeError, match=r"'3.weight' is Affine\(8 bit\), and integer codes cannot be trained"):
        FineTune().apply(quantized, Context(trainer=trainer()))


def test_quantized_activations_are_refused_though_the_weights_were_densified():
    quantized = replace(model(), activations={CallSite("0", 0): ActivationQuantizer(scale=0.1, zero_point=0)})
    assert Trait.QUANTIZED_ACTIVATIONS in FineTune().effect.refuses
    with pytest.raises(RecipeError, match=r"1 activations are quantized.*fine-tune before QuantizeStatic"):
        FineTune().apply(quantized, Context(trainer=trainer()))


def test_another_rule_for_centroids_never_goes_on_from_the_other_ones_checkpoint(tmp_path):
    context = Context(trainer=replace(trainer(), workdir=tmp_path))
    rules = ("mean", "sum", "mean")
    kept = [FineTune(centroid_gradient=rule).apply(model(), context).digest() for rule in rules]
    alone = [FineTune(centroid_gradient=rule).apply(model(), Context(trainer=trainer())).digest() for rule in rules]
    assert kept == alone
    assert kept[0] != kept[1]


def test_a_trainer_is_needed():
    assert FineTune().needs == Needs.TRAINING
    with pytest.raises(RecipeError, match="needs training data"):
        FineTune().apply(model(), Context())


@pytest.mark.parametrize(
    "settings",
    [{"epochs": 0}, {"epochs": float("inf")}, {"learning_rate": -1.0}, {"centroid_gradient": "median"}],
)
def test_settings_that_cannot_work(settings):
    with pytest.raises(SettingError, match=f"FineTune: {next(iter(settings))} must be"):
        FineTune(**settings)


def test_settings_survive_toml():
    technique = FineTune(epochs=2, learning_rate=0.01, centroid_gradient="sum")
    assert from_plain(FineTune, to_plain(technique), where="here") == technique
