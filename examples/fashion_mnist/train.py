"""Train `resnet18_tian` on Fashion-MNIST in plain PyTorch: the network that job.toml then compresses.

    python examples/fashion_mnist/train.py --seed 0 --epochs 8 --out out/fashion_mnist/dense_0.safetensors

Checkpoints every epoch beside `--out` and resumes from there. Nothing of dwindle trains here.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from fashion import augment, data, network as build

BATCH_SIZE = 128
PEAK_LEARNING_RATE = 0.05
HAS_BF16 = torch.cpu._is_avx512_bf16_supported()  # emulated, bf16 is fifteen times slower than float32


@torch.no_grad()
def accuracy(network: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Return the fraction of right answers, in eval mode."""
    network.eval()
    n_right = 0
    for x, y in zip(inputs.split(500), targets.split(500), strict=True):
        with torch.autocast("cpu", torch.bfloat16, enabled=HAS_BF16):
            n_right += int((network(x.to(memory_format=torch.channels_last)).argmax(1) == y).sum())
    return n_right / len(targets)


def main() -> None:
    """Train, one checkpoint an epoch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    splits = data()
    inputs, targets = splits.train.tensors
    network = build().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=PEAK_LEARNING_RATE, momentum=0.9, weight_decay=5e-4, nesterov=True)
    n_steps = options.epochs * (len(targets) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=n_steps, pct_start=0.2)
    checkpoint, first = options.out.with_suffix(".resume"), 0
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first = state["epoch"]
    for epoch in range(first, options.epochs):
        generator = torch.Generator().manual_seed(1000 * options.seed + epoch)
        started, total = time.perf_counter(), 0.0
        network.train()
        order = torch.randperm(len(targets), generator=generator)
        for batch in order.split(BATCH_SIZE)[: len(targets) // BATCH_SIZE]:
            x = augment(inputs[batch], generator).to(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=HAS_BF16):
                loss = functional.cross_entropy(network(x).float(), targets[batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        state = {
            "network": network.state_dict(), "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(), "epoch": epoch + 1,
        }  # fmt: skip
        torch.save(state, checkpoint.with_suffix(".part"))
        os.replace(checkpoint.with_suffix(".part"), checkpoint)
        figures = {
            "seed": options.seed, "epoch": epoch + 1, "loss": total / (len(targets) // BATCH_SIZE),
            "validation_accuracy": accuracy(network, *splits.validation.tensors), "seconds": time.perf_counter() - started,
        }  # fmt: skip
        print(json.dumps(figures), flush=True)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, options.out)


if __name__ == "__main__":
    main()
