"""This file times a training step in bfloat16 with our detours around slow convolutions against oneDNN's alone.

    python benchmarks/convolutions.py [--quick] [--rounds N] [--threads N]

Batch 64, channels last, SGD as in `FabricTrainer`. Every round runs one step of each side in shuffled order, in one
process; the ratio is the median over the rounds of oneDNN's step over ours, in processor time, with the 95 % interval
of the median. Where bfloat16 is emulated there is nothing to measure. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from dwindle.bench.machine import this_machine
from dwindle.bench.protocol import quantile_interval
from dwindle.network.fabric_trainer import has_fast_bfloat16
from dwindle.network.fast_convolutions import fast_convolutions
from dwindle.network.optimizers import sgd
from dwindle.zoo.har_tian import vgg19_bn_tian_har
from dwindle.zoo.mobilenet_v2 import mobilenet_v2
from dwindle.zoo.resnet18_tian import resnet18_tian
from dwindle.zoo.resnet_cifar import resnet18_cifar

BATCH_SIZE = 64
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet18_tian": (partial(resnet18_tian, in_channels=1), (1, 33, 33)),
    "vgg19_bn_tian_har": (vgg19_bn_tian_har, (9, 128)),
    "resnet18_cifar": (resnet18_cifar, (3, 32, 32)),
    "mobilenet_v2": (partial(mobilenet_v2, n_classes=10, n_unit_strides=2), (3, 32, 32)),
}


def step_of(network: nn.Module, shape: tuple[int, ...]) -> Callable[[], None]:
    """Return a training step on random inputs."""
    network.to(memory_format=torch.channels_last).train()
    optimizer = sgd([{"params": list(network.parameters())}], 1e-4)
    inputs, labels = torch.randn(BATCH_SIZE, *shape), torch.randint(0, 6, (BATCH_SIZE,))
    if inputs.ndim == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = functional.cross_entropy(network(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def ratio_of(step: Callable[[], None], *, n_rounds: int) -> tuple[float, float, float]:
    """Return oneDNN's processor time over ours, and the interval of its median; the first round warms up."""
    shuffle, ratios = random.Random(0), list[float]()
    for _ in range(n_rounds + 1):
        seconds: dict[str, float] = {}
        sides = [("oneDNN", contextlib.nullcontext), ("ours", fast_convolutions)]
        shuffle.shuffle(sides)
        for name, context in sides:
            with context():
                started = time.process_time()
                step()
                seconds[name] = time.process_time() - started
        ratios.append(seconds["oneDNN"] / seconds["ours"])
    found, _ = quantile_interval(tuple(ratios[1:]), 0.5)
    return found.value, found.low, found.high


def main() -> None:
    """Measure every network and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that it works")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    figures: dict[str, object] = {"machine": this_machine().summary()}
    if not has_fast_bfloat16(torch.device("cpu")):
        print("bfloat16 is emulated here: training takes float32, and no convolution a detour")
    else:
        for name, (build, shape) in NETWORKS.items():
            value, low, high = ratio_of(step_of(build(), shape), n_rounds=3 if arguments.quick else arguments.rounds)
            figures[f"{name}_speedup"] = [round(value, 3), round(low, 3), round(high, 3)]
            print(f"{name:20} {value:.2f}x [{low:.2f}, {high:.2f}]")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
