"""Train a network on CIFAR-10: the dense network that a job of this folder then compresses.

    python examples/cifar10/train.py --network resnet20 --epochs 16 --out out/cifar10/resnet20.safetensors

Killed and called again, it goes on after the last finished epoch.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import cifar
import torch
from safetensors.torch import save_file

from dwindle.network.fabric_trainer import FabricTrainer


def main() -> None:
    """Train to the end and write the weights."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", choices=["resnet20", "mobilenet_v2"], required=True)
    parser.add_argument("--epochs", type=float, default=16)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    splits = cifar.data()
    torch.manual_seed(options.seed)
    network = getattr(cifar, f"network_{options.network}")()
    trainer = FabricTrainer(
        train=splits.train,
        validation=splits.validation,
        learning_rate=options.learning_rate,
        augment=cifar.augment,
        workdir=options.out.parent / "work",
    )
    steps = math.ceil(options.epochs * trainer.steps_per_epoch)
    for figures in trainer(network, steps=steps, seed=options.seed, stage=options.network):
        print(json.dumps(dict(figures)))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, options.out)


if __name__ == "__main__":
    main()
