"""This file tests training graphs: they answer, train and remember like the network that they were captured from."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from dwindle.errors import NetworkError
from dwindle.network.activations import ActivationQuantizer, CallSite, LevelQuantizer
from dwindle.network.aware import FreezableNorm, freeze, training_graph
from dwindle.network.capture import capture
from dwindle.network.few_bit_grid import RoundedInput
from dwindle.network.inputs import Inputs, as_tuple
from dwindle.network.trained_ranges import MovingRange, trained_range


class Convolutional(nn.Module):
    """Batch norms, one called twice, dropout of two kinds, a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4, momentum=0.3, eps=1e-3)
        self.twice = nn.BatchNorm2d(4)
        self.drop, self.drop2 = nn.Dropout(0.3), nn.Dropout2d(0.4)
        self.head = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop2(self.bn(self.conv(x)).relu())
        x = self.twice(self.twice(x) + x)
        return self.head(functional.dropout(self.drop(x.flatten(1)), 0.2, self.training))


class Plain(nn.Module):
    """A batch norm without weights, and one without statistics of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4, affine=False)
        self.batch = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.batch(self.bn(self.conv(x))).mean((2, 3))


class Constant(nn.Module):
    """A constant made in `forward`, which turns batch norms into an operation of several results when captured."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.drop = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.bn(self.conv(x * torch.tensor([2.0, 3.0]).reshape(2, 1, 1)))).mean((2, 3))


class InPlace(nn.Module):
    """Operations that change their arguments, beside every kind of dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.drop = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5, inplace=True)
        self.channels, self.alpha = nn.Dropout2d(0.4), nn.AlphaDropout(0.3)
        self.lstm = nn.LSTM(16, 3, 2, dropout=0.4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y += x.mean(1, keepdim=True)
        y = self.channels(self.drop(torch.relu_(self.bn(y)).clone()))
        return self.lstm(self.alpha(self.drop(y)).flatten(2))[0]


class Text(nn.Module):
    """Two recurrent layers with dropout between them, and an embedding tied to the output."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 6)
        self.lstm = nn.LSTM(6, 6, 2, dropout=0.5, batch_first=True)
        self.gru = nn.GRU(6, 3, 2, dropout=0.5, batch_first=True, bidirectional=True)
        self.out = nn.Linear(6, 7)
        self.out.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.gru(self.lstm(self.embedding(x))[0])[0])


class Two(nn.Module):
    """Two inputs, two outputs, in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.drop = nn.Linear(3, 4), nn.Linear(5, 4), nn.Dropout(0.5)

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        total = self.left(a) + self.right(b)
        return {"total": self.drop(total), "left": self.left(a)}


class Named(nn.Module):
    """Modules with the names that a training graph would like to use."""

    def __init__(self) -> None:
        super().__init__()
        self.trained_range_0, self.trained_range_1 = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.trained_input_0, self.trained_batch_norm = nn.Linear(64, 5), nn.Linear(5, 3)
        self.trained_dropout, self.quantize_linear = nn.Dropout(0.5), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.trained_range_1(self.trained_range_0(x)).relu().flatten(1)
        return self.quantize_linear(self.trained_batch_norm(self.trained_dropout(self.trained_input_0(x))))


def image(n: int = 6) -> Tensor:
    return torch.randn(n, 2, 4, 4, generator=torch.Generator().manual_seed(5))


def text(n: int = 6) -> Tensor:
    return torch.randint(0, 7, (n, 5), generator=torch.Generator().manual_seed(5))


def pair(n: int = 6) -> Inputs:
    return torch.randn(n, 3), torch.randn(n, 5)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[..., Inputs]]] = {
    "convolutional": (Convolutional, image),
    "plain": (Plain, image),
    "text": (Text, text),
    "two": (Two, pair),
    "named": (Named, image),
    "constant": (Constant, image),
    "in place": (InPlace, image),
}


def unsettled(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return network


def graph_of(network: nn.Module, example: Inputs) -> fx.GraphModule:
    return training_graph(capture(network, example), {}, folded=())


def numbers(answer: object) -> list[Tensor]:
    if isinstance(answer, Tensor):
        return [answer]
    values = answer.values() if isinstance(answer, dict) else answer
    return [tensor for value in values for tensor in numbers(value)]


def step(network: nn.Module, inputs: tuple[Tensor, ...], seed: int) -> list[Tensor]:
    """Take one step of training; return the answers of that step."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    torch.manual_seed(seed)
    found = numbers(network(*inputs))
    sum(tensor.square().mean() for tensor in found).backward()
    optimizer.step()
    return [tensor.detach() for tensor in found]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_graph_answers_and_trains_like_its_network(name: str):
    build, draw = NETWORKS[name]
    network, inputs = unsettled(build()), as_tuple(draw())
    graph = graph_of(network, draw(2))
    with torch.no_grad():
        for found, wanted in zip(numbers(graph.eval()(*inputs)), numbers(network.eval()(*inputs)), strict=True):
            torch.testing.assert_close(found, wanted)
    own, others = step(network.train(), inputs, 3), step(graph.train(), inputs, 3)
    for found, wanted in zip(others, own, strict=True):
        torch.testing.assert_close(found, wanted)
    state, trained = network.state_dict(), graph.state_dict()
    for key, tensor in state.items():
        if "num_batches_tracked" not in key and key in trained:
            torch.testing.assert_close(trained[key], tensor, msg=key)
    assert {key for key in state if "num_batches" not in key} - set(trained) <= {"out.weight"}


@pytest.mark.parametrize("name", ["convolutional", "constant", "in place"])
def test_dropout_drops_in_training_alone_and_anew(name: str):
    build, draw = NETWORKS[name]
    graph, x = graph_of(build(), draw(2)), draw()
    with torch.no_grad():
        assert torch.equal(graph.eval()(x), graph(x))
        graph.train()
        freeze(graph)
        assert not torch.equal(graph(x), graph(x))


@pytest.mark.parametrize(
    ("dropout", "shape"),
    [
        (nn.Dropout1d, (3, 8, 5)), (nn.Dropout2d, (3, 8, 4, 4)), (nn.Dropout3d, (3, 8, 2, 2, 2)),
        (nn.FeatureAlphaDropout, (3, 8, 4, 4)),
    ],
)  # fmt: skip
def test_dropout_of_channels_drops_whole_channels(dropout: Any, shape: tuple[int, ...]):
    graph = graph_of(nn.Sequential(nn.Identity(), dropout(0.5)), torch.ones(shape)).train()
    (found,) = numbers(graph(torch.ones(shape)))
    channels = found.flatten(2)
    assert not channels.std(2).any()
    assert len(channels.unique()) == 2


def test_a_norm_without_momentum_keeps_its_statistics():
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, momentum=0.0))
    graph = graph_of(network, image(2)).train()
    graph(image())
    assert torch.equal(graph.state_dict()["1.running_mean"], torch.zeros(4))


def test_tied_weights_are_one_parameter():
    network = Text()
    graph = graph_of(network, text(2))
    assert len(list(graph.parameters())) == len(list(network.parameters()))
    tied = [key for key, tensor in graph.state_dict().items() if tensor.shape == (7, 6)]
    assert len({graph.state_dict(keep_vars=True)[key].data_ptr() for key in tied}) == 1


def test_the_network_itself_is_left_alone():
    network = Convolutional()
    before = copy.deepcopy(network.state_dict())
    graph = graph_of(network, image(2))
    step(graph.train(), (image(),), 0)
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())


@pytest.mark.parametrize("name", ["convolutional", "constant"])
def test_frozen_norms_answer_as_in_eval_mode_and_keep_their_statistics(name: str):
    build, draw = NETWORKS[name]
    graph, x = graph_of(unsettled(build()), draw(2)), draw()
    for module in graph.modules():
        if hasattr(module, "p"):
            module.p = 0.0
    with torch.no_grad():
        wanted = graph.eval()(x)
        graph.train()
        assert not torch.allclose(graph(x), wanted, atol=1e-3)
        settled = graph.eval()(x)
        freeze(graph)
        statistics = {k: v.clone() for k, v in graph.state_dict().items() if "running" in k}
        torch.testing.assert_close(graph.train()(x), settled)
    assert all(torch.equal(v, graph.state_dict()[k]) for k, v in statistics.items())
    assert statistics


def test_frozen_norms_still_learn_their_weights():
    graph = graph_of(Convolutional(), image(2))
    freeze(graph)
    before = {k: v.clone() for k, v in graph.state_dict().items()}
    step(graph.train(), (image(),), 0)
    assert not torch.equal(before["bn.weight"], graph.state_dict()["bn.weight"])


def test_statistics_of_a_norm_that_averages_over_all_batches_move():
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, momentum=None))
    graph = graph_of(network, image(2)).train()
    for _ in range(60):
        graph(image())
    torch.testing.assert_close(graph.eval()(image()).mean((0, 2, 3)), torch.zeros(4), atol=0.02, rtol=0)


def test_being_frozen_is_part_of_a_checkpoint():
    graph = graph_of(Convolutional(), image(2))
    freeze(graph)
    other = graph_of(Convolutional(), image(2))
    other.load_state_dict(graph.state_dict())
    norms = [module for module in other.modules() if isinstance(module, FreezableNorm)]
    assert len(norms) == 3
    assert all(bool(norm.frozen) for norm in norms)


def ranges_at(graph: fx.GraphModule) -> dict[str, str]:
    """Return what each range of a graph reads: the name of the node before it."""
    nodes = [node for node in graph.graph.nodes if node.op == "call_module" and "range" in str(node.target)]
    return {str(node.target): node.args[0].name for node in nodes}


@pytest.mark.parametrize("name", ["convolutional", "constant"])
def test_a_range_lies_behind_the_norm_that_will_be_folded(name: str):
    build, draw = NETWORKS[name]
    captured, x = capture(build(), draw(2)), draw()
    start = ActivationQuantizer(scale=0.01, zero_point=128)
    folded, alone = (
        training_graph(captured, {CallSite("conv", 0): trained_range(start, "moving_average")}, folded=names)
        for names in (("bn",), ())
    )
    assert [("norm" in source, "conv" in source) for source in ranges_at(folded).values()] == [(True, False)]
    assert [("norm" in source, "conv" in source) for source in ranges_at(alone).values()] == [(False, True)]
    for graph in (folded, alone):
        step(graph.train(), (x,), 0)
    (moved,) = (module for module in folded.modules() if isinstance(module, MovingRange))
    assert float(moved.high) > 1.27


def test_ranges_and_inputs_stand_where_they_should_and_nowhere_else():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + self.b(x)

    network = Shared().eval()
    captured, x = capture(network, torch.randn(2, 3)), torch.randn(5, 3) * 2
    sign = RoundedInput(LevelQuantizer(n_bits=1))
    graph = training_graph(captured, {}, folded=(), inputs={CallSite("a", 0): sign}).eval()
    torch.testing.assert_close(graph(x), network.a(x.sign()) + network.b(x))
    coarse = trained_range(ActivationQuantizer(scale=1.0, zero_point=128), "learned")
    graph = training_graph(captured, {CallSite("<input>", 0): coarse}, folded=()).eval()
    torch.testing.assert_close(graph(x), network(x.round()))


def test_a_graph_for_one_batch_size_refuses_others():
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([self.layer(row) for row in x])

    network, x = Rows().eval(), torch.randn(4, 3)
    graph = graph_of(network, x)
    torch.testing.assert_close(graph(x), network(x))
    for n in (3, 5):
        with pytest.raises(NetworkError, match=rf"accepts batches of 4 only, got {n}; train with one batch size"):
            graph(torch.randn(n, 3))


def test_a_site_that_the_graph_does_not_have_is_named():
    captured = capture(Two(), pair(2))
    with pytest.raises(NetworkError, match="the graph has no value nowhere:0:0"):
        training_graph(captured, {CallSite("nowhere", 0): nn.Identity()}, folded=())
    with pytest.raises(NetworkError, match="the graph has no value left:9:0"):
        training_graph(captured, {}, folded=(), inputs={CallSite("left", 9): nn.Identity()})
