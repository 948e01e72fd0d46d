from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dwindle.errors import NetworkError
from dwindle.network.activations import CallSite
from dwindle.network.capture import capture


class Residual(nn.Module):
    """Everything that has no module of its own: a reused ReLU, an addition in place, a concatenation, a function."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        a = self.relu(self.norm(self.conv(x)))
        b = functional.relu(a - 1)
        b += a
        b = self.relu(b)
        return self.head(functional.adaptive_avg_pool2d(torch.cat([a, b], 1), 1).flatten(1))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        if y.sum() > 0:  # the line that the error must name
            return y
        return -y


class FixedView(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(2, -1) * 2


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand(3)


class WritesAndDrops(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = x * 1
        self.relu(y)
        return y


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_capture_answers_like_the_network_for_any_batch_size(batch_size: int) -> None:
    network = Residual().eval()
    graph = capture(network, torch.randn(batch_size, 3, 6, 6)).module()[0]
    for n in (1, 2, 5):
        x = torch.randn(n, 3, 6, 6)
        torch.testing.assert_close(graph(x), network(x))


def test_sites_name_functions_and_every_call_of_a_reused_module() -> None:
    captured = capture(Residual(), torch.randn(2, 3, 6, 6))
    sites = list(captured.sites.values())
    assert len(set(sites)) == len(sites)
    assert CallSite("<input>", 0) in sites
    assert {CallSite("conv", 0), CallSite("relu", 0), CallSite("relu", 1), CallSite("head", 0)} <= set(sites)
    assert {site.call for site in sites if not site.module} == set(range(6))
    module, module_sites = captured.module()
    assert set(module_sites) <= {node.name for node in module.graph.nodes}
    assert sorted(module_sites.values()) == sorted(sites)


def test_an_input_that_is_renamed_keeps_its_site() -> None:
    module, sites = capture(nn.Sequential(nn.ReLU()), torch.randn(2, 3)).module()
    (name,) = [node.name for node in module.graph.nodes if node.op == "placeholder"]
    assert sites[name] == CallSite("<input>", 0)


def test_sites_are_the_same_in_every_capture() -> None:
    first, second = (capture(Residual(), torch.randn(n, 3, 6, 6)).sites for n in (1, 4))
    assert first == second


def test_a_capture_leaves_the_network_as_it_was() -> None:
    network = Residual().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    capture(network, torch.randn(2, 3, 6, 6))
    assert network.training
    assert network.norm.training
    assert network.relu.inplace
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_outputs_of_a_recurrent_layer_have_a_site_each() -> None:
    sites = capture(nn.LSTM(3, 4, batch_first=True), torch.randn(2, 5, 3)).sites
    assert {"getitem", "getitem_1", "getitem_2"} <= set(sites)
    assert {sites[f"getitem{tail}"].output for tail in ("", "_1", "_2")} == {0, 1, 2}
    assert "lstm" not in sites


def test_weights_keep_their_names() -> None:
    captured = capture(Residual(), torch.randn(2, 3, 6, 6))
    assert sorted(captured.weights.values()) == sorted(Residual().state_dict())


def test_a_tied_weight_goes_by_its_first_name() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    network[1].weight = network[0].weight
    assert set(capture(network, torch.randn(2, 3)).weights.values()) == {"0.weight", "0.bias", "1.bias"}


def test_control_flow_on_values_is_an_error_that_names_the_line(capfd: pytest.CaptureFixture[str]) -> None:
    number = 1 + next(i for i, line in enumerate(Path(__file__).read_text().splitlines()) if "must name" in line)
    with pytest.raises(NetworkError, match=rf"{re.escape(__file__)}:{number} in module 'block'.*weights.*still work"):
        capture(_nested(), torch.randn(2, 3))
    assert capfd.readouterr() == ("", "")


def _nested() -> nn.Module:
    network = nn.Sequential()
    network.add_module("block", Branching())
    return network


def test_a_wrong_shape_is_an_error_that_names_the_shape_and_the_module() -> None:
    with pytest.raises(NetworkError, match=r"example, float32 \(2, 4\).*in module 'inner'; give an example"):
        capture(Branching(), torch.randn(2, 4))


@pytest.mark.parametrize("example", [torch.tensor(1.0), torch.empty(0, 3)])
def test_an_example_without_a_batch_is_refused(example: Tensor) -> None:
    with pytest.raises(NetworkError, match="must be a batch"):
        capture(nn.Linear(3, 3), example)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_network_with_a_fixed_batch_is_captured_with_a_note(batch_size: int) -> None:
    captured = capture(FixedView(), torch.randn(batch_size, 4))
    assert not captured.dynamic_batch
    assert f"batches of {batch_size} only" in captured.notes[0]


@pytest.mark.parametrize("network", [Noisy(), WritesAndDrops()])
def test_a_graph_that_answers_differently_is_refused(network: nn.Module) -> None:
    with pytest.raises(NetworkError, match="answers differently"):
        capture(network, torch.randn(2, 3))


class Logarithm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.log(x)


def test_answers_that_are_no_numbers_are_compared_too() -> None:
    assert capture(Logarithm(), torch.tensor([[-1.0, 0.0], [1.0, 2.0]])).dynamic_batch
    assert capture(Logarithm(), torch.tensor([[-1.0, 0.0], [0.0, -2.0]])).dynamic_batch
