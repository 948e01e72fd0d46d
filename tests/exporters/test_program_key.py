"""This file tests the description of a captured program: weights' numbers are not in it, everything else is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dwindle.exporters.program_key import program_key
from dwindle.network.capture import capture
from dwindle.network.compressed import CompressedModel

EXAMPLE = torch.linspace(-1, 1, 3 * 6).reshape(3, 6)
SWITCH = {"is_on": False}


class Layer(nn.Module):
    """A layer whose code holds numbers, tensors and a branch."""

    def __init__(self, *, slope=0.1, shift=1.0, offset=2.0, width=4, is_deep=False) -> None:
        super().__init__()
        self.layer = nn.Linear(6, width)
        self.again = nn.Linear(width, width)
        self.slope, self.is_deep = slope, is_deep
        self.shift = torch.full((width,), shift)
        self.register_buffer("offset", torch.full((width,), offset), persistent=False)
        self.register_buffer("counted", torch.full((width,), 3.0))

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.leaky_relu(self.layer(x), self.slope) + self.shift + self.offset + self.counted
        if SWITCH["is_on"]:
            x = x * 2
        return self.again(x) if self.is_deep else x


def key(network: nn.Module, example: Tensor = EXAMPLE) -> str | None:
    model = CompressedModel.dense(network)
    return program_key(capture(model.network, example), weights=model.encodings.keys(), aliases=model.aliases)


@pytest.fixture(scope="module")
def plain() -> str | None:
    return key(Layer())


def test_weights_buffers_and_modes_may_differ(plain):
    network = Layer().train()
    with torch.no_grad():
        network.counted.fill_(-7.0)
    assert plain is not None
    assert key(network) == plain
    assert key(Layer().eval(), torch.randn(3, 6)) == plain


@pytest.mark.parametrize(
    "settings", [{"slope": 0.2}, {"shift": 1.5}, {"offset": -2.0}, {"width": 5}, {"is_deep": True}, {"shift": -0.0}]
)
def test_what_the_code_holds_counts(plain, settings):
    assert key(Layer(**settings)) not in {plain, None}


def test_a_variable_outside_of_the_network_counts_where_the_graph_shows_it(plain, monkeypatch):
    monkeypatch.setitem(SWITCH, "is_on", True)
    assert key(Layer()) not in {plain, None}


def test_types_and_sizes_count(plain):
    keys = [key(Layer(), EXAMPLE[:2]), key(Layer().double(), EXAMPLE.double())]
    network = Layer()
    network.layer.weight.requires_grad_(requires_grad=False)
    keys.append(key(network))
    assert len({plain, None, *keys}) == 5


def test_sharing_counts():
    def pair(*, is_tied: bool) -> nn.Module:
        network = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False))
        if is_tied:
            network[1].weight = network[0].weight
        return network

    assert len({key(pair(is_tied=False)), key(pair(is_tied=True)), None}) == 3


def test_names_of_weights_and_the_default_type_count():
    model = CompressedModel.dense(nn.Linear(6, 2))
    captured = capture(model.network, EXAMPLE)
    keys = {program_key(captured, weights=names, aliases={}) for names in (["weight", "bias"], ["weight"], [])}
    torch.set_default_dtype(torch.float64)
    try:
        keys.add(program_key(captured, weights=["weight", "bias"], aliases={}))
    finally:
        torch.set_default_dtype(torch.float32)
    assert len(keys - {None}) == 4


class Branch(nn.Module):
    """The branch taken depends on the input, so that the graph holds two more."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))


@torch.library.custom_op("dwindle_tests::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return x * 2


@twice.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Foreign(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return twice(x)


@pytest.mark.parametrize("network", [Branch(), Foreign()])
def test_what_cannot_be_described_has_no_key(network):
    assert key(network) is None
