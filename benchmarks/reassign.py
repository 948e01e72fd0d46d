"""This file measures whether weights that may change their centroid while they train end better than fixed ones.

    python benchmarks/reassign.py [--quick] [--seeds N] [--centroids K] [--threads N]

A residual network (`ResNetCifar` with one block a stage: 7 convolutions) on the handwritten digits: trained densely,
its weights clustered to 4 centroids (2 bits), then trained on, shared, for the same number of epochs on every side:
fixed (which is `Cluster` and then `FineTune`, to the last bit), re-assigned after every tenth step, and after every
step. Each at two learning rates, because latent values have to travel before a weight changes sides. A seed is one
dense training and all that starts from it; accuracy and cross entropy are of the 600 images that no training has seen.
Differences are taken in pairs, by seed, against the fixed side at the same learning rate, with the t-interval of their
mean. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dwindle.bench.machine import this_machine
from dwindle.core.assignment import Reassign
from dwindle.core.statistics import Interval, mean_interval
from dwindle.data.digits import load_digits_splits
from dwindle.network.compressed import CompressedModel
from dwindle.network.fabric_trainer import FabricTrainer
from dwindle.technique import Context
from dwindle.techniques.cluster import Cluster
from dwindle.zoo.resnet_cifar import ResNetCifar, SubsampledShortcut

LEARNING_RATES = (0.01, 0.05)
FIXED = "fixed"
SIDES: Mapping[str, Reassign | None] = {FIXED: None, "every 10": Reassign(frequency=10), "every 1": Reassign()}


@dataclass(frozen=True)
class Outcome:
    """How one network answers, and what training it did to its weights."""

    accuracy: float
    loss: float
    moved: float
    n_centroids: int


def examine(network: nn.Module, data: tuple[Tensor, Tensor], decisions: Mapping[str, Mapping[str, float]]) -> Outcome:
    """Return accuracy in percent, mean cross entropy, and what became of the codebooks."""
    inputs, targets = data
    with torch.no_grad():
        answers = network.eval()(inputs)
    moved = [float(found.get("moved", 0.0)) for found in decisions.values()]
    return Outcome(
        accuracy=100.0 * float((answers.argmax(1) == targets).double().mean()),
        loss=float(functional.cross_entropy(answers, targets)),
        moved=sum(moved) / max(len(moved), 1),
        n_centroids=int(sum(found["codebook_size"] for found in decisions.values())),
    )


def run_seed(seed: int, options: argparse.Namespace) -> dict[str, Outcome]:
    """Train densely, then every side; return its outcomes by name."""
    splits = load_digits_splits()
    held_out = [splits.validation.tensors, splits.test.tensors]
    data = torch.cat([inputs for inputs, _ in held_out]), torch.cat([targets for _, targets in held_out])
    trainer = FabricTrainer(train=splits.train, batch_size=64, learning_rate=0.1, accelerator="cpu", precision="fp32")
    torch.manual_seed(seed)
    network = ResNetCifar(in_channels=1, n_classes=10, widths=(16, 32, 64), n_blocks=1, shortcut=SubsampledShortcut)
    trainer(network, steps=options.dense_epochs * trainer.steps_per_epoch, seed=seed, stage="dense")
    dense, context = CompressedModel.dense(network), Context(seed=seed, trainer=trainer)
    untrained = Cluster(codebook_size=options.centroids).apply(dense, context)
    found = {
        "dense": examine(network, data, {}),
        "not trained": examine(untrained.network, data, untrained.history[-1].decisions["tensors"]),
    }
    for rate in LEARNING_RATES:
        for side, reassign in SIDES.items():
            step = Cluster(
                codebook_size=options.centroids, epochs=options.epochs, learning_rate=rate, reassign=reassign
            )
            after = step.apply(dense, context)
            found[name_of(side, rate)] = examine(after.network, data, after.history[-1].decisions["tensors"])
    return found


def name_of(side: str, rate: float) -> str:
    return f"{side}, rate {rate:g}"


def report(outcomes: list[dict[str, Outcome]]) -> dict[str, object]:
    """Print a table and return its figures."""
    header = (
        "",
        "accuracy [%]",
        "cross entropy",
        "moved [%]",
        "centroids",
        "accuracy gained [points]",
        "entropy gained",
    )
    print("{:22}{:>14}{:>15}{:>11}{:>11}{:>28}{:>30}".format(*header))
    figures: dict[str, object] = {}
    for name in outcomes[0]:
        side = [found[name] for found in outcomes]
        means = [sum(getattr(o, key) for o in side) / len(side) for key in ("accuracy", "loss", "moved", "n_centroids")]
        gains = {key: _gain(outcomes, name, key) for key in ("accuracy", "loss")}
        text = _text(gains["accuracy"], 2), _text(gains["loss"], 4)
        print(
            f"{name:22}{means[0]:14.2f}{means[1]:15.4f}{100 * means[2]:11.2f}{means[3]:11.1f}{text[0]:>28}{text[1]:>30}"
        )
        figures[name] = {
            "accuracy": [round(o.accuracy, 3) for o in side],
            "cross_entropy": [round(o.loss, 5) for o in side],
            **{f"{key}_gained": [round(v, 5) for v in (g.value, g.low, g.high)] for key, g in gains.items() if g},
        }
    return figures


def _gain(outcomes: list[dict[str, Outcome]], name: str, key: str) -> Interval | None:
    """Return what a side gains over the fixed one at its learning rate; positive is better."""
    side, comma, rate = name.partition(", rate ")
    if not comma or side == FIXED or len(outcomes) < 2:
        return None
    sign = 1.0 if key == "accuracy" else -1.0
    fixed = name_of(FIXED, float(rate))
    return mean_interval([sign * (getattr(o[name], key) - getattr(o[fixed], key)) for o in outcomes])


def _text(gain: Interval | None, digits: int) -> str:
    return "-" if gain is None else f"{gain.value:+.{digits}f} [{gain.low:+.{digits}f}, {gain.high:+.{digits}f}]"


def main() -> None:
    """Print a table, then one JSON object."""
    options = _options()
    torch.set_num_threads(options.threads)
    started = time.perf_counter()
    print(f"ResNetCifar, digits, {options.centroids} centroids, {options.seeds} seeds; {this_machine().summary()}")
    print(f"{options.dense_epochs} dense epochs, then {options.epochs} with shared weights\n")
    outcomes: list[dict[str, Outcome]] = []
    for seed in range(options.seeds):
        outcomes.append(run_seed(seed, options))
        print(f"seed {seed}: {', '.join(f'{name} {o.accuracy:.1f}' for name, o in outcomes[-1].items())}", flush=True)
    figures = report(outcomes)
    seconds = round(time.perf_counter() - started, 1)
    print(json.dumps({"centroids": options.centroids, "seeds": options.seeds, "seconds": seconds, "sides": figures}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two seeds, one epoch: does it run")
    parser.add_argument("--seeds", type=int, default=5, help="dense trainings, each with all sides (5)")
    parser.add_argument("--centroids", type=int, default=4, help="for each tensor (4)")
    parser.add_argument("--epochs", type=int, default=6, help="with shared weights (6)")
    parser.add_argument("--dense-epochs", type=int, default=12, help="before (12)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.epochs, options.dense_epochs = 2, 1, 1
    return options


if __name__ == "__main__":
    main()
