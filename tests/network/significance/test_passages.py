"""Which values lie before and after a layer, in graphs of many forms."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from dwindle.network.capture import capture
from dwindle.network.significance.passages import Passage, find_passages


def passages(network: nn.Module, *shape: int) -> dict[str, list[Passage]]:
    return find_passages(capture(network, torch.randn(2, *shape)))


def test_in_a_chain_a_layer_reads_what_the_one_before_it_made():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1), nn.Conv2d(4, 5, 3, groups=1, bias=False),
        nn.Hardswish(), nn.Flatten(), nn.Linear(20, 6), nn.Tanh(), nn.Linear(6, 2), nn.Softmax(dim=1),
    )  # fmt: skip
    found = passages(network, 3, 6, 6)
    assert list(found) == ["0.weight", "4.weight", "7.weight", "9.weight"]
    calls = [call for (call,) in found.values()]
    assert [str(call.after.site.module) for call in calls] == ["2", "5", "8", "10"]
    for one, next_one in pairwise(calls):
        assert one.after == next_one.before
    assert calls[2].before.channel_axis == 1  # the four axes before the flattening


def test_pooling_changes_a_value_and_is_none_of_the_layer_before():
    found = passages(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1)), 3, 6, 6)
    assert found["0.weight"][0].after.site.module == "1"
    assert found["3.weight"][0].before.site.module == "2"


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.shift = nn.Parameter(torch.zeros(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x) + self.shift) + x)


def test_a_value_that_a_sum_reads_ends_before_the_sum_and_a_bias_of_its_own_belongs_to_the_layer():
    (call,) = passages(Residual(), 3, 5, 5)["conv.weight"]
    assert call.after.site.module == "norm"
    assert call.before.site.module == "input" or call.before.site.call == 0


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.embed = nn.Linear(4, 7)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
        return self.embed(y).relu()


def test_the_axis_of_channels_is_followed_through_permutations():
    found = passages(ChannelsLast(), 5, 6, 3)
    assert found["conv.weight"][0].before.channel_axis == 3
    assert found["embed.weight"][0].before.channel_axis == 1  # the output of the convolution
    assert found["embed.weight"][0].after.channel_axis == 2


class StepsFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, num_layers=2, bidirectional=True)
        self.gru = nn.GRU(8, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x.transpose(0, 1))
        y, _ = self.gru(y)
        return self.head(y[-1])


def test_recurrent_layers_pass_sequences_whichever_axis_the_examples_are_on():
    found = passages(StepsFirst(), 6, 3)
    assert sum(name.startswith("lstm.weight") for name in found) == 8
    (call,) = found["gru.weight_ih_l0"]
    assert (call.after.batch_axis, call.after.channel_axis) == (1, 2)
    assert call == found["gru.weight_hh_l0"][0]
    assert call.before == found["lstm.weight_ih_l1_reverse"][0].after


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.twice = nn.Linear(4, 4)
        self.never = nn.Linear(4, 4)
        self.up = nn.ConvTranspose1d(4, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.words(x)
        y, _ = self.attention(y, y, y)
        return self.up(self.twice(torch.relu(self.twice(y))).transpose(1, 2))


def test_layers_without_values_of_their_own_are_left_out_and_calls_are_counted():
    found = find_passages(capture(Mixed(), torch.randint(0, 10, (2, 5))))
    assert {name: len(calls) for name, calls in found.items()} == {
        "attention.in_proj_weight": 1,
        "twice.weight": 2,
        "up.weight": 1,
    }
    assert found["up.weight"][0].before.channel_axis == 2


class Rows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.reshape(-1, 4)).reshape(x.shape[0], -1, 3)


def test_examples_that_share_an_axis_for_a_while_are_found_where_they_are_apart():
    (call,) = passages(Rows(), 5, 4)["layer.weight"]
    assert (call.before.batch_axis, call.before.channel_axis) == (0, 2)
    assert (call.after.batch_axis, call.after.channel_axis) == (0, 2)
