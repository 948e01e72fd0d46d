"""This file tests the optimizers and schedules that a trainer takes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset

from dwindle.network.fabric_trainer import FabricTrainer
from dwindle.network.optimizers import adamw, long_warm_up_cosine, sgd


def moved(factory, *, scale: float) -> float:
    """Return how far the weights of a small network come whose loss is multiplied by `scale`."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 5, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
    before = network[0].weight.detach().clone()
    trainer = FabricTrainer(
        train=TensorDataset(inputs, (inputs[:, 0] > 0).long()), batch_size=16, learning_rate=0.001,
        optimizer=factory, precision="fp32", accelerator="cpu",
    )  # fmt: skip
    trainer(network, steps=20, seed=0, stage="s", loss=lambda _output, _batch, base: scale * base)
    return float((network[0].weight.detach() - before).norm())


def test_steps_of_adamw_do_not_shrink_with_the_gradients():
    assert moved(adamw, scale=1e-4) == pytest.approx(moved(adamw, scale=1.0), rel=0.1)
    assert moved(sgd, scale=1e-4) < 0.1 * moved(sgd, scale=1.0)


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_the_long_warm_up_rises_then_falls(first, second):
    low, high = sorted((first, second))
    assert 0.0 <= long_warm_up_cosine(low) <= 1.0
    if high <= 0.2:
        assert long_warm_up_cosine(low) <= long_warm_up_cosine(high)
    if low >= 0.2:
        assert long_warm_up_cosine(low) >= long_warm_up_cosine(high)
