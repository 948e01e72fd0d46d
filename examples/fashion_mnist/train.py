"""Train `resnet18_tian` on Fashion-MNIST in plain PyTorch: the network that job.toml then compresses.

    python examples/fashion_mnist/train.py --seed 0 --epochs 8 --out out/fashion_mnist/dense_0.safetensors

Checkpoints every epoch beside `--out` and resumes from there. Nothing of dwindle trains here.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from fashion import augment, data, network
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

BATCH_SIZE = 128
PEAK_LEARNING_RATE = 0.05
HAS_BF16 = torch.cpu._is_avx512_bf16_supported()  # emulated, bf16 is fifteen times slower than float32


@torch.no_grad()
def accuracy(net: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Return the fraction of right answers, in eval mode."""
    net.eval()
    n_right = 0
    for x, y in zip(inputs.split(500), targets.split(500), strict=True):
        with torch.autocast("cpu", torch.bfloat16, enabled=HAS_BF16):
            n_right += int((net(x.to(memory_format=torch.channels_last)).argmax(1) == y).sum())
    return n_right / len(targets)


class Training:
    """A network, its optimizer and the one-cycle schedule, saved after each epoch."""

    def __init__(self, *, seed: int, n_steps: int, checkpoint: Path) -> None:
        torch.manual_seed(seed)
        self.seed, self.epoch, self.checkpoint = seed, 0, checkpoint
        self.network = network().to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), lr=PEAK_LEARNING_RATE, momentum=0.9, weight_decay=5e-4, nesterov=True
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, PEAK_LEARNING_RATE, total_steps=n_steps, pct_start=0.2
        )
        if checkpoint.exists():
            self._resume()

    def train_epoch(self, inputs: Tensor, targets: Tensor) -> float:
        """Take one step for each whole batch and return the mean loss."""
        generator = torch.Generator().manual_seed(1000 * self.seed + self.epoch)
        n_batches, total = len(targets) // BATCH_SIZE, 0.0
        self.network.train()
        for batch in torch.randperm(len(targets), generator=generator).split(BATCH_SIZE)[:n_batches]:
            x = augment(inputs[batch], generator).to(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=HAS_BF16):
                loss = functional.cross_entropy(self.network(x).float(), targets[batch], label_smoothing=0.1)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            total += loss.item()
        self.epoch += 1
        self._save()
        return total / n_batches

    def _save(self) -> None:
        parts = {"network": self.network, "optimizer": self.optimizer, "schedule": self.schedule}
        part = self.checkpoint.with_suffix(".part")
        torch.save({name: value.state_dict() for name, value in parts.items()} | {"epoch": self.epoch}, part)
        part.replace(self.checkpoint)

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.epoch = state["epoch"]


def main() -> None:
    """Train to the end and write the weights."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    splits = data()
    inputs, targets = splits.train.tensors
    options.out.parent.mkdir(parents=True, exist_ok=True)
    n_steps = options.epochs * (len(targets) // BATCH_SIZE)
    training = Training(seed=options.seed, n_steps=n_steps, checkpoint=options.out.with_suffix(".resume"))
    while training.epoch < options.epochs:
        started = time.perf_counter()
        loss = training.train_epoch(inputs, targets)
        right = accuracy(training.network, *splits.validation.tensors)
        seconds = time.perf_counter() - started
        print(json.dumps({"epoch": training.epoch, "loss": loss, "validation_accuracy": right, "seconds": seconds}))
    save_file({name: value.contiguous() for name, value in training.network.state_dict().items()}, options.out)


if __name__ == "__main__":
    main()
