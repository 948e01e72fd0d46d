"""This file tests that a network is asked without a trace."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dwindle.network.answers import answer


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.layer = nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 2)
        self.norm.eval()

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.layer(self.drop(self.norm(x + y))) + 0 * torch.randn(2)


def test_it_answers_in_eval_mode_and_stays_as_it_was() -> None:
    network = Noisy().train()
    network.norm.eval()
    before, modes = copy.deepcopy(network.state_dict()), [module.training for module in network.modules()]
    state = torch.random.get_rng_state()
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    found = answer(network, (x, x))
    assert not found.requires_grad
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with torch.no_grad():
        assert torch.allclose(found, copy.deepcopy(network).eval()(x, x))
    with pytest.raises(RuntimeError):
        answer(network, (x[:, :2], x[:, :2]))
    assert [module.training for module in network.modules()] == modes
