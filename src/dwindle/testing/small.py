"""This file holds a small network, small data and a plain trainer: enough for any technique, over in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from dwindle.network.labelled import Labelled
from dwindle.network.train import AfterStep, Loss
from dwindle.technique import Context

INPUT_SHAPE = (1, 8, 8)
N_CLASSES = 4


def small_network(seed: int = 0) -> nn.Module:
    """Return a network in eval mode that maps (batch, 1, 8, 8) to (batch, 4).

    It has convolutions with and without bias, batch norms with uneven statistics and one negative weight, a depthwise
    layer, a residual addition and a linear layer.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = _SmallNetwork()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                _unsettle(module)
    return network.eval()


def small_context(seed: int = 7) -> Context:
    """Return a context that offers everything: example, calibration, validation, trainer, an early network."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(24, *INPUT_SHAPE, generator=generator)
    targets = torch.randint(N_CLASSES, (24,), generator=generator)
    trainer = PlainTrainer(inputs=inputs, targets=targets)
    return Context(
        seed=seed,
        example=inputs[:2],
        calibration=tuple(inputs.split(8)),
        trainer=trainer,
        reference=small_network(),
        early=small_network(seed=1),
        validation=Labelled(
            batches=tuple(zip(inputs.split(8), targets.split(8), strict=True)), base_loss=functional.cross_entropy
        ),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class PlainTrainer:
    """Gradient descent with momentum over tensors in memory: the `Trainer` protocol and nothing more.

    Attributes:
        inputs: (n, ...).
        targets: (n,) class numbers.
        batch_size: examples in a step, taken in order.
        calls: the stage of every call, for tests to look at.
    """

    inputs: Tensor
    targets: Tensor
    batch_size: int = 8
    learning_rate: float = 0.05
    calls: list[str] = field(default_factory=list[str])

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the data; an incomplete batch is left out."""
        return len(self.targets) // self.batch_size

    def __call__(  # ruff: ignore[too-many-arguments] (the seam of network.train.Trainer)
        self,
        network: nn.Module,
        *,
        steps: int,
        seed: int,
        stage: str,
        learning_rate: float | None = None,
        loss: Loss | None = None,
        after_step: AfterStep | None = None,
    ) -> tuple[Mapping[str, float], ...]:
        """Train `network` in place; the modes of its modules are put back afterwards."""
        self.calls.append(stage)
        modes = {module: module.training for module in network.modules()}
        optimizer = torch.optim.SGD(network.parameters(), lr=learning_rate or self.learning_rate, momentum=0.9)
        curve: list[dict[str, float]] = []
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network.train()
            for step in range(1, steps + 1):
                value = self._step(network, optimizer, step, loss=loss)
                if after_step is not None:
                    after_step(step)
                if step % self.steps_per_epoch == 0 or step == steps:
                    curve.append({"epoch": float(len(curve) + 1), "loss": value})
        for module, was_training in modes.items():
            module.training = was_training
        return tuple(curve)

    def _step(self, network: nn.Module, optimizer: torch.optim.Optimizer, step: int, *, loss: Loss | None) -> float:
        start = (step - 1) % self.steps_per_epoch * self.batch_size
        batch = (self.inputs[start : start + self.batch_size], self.targets[start : start + self.batch_size])
        optimizer.zero_grad()
        output = network(batch[0])
        base = functional.cross_entropy(output, batch[1])
        value = base if loss is None else loss(output, batch, base)
        value.backward()
        optimizer.step()
        return float(value.detach())


class _SmallNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, stride=2, padding=1)
        self.norm1 = nn.BatchNorm2d(6)
        self.act1 = nn.ReLU()
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
        self.norm2 = nn.BatchNorm2d(6)
        self.act2 = nn.ReLU()
        self.flatten = nn.Flatten()
        self.head = nn.Linear(96, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.norm1(self.stem(x)))
        x = self.act2(self.norm2(self.depthwise(x)) + x)
        return self.head(self.flatten(x))


def _unsettle(norm: nn.BatchNorm2d) -> None:
    """Give a batch norm statistics as after training; one weight is negative, which turns the sign of a channel."""
    n = norm.num_features
    with torch.no_grad():
        norm.weight.copy_(torch.rand(n) + 0.5)
        norm.weight[0] = -norm.weight[0]
        norm.bias.copy_(torch.randn(n) / 4)
        if norm.running_mean is not None and norm.running_var is not None:
            norm.running_mean.copy_(torch.randn(n) / 4)
            norm.running_var.copy_(torch.rand(n) + 0.5)
