from __future__ import annotations

import pytest
from torch import nn

from dwindle.errors import SelectionError, SettingError
from dwindle.network.select import Select, weight_names


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.conv = nn.Conv1d(4, 4, 3)
        self.norm = nn.BatchNorm1d(4)
        self.lstm = nn.LSTM(4, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.head = nn.Linear(4, 6)
        self.head.weight = self.embedding.weight
        self.scale = nn.Parameter(self.head.bias.detach()[None].clone())


DEFAULT = (
    "embedding.weight",
    "conv.weight",
    "lstm.weight_ih_l0",
    "lstm.weight_hh_l0",
    "attention.in_proj_weight",
    "attention.out_proj.weight",
)


def test_the_default_is_every_matrix_of_a_known_layer_once() -> None:
    assert weight_names(Mixed()) == DEFAULT
    assert Select().resolve(Mixed()) == DEFAULT


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        (Select(names=("conv.*",)), ("conv.weight", "conv.bias")),
        (Select(names=("scale", "*ih_l0")), ("scale", "lstm.weight_ih_l0", "lstm.bias_ih_l0")),
        (Select(types=("Conv1d",)), ("conv.weight",)),
        (Select(types=("LSTM", "Conv1d")), ("conv.weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0")),
        (Select(exclude=("lstm.*", "attention.*")), ("embedding.weight", "conv.weight")),
        (Select(names=("conv.*",), exclude=("*.bias",)), ("conv.weight",)),
        (Select(names=("conv.weight",), types=("LSTM",)), ("conv.weight",)),
    ],
)
def test_names_come_before_types_and_exclusions_are_taken_away(select: Select, expected: tuple[str, ...]) -> None:
    network = Mixed()
    order = [name for name, _ in network.named_parameters()]
    assert select.resolve(network) == tuple(sorted(expected, key=order.index))


@pytest.mark.parametrize(
    ("select", "message"),
    [
        (Select(names=("convv.weight",)), r"pattern 'convv.weight' matches no weight; .*'conv.weight'"),
        (Select(types=("Conv2d",)), r"type 'Conv2d' matches no weight; .*'Conv1d'"),
        (Select(exclude=("nothing*",)), r"pattern 'nothing\*' matches no weight"),
        (Select(types=("Conv1d",), exclude=("lstm.*",)), r"pattern 'lstm.\*' matches no weight; .*'conv.weight'"),
        (Select(exclude=("*",)), r"selects no weight of a network with 6 weight tensors"),
    ],
)
def test_a_pattern_that_matches_nothing_names_the_nearest(select: Select, message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        select.resolve(Mixed())


def test_a_network_without_weights_is_refused() -> None:
    with pytest.raises(SettingError, match="selects no weight of a network with 0"):
        Select().resolve(nn.ReLU())
