"""This file compares PruneChannels with Torch-Pruning used directly: one network, one ratio, one training afterwards.

    python benchmarks/beside_torch_pruning.py [--quick] [--data cifar10|fashion-mnist|digits] [--width W] [--ratio R]
        [--seeds N] [--dense-epochs N] [--epochs N] [--precision auto|fp32|bf16] [--out FOLDER]

A seed is one dense training of ResNet-18 for CIFAR, from which both sides start: `PruneChannels(importance="l2")`, and
Torch-Pruning's `BasePruner` with `GroupMagnitudeImportance(p=2)`, both rounding to multiples of 8 and leaving the
classifier alone. Then both train for the same epochs at the same rate, with the same order of examples. Accuracy is
that of the test split in torch; multiply-accumulates are counted by Torch-Pruning's own counter on both networks.

Differences are taken in pairs, by seed, with the t-interval of their mean. What is finished lies in FOLDER: killed and
called again, it goes on after the last finished epoch. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
import torch_pruning
from torch import Tensor, nn
from torch.utils.data import DataLoader

import dwindle as dw
from dwindle.bench.machine import this_machine
from dwindle.core.statistics import mean_interval
from dwindle.data.augment import crop_and_flip
from dwindle.data.cifar10 import load_cifar10
from dwindle.data.digits import load_digits_splits
from dwindle.data.fashion_mnist import load_fashion_mnist
from dwindle.data.splits import Splits
from dwindle.network.fabric_trainer import has_fast_bfloat16
from dwindle.zoo.resnet_cifar import resnet18_cifar

ROUND_TO: Final = 8
LOADERS: Final = {"cifar10": load_cifar10, "fashion-mnist": load_fashion_mnist, "digits": load_digits_splits}
OURS: Final = "dwindle"
PEER: Final = "Torch-Pruning"
Side = Mapping[str, float]


def cut_by_us(network: nn.Module, example: Tensor, ratio: float) -> nn.Module:
    """Return the network without `ratio` of the channels of each group."""
    step = dw.PruneChannels(pruning_ratio=ratio, importance="l2", round_to=ROUND_TO)
    return step.apply(dw.CompressedModel.dense(network), dw.Context(example=example)).network


def cut_by_peer(network: nn.Module, example: Tensor, ratio: float) -> nn.Module:
    """Return the same from Torch-Pruning, as its documentation shows it."""
    network = copy.deepcopy(network)
    pruner = torch_pruning.pruner.BasePruner(
        network,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        round_to=ROUND_TO,
        ignored_layers=[network.head],
    )
    pruner.step()
    return network


SIDES: Final = {OURS: cut_by_us, PEER: cut_by_peer}


def main() -> None:
    """Print a line for each seed, then the means, then one JSON object."""
    options = _options()
    torch.set_num_threads(options.threads)
    print(f"ResNet-18 of width {options.width}, {options.data}, {options.ratio:.0%} of the channels go")
    is_bf16 = options.precision == "bf16" or (options.precision == "auto" and has_fast_bfloat16(torch.device("cpu")))
    precision = "bf16" if is_bf16 else "fp32"
    print(
        f"{options.dense_epochs:g} dense epochs, then {options.epochs:g}, in {precision}; {this_machine().summary()}\n"
    )
    splits = LOADERS[options.data]()
    trainer = dw.FabricTrainer(
        train=splits.train,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        augment=None if options.data == "digits" else crop_and_flip,
        workdir=options.out,
        accelerator="cpu",
        precision=precision,
    )
    found = [_seed(seed, splits, trainer, options=options) for seed in range(options.seeds)]
    figures = _report(found)
    settings = {"data": options.data, "width": options.width, "precision": precision}
    print(json.dumps({"benchmark": "beside_torch_pruning", **settings, **figures}))


def _seed(seed: int, splits: Splits, trainer: dw.FabricTrainer, *, options: argparse.Namespace) -> dict[str, Side]:
    example = torch.stack([splits.test[i][0] for i in range(2)])
    torch.manual_seed(seed)
    network = resnet18_cifar(in_channels=example.shape[1], width=options.width)
    _train(trainer, network, seed=seed, stage="dense", epochs=options.dense_epochs)
    sides = {"dense": {"accuracy": _accuracy(network, splits), "macs": _macs(network, example)}}
    for name, cut in SIDES.items():
        small = cut(network.eval(), example, options.ratio)
        before = _accuracy(small, splits)
        rate = options.retrain_learning_rate
        _train(trainer, small, seed=seed, stage=name, epochs=options.epochs, learning_rate=rate)
        sides[name] = {"accuracy": _accuracy(small, splits), "cut": before, "macs": _macs(small, example)}
    words = [f"{name} {side['accuracy']:.2f} %, {side['macs'] / 1e6:.2f} M" for name, side in sides.items()]
    print(f"seed {seed}: {'; '.join(words)}", flush=True)
    return sides


def _train(
    trainer: dw.FabricTrainer,
    network: nn.Module,
    *,
    seed: int,
    stage: str,
    epochs: float,
    learning_rate: float | None = None,
) -> None:
    steps = max(1, round(epochs * trainer.steps_per_epoch))
    trainer(network, steps=steps, seed=seed, stage=f"{stage}-{seed}", learning_rate=learning_rate)


def _accuracy(network: nn.Module, splits: Splits) -> float:
    """Return the share of right answers on the test split, in percent."""
    right = n = 0
    network.eval()
    with torch.no_grad():
        for inputs, targets in DataLoader(splits.test, batch_size=500):
            right += int((network(inputs).argmax(1) == targets).sum())
            n += len(targets)
    return 100.0 * right / n


def _macs(network: nn.Module, example: Tensor) -> float:
    macs, _ = torch_pruning.utils.count_ops_and_params(network, example[:1])
    return float(macs)


def _report(found: list[dict[str, Side]]) -> dict[str, Any]:
    """Print what the sides come to; return it."""
    figures: dict[str, Any] = {}
    for name in found[0]:
        accuracies = [sides[name]["accuracy"] for sides in found]
        figures[name] = {"accuracy": accuracies, "macs": found[0][name]["macs"]}
        print(
            f"{name:15}{sum(accuracies) / len(accuracies):8.2f} %{found[0][name]['macs'] / 1e6:10.2f} M multiply-adds"
        )
    figures["equal_macs"] = all(sides[OURS]["macs"] == sides[PEER]["macs"] for sides in found)
    if len(found) > 1:
        gain = mean_interval([sides[OURS]["accuracy"] - sides[PEER]["accuracy"] for sides in found])
        figures["gained_points"] = [gain.value, gain.low, gain.high]
        print(f"{OURS} over {PEER}: {gain.value:+.2f} points [{gain.low:+.2f}, {gain.high:+.2f}], n = {len(found)}")
    return figures


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two seeds of a narrow network on the digits: does it run")
    parser.add_argument("--data", choices=tuple(LOADERS), default="fashion-mnist")
    parser.add_argument("--width", type=int, default=16, help="channels of the first stage (16)")
    parser.add_argument("--ratio", type=float, default=0.5, help="share of the channels that goes (0.5)")
    parser.add_argument("--seeds", type=int, default=3, help="dense trainings, each with both sides (3)")
    parser.add_argument("--dense-epochs", type=float, default=5, help="before the cut (5)")
    parser.add_argument("--epochs", type=float, default=2, help="after it (2)")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=0.1, help="of the dense training (0.1)")
    parser.add_argument("--retrain-learning-rate", type=float, default=0.04, help="after the cut (0.04)")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of training, both sides")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument("--out", type=Path, default=Path("out/beside_torch_pruning"), help="where checkpoints lie")
    options = parser.parse_args()
    if options.quick:
        options.data, options.width, options.seeds = "digits", 16, 2
        options.dense_epochs, options.epochs, options.batch_size = 2, 1, 64
    return options


if __name__ == "__main__":
    main()
