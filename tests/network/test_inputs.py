"""This file tests networks with several inputs: how they are called, captured, calibrated, simulated and trained."""

from __future__ import annotations

import copy
import operator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, StackDataset, TensorDataset

import dwindle as dw
from dwindle.core.encoding import Dense
from dwindle.core.ranges import Calibration, MinMax
from dwindle.errors import DataError, NetworkError
from dwindle.network.activations import INPUT, ActivationQuantizer, CallSite
from dwindle.network.batches import Batches, all_targets
from dwindle.network.capture import capture
from dwindle.network.inputs import as_inputs, as_tuple, call, describe, join, n_examples, take
from dwindle.network.observe import observe
from dwindle.network.simulate import simulate

RANGES = Calibration(method=MinMax())


class Two(nn.Module):
    """An image and a table; how its forward is written does not matter."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Conv2d(1, 2, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(2)
        self.head = nn.Linear(2 * 16 + 3, 2)

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        return self.head(torch.cat([self.norm(self.image(image)).flatten(1), table], dim=1))


class Several(Two):
    def forward(self, *inputs: Tensor) -> Tensor:
        return super().forward(inputs[0], inputs[1])


def batch(n: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, 4, 4, generator=generator), torch.randn(n, 3, generator=generator)


def data(n: int = 24) -> StackDataset[Any]:
    image, table = batch(n)
    return StackDataset(TensorDataset(image, table), torch.stack([table.sum(1), image.mean((1, 2, 3))], dim=1))


def test_inputs_are_taken_joined_and_described_together() -> None:
    two = batch(4)
    assert n_examples(two) == 4
    first, rest = take(two, slice(1)), take(two, torch.tensor([1, 2, 3]))
    assert all(map(torch.equal, as_tuple(join([first, rest])), two))
    assert describe(two) == "float32 (4, 1, 4, 4) and float32 (4, 3)"
    assert as_inputs(["a"]) is None
    assert as_inputs(()) is None


@pytest.mark.parametrize("kind", [Two, Several])
def test_a_network_with_two_inputs_is_captured_for_any_batch_size(kind: type[Two]) -> None:
    network = kind().eval()
    captured = capture(network, batch(1))
    assert captured.dynamic_batch
    module, sites = captured.module()
    assert {site for site in sites.values() if site.module == INPUT} == {CallSite(INPUT, 0), CallSite(INPUT, 1)}
    torch.testing.assert_close(call(module, batch(5, seed=1)), call(network, batch(5, seed=1)))


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ((torch.randn(2, 1, 4, 4), torch.randn(3, 3)), r"of one size for all inputs, got float32 \(2, 1, 4, 4\) and"),
        (
            (torch.randn(2, 1, 4, 4), torch.tensor(1.0)),
            r"the same for every example belongs into the network as a buffer",
        ),
        ((), "got no tensor"),
        ({"image": torch.randn(2, 1, 4, 4)}, "a mapping of image; give a tuple of tensors"),
        (torch.randn(2, 1, 4, 4), r"does not run on the example, float32 \(2, 1, 4, 4\): TypeError"),
    ],
)
def test_an_example_that_cannot_be_is_one_clear_error(example: Any, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        capture(Two(), example)


def test_each_input_gets_a_range_of_its_own() -> None:
    captured = capture(Two(), batch())
    image, table = batch(8)
    ranges = observe(
        captured, [[image, 10 * table]], sites=[CallSite(INPUT, 0), CallSite(INPUT, 1)], calibration=RANGES
    )
    span = {site.call: 255 * quantizer.scale for site, quantizer in ranges.quantizers.items()}
    assert span[0] == pytest.approx(float(image.max() - image.min()), rel=0.01)
    assert span[1] == pytest.approx(10 * float(table.max() - table.min()), rel=0.01)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.randn(2, 1, 4, 4), r"a Tensor; give the inputs alone, without labels, as a tuple of 2 tensors"),
        ((torch.randn(2, 3), torch.randn(2, 1, 4, 4)), r"expected \(n, 1, 4, 4\) of torch.float32 and \(n, 3\)"),
        ((torch.randn(2, 1, 4, 4), torch.randn(3, 3)), "expected"),
        ((*batch(2), torch.zeros(2)), "give inputs, not labels"),
        ((torch.randn(2, 1, 4, 4), torch.full((2, 3), torch.nan)), "NaN"),
    ],
)
def test_calibration_must_be_like_the_example(given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        observe(capture(Two(), batch()), [given], sites=[CallSite(INPUT, 0)], calibration=RANGES)


def test_the_quantizer_of_the_second_input_acts_on_the_second_input() -> None:
    model = dw.CompressedModel.dense(Two().eval())
    coarse = ActivationQuantizer(scale=0.5, zero_point=128)
    simulated = simulate(replace(model, activations={CallSite(INPUT, 1): coarse}), batch())
    image, table = batch(3, seed=2)
    rounded = (table / 0.5).round() * 0.5
    torch.testing.assert_close(simulated(image, table), model.network(image, rounded))
    with pytest.raises(NetworkError, match=r"accepts inputs of shape \(3, 1, 4, 4\) and \(3, 3\), got \(3, 1, 4, 4\)"):
        simulated(image)


def test_every_technique_that_reads_inputs_takes_several() -> None:
    network = Two()
    context = dw.Context(example=batch(), calibration=[batch(8), batch(8, seed=1)])
    recipe = dw.Recipe((dw.ReestimateBatchNorm(), dw.FoldBatchNorm(), dw.QuantizeStatic()))
    model = recipe.run(dw.CompressedModel.dense(network), context)
    assert CallSite(INPUT, 0) in model.activations
    before, after = call(copy.deepcopy(network).eval(), batch(8)), call(simulate(model, batch()), batch(8))
    assert after.shape == before.shape
    assert model.history[0].decisions["n_batches"] == 2


def trainer(**settings: Any) -> dw.FabricTrainer:
    defaults = {"train": data(), "validation": data(8), "batch_size": 8, "accelerator": "cpu", "base_loss": error}
    return dw.FabricTrainer(**{**defaults, **settings})


def error(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()


def test_training_takes_several_inputs_and_any_target() -> None:
    network = Two()
    curve = trainer(learning_rate=0.02)(network, steps=45, seed=0, stage="s")
    assert curve[-1]["validation_loss"] < curve[0]["validation_loss"]
    assert "validation_accuracy" not in curve[0]


def test_augmentation_gets_all_inputs() -> None:
    seen: list[int] = []

    def swap(inputs: tuple[Tensor, Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        seen.append(len(inputs))
        return inputs[0].flip(3), inputs[1]

    trainer(augment=swap)(Two(), steps=2, seed=0, stage="s")
    assert seen == [2, 2]


def test_early_stopping_without_classes_goes_by_the_loss() -> None:
    network = Two()
    curve = trainer(patience=1, learning_rate=5.0, optimizer=unsteady, precision="fp32")(
        network, steps=60, seed=0, stage="s"
    )
    losses = [figures["validation_loss"] for figures in curve]
    assert len(losses) < 20
    network.eval()
    with torch.no_grad():
        (inputs, targets) = Batches(data=data(8), batch_size=8).first(8)
        assert float(error(call(network, inputs), targets)) == pytest.approx(min(losses), rel=1e-4)


def unsteady(groups: list[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=learning_rate / 20)


class Items(Dataset[Any]):
    """Items made one by one, as a user would write them; the target is a tuple."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, number: int) -> Any:
        image, table = batch(1, seed=number)
        return (image[0], table[0].numpy()), (float(number), torch.zeros(2))


@pytest.mark.parametrize("source", [Items(), DataLoader(Items(), batch_size=5)])
def test_items_made_one_by_one_are_batched(source: Any) -> None:
    inputs, targets = Batches(data=source, batch_size=5).first(3)
    assert describe(inputs) == "float32 (3, 1, 4, 4) and float32 (3, 3)"
    assert as_tuple(targets)[0].tolist() == [0.0, 1.0, 2.0]


def test_tensors_in_memory_are_found_in_stacks() -> None:
    stacked = Batches(data=data(), batch_size=8)
    targets = all_targets(stacked)
    assert targets is not None
    assert targets.shape == (24, 2)
    (image, _), _ = next(stacked.ordered())
    assert torch.equal(image, batch(24)[0][:8])


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (({"a": torch.zeros(2)}, 1), "a mapping of a, Tensor; an item must be .* several inputs are a tuple"),
        ((torch.zeros(2), torch.zeros(2), 1), "list of Tensor, Tensor, Tensor"),
        ((torch.zeros(2), ()), "an item must be"),
    ],
)
def test_items_of_another_form_are_one_clear_error(item: Any, message: str) -> None:
    class Odd(Dataset[Any]):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, number: int) -> Any:
            return item

    with pytest.raises(DataError, match=message):
        Batches(data=Odd(), batch_size=2).first(2)


def test_a_loader_whose_inputs_differ_in_number_is_refused() -> None:
    def collate(items: list[Any]) -> Any:
        return (torch.zeros(2, 3), torch.zeros(1, 3)), torch.zeros(2)

    with pytest.raises(DataError, match="one first axis of equal length"):
        Batches(data=DataLoader(Items(), batch_size=2, collate_fn=collate), batch_size=2).first(2)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (operator.sub, r"returned shape \(2, 2\).*must return one number"),
        (lambda output, target: 1.0, "returned float"),
        (lambda output, target: output.no_such, "rejects outputs float32 .*AttributeError"),
        (lambda output, target: output.mean() * float("nan"), "is nan"),
    ],
)
def test_a_loss_that_cannot_work_is_refused_before_any_step(loss: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        trainer(base_loss=loss)(Two(), steps=2, seed=0, stage="s")


def test_a_model_with_two_inputs_keeps_its_encodings() -> None:
    model = dw.CompressedModel.dense(Two())
    tuned = dw.FineTune(epochs=0.4).apply(model, dw.Context(trainer=trainer()))
    assert all(isinstance(encoding, Dense) for encoding in tuned.encodings.values())
    assert tuned.digest() != model.digest()
