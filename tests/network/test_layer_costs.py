"""This file tests what layers cost, against counts made by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dwindle.network.layer_costs import layer_costs
from dwindle.network.select import weight_names


def costs(network, *inputs):
    example = inputs[0] if len(inputs) == 1 else inputs
    return layer_costs(network, weight_names(network), example)


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), (3, 6, 5), 8 * 3 * 9 * 30),
        (nn.Conv2d(4, 8, 3, groups=2, stride=2), (4, 7, 7), 8 * 2 * 9 * 9),
        (nn.Conv1d(2, 5, 4), (2, 10), 5 * 2 * 4 * 7),
        (nn.ConvTranspose2d(3, 6, 2, stride=2), (3, 4, 4), 3 * 6 * 4 * 16),
        (nn.Linear(7, 5), (7,), 35),
        (nn.Linear(7, 5), (3, 7), 105),
    ],
)
def test_a_weight_counts_once_for_each_place(layer, shape, macs):
    assert costs(nn.Sequential(layer), torch.randn(2, *shape))["0.weight"].macs == macs


def test_recurrent_weights_count_once_for_each_step():
    found = costs(nn.LSTM(5, 4, batch_first=True, num_layers=2), torch.randn(3, 9, 5))
    assert {name: cost.macs for name, cost in found.items()} == {
        "weight_ih_l0": 9 * 16 * 5,
        "weight_hh_l0": 9 * 16 * 4,
        "weight_ih_l1": 9 * 16 * 4,
        "weight_hh_l1": 9 * 16 * 4,
    }


def test_a_cell_counts_once_for_each_call():
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.GRUCell(5, 4)

        def forward(self, x):
            state = torch.zeros(len(x), 4)
            for step in x.unbind(1):
                state = self.cell(step, state)
            return state

    found = costs(Steps(), torch.randn(2, 7, 5))
    assert (found["cell.weight_ih"].macs, found["cell.weight_ih"].n_calls) == (7 * 12 * 5, 7)


def test_attention_counts_its_projections():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x)[0]

    found = costs(Attends(), torch.randn(2, 6, 8))
    assert {name: cost.macs for name, cost in found.items()} == {
        "attention.in_proj_weight": 6 * 24 * 8,
        "attention.out_proj.weight": 6 * 8 * 8,
    }


def test_a_table_multiplies_nothing_and_an_idle_layer_is_never_called():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.used, self.idle = nn.Embedding(10, 4), nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x):
            return self.used(self.table(x)).mean(1)

    found = costs(Idle(), torch.zeros(3, 5, dtype=torch.long))
    assert (found["table.weight"].macs, found["table.weight"].n_calls) == (0, 1)
    assert found["used.weight"].macs == 5 * 8
    assert (found["idle.weight"].macs, found["idle.weight"].n_calls) == (0, 0)


def test_several_inputs_and_a_layer_called_twice():
    class Siamese(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = nn.Linear(4, 3)

        def forward(self, x, y):
            return self.shared(x) - self.shared(y)

    (cost,) = costs(Siamese(), torch.randn(2, 4), torch.randn(2, 4)).values()
    assert (cost.macs, cost.n_calls, cost.n_answered) == (24, 2, 6)


def test_modes_hooks_and_the_global_generator_are_left_as_found():
    network = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train()
    state = torch.get_rng_state()
    costs(network, torch.randn(2, 4, generator=torch.Generator().manual_seed(0)))
    assert network.training
    assert not network[0]._forward_hooks
    assert torch.equal(state, torch.get_rng_state())


def test_hooks_are_gone_after_a_failure():
    network = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(RuntimeError, match="mat1"):
        costs(network, torch.randn(2, 5))
    assert not network[0]._forward_hooks


def test_without_an_example_nothing_is_run():
    (cost,) = layer_costs(nn.Linear(4, 3), ("weight",), None).values()
    assert (cost.macs, cost.n_calls, cost.dense_bytes) == (None, None, 48)
