"""Traces of the Fisher information and of the Hessian, against loops over examples and whole matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from dwindle.errors import DataError, NetworkError
from dwindle.network.labelled import Labelled
from dwindle.network.significance.change import Pruned, Rounded, squared_error
from dwindle.network.significance.criterion import Evidence
from dwindle.network.significance.curvature import FisherTrace, HessianTrace

NAMES = ["3.weight", "0.weight"]


def data(n: int = 40) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(0)), torch.arange(n) % 3


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))


def evidence(n: int = 40, *, seed: int = 0, split: int = 16) -> Evidence:
    x, y = data(n)
    batches = list(zip(x.split(split), y.split(split), strict=True))
    return Evidence(example=x[:2], validation=Labelled(batches=batches, base_loss=cross_entropy), seed=seed)


def whole_hessian(net: nn.Module, name: str) -> Tensor:
    x, y = data()
    weight = net.get_parameter(name).detach()

    def loss(values: Tensor) -> Tensor:
        return cross_entropy(functional_call(net.eval(), {name: values}, (x,)), y)

    found = hessian(loss, weight)
    assert isinstance(found, Tensor)
    return found.reshape(weight.numel(), weight.numel())


def squared_slopes(net: nn.Module, name: str, labels: Tensor) -> Tensor:
    found: list[float] = []
    for x, y in zip(data(len(labels))[0], labels, strict=True):
        net.zero_grad()
        cross_entropy(net.eval()(x[None]), y[None]).backward()
        slope = net.get_parameter(name).grad
        assert slope is not None
        found.append(float(slope.square().sum()))
    return torch.tensor(found)


def test_the_empirical_fisher_is_the_mean_of_the_squared_gradients_of_the_examples():
    net = network()
    found = FisherTrace().scores(net, evidence(), NAMES)
    assert list(found) == NAMES
    for name, score in found.items():
        squares = squared_slopes(net, name, data()[1])
        assert score.value == pytest.approx(float(squares.mean()), rel=1e-5)
        assert score.details["standard_error"] == pytest.approx(float(squares.std()) / 40**0.5, rel=1e-4)
        assert score.details["n_samples"] == 40


def test_the_true_fisher_is_the_mean_over_the_labels_that_the_network_would_give():
    net = network()
    probabilities = net.eval()(data(100)[0]).detach().softmax(1)
    found = FisherTrace(labels="sampled", n_examples=100).scores(net, evidence(100), NAMES)
    for name, score in found.items():
        squares = torch.stack([squared_slopes(net, name, torch.full((100,), label)) for label in range(3)], dim=1)
        expected = float((squares * probabilities).sum(1).mean())
        assert abs(score.value - expected) < 4 * score.details["standard_error"]
    again = FisherTrace(labels="sampled", n_examples=100)
    assert again.scores(net, evidence(100), NAMES) == found
    assert again.scores(net, evidence(100, seed=1), NAMES) != found


def test_labels_can_be_drawn_from_logits_only():
    net = nn.Sequential(nn.Linear(4, 3), nn.Unflatten(1, (3, 1)))
    with pytest.raises(DataError, match=r"this network answers shape \(1, 3, 1\)"):
        FisherTrace(labels="sampled").scores(net, evidence(), ["0.weight"])


def test_the_trace_of_the_hessian_lies_within_its_standard_error():
    net = network()
    found = HessianTrace(n_samples=300).scores(net, evidence(), NAMES)
    assert list(found) == NAMES
    for name, score in found.items():
        expected = float(whole_hessian(net, name).trace())
        assert score.details["standard_error"] < 0.2 * abs(expected)
        assert abs(score.value - expected) < 4 * score.details["standard_error"]


def test_a_diagonal_hessian_needs_one_sample():
    class Squares(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return (self.layer.weight.square() * x.square()).sum(1)

    x, _ = data()
    given = Evidence(example=x[:2], validation=Labelled(batches=[(x, x)], base_loss=lambda a, _: a.mean()))
    found = HessianTrace(n_samples=1).scores(Squares(), given, ["layer.weight"])
    assert found["layer.weight"].value == pytest.approx(2 * float(x.square().mean(0).sum()), rel=1e-5)
    assert "standard_error" not in found["layer.weight"].details


def test_batches_do_not_change_a_trace_and_seeds_do():
    criterion = HessianTrace(n_samples=3, n_examples=40)
    one = criterion.scores(network(), evidence(split=40), NAMES)
    assert criterion.scores(network(), evidence(split=40), NAMES) == one
    several = criterion.scores(network(), evidence(split=9), NAMES)
    assert {n: s.value for n, s in several.items()} == pytest.approx({n: s.value for n, s in one.items()}, rel=1e-4)
    assert criterion.scores(network(), evidence(seed=1), NAMES) != one


@pytest.mark.parametrize("change", [Pruned(sparsity=0.5), Rounded(n_bits=3)])
@pytest.mark.parametrize("kind", [FisherTrace, HessianTrace])
def test_a_change_weighs_the_mean_of_the_diagonal(
    kind: type[FisherTrace] | type[HessianTrace], change: Pruned | Rounded
):
    net = network()
    plain, weighed = kind().scores(net, evidence(), NAMES), kind(change=change).scores(net, evidence(), NAMES)
    for name in NAMES:
        weight = net.get_parameter(name)
        expected = plain[name].value / weight.numel() * squared_error(weight, change)
        assert weighed[name].value == pytest.approx(expected, rel=1e-6)
        assert weighed[name].details["trace"] == plain[name].value


def test_an_operation_without_a_second_derivative_is_named():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            return x * 2

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            return grad * 2

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return Once.apply(self.layer(x))

    with pytest.raises(NetworkError, match=r"no second derivative: .*LossSensitivity needs none"):
        HessianTrace().scores(Layer(), evidence(), ["layer.weight"])
    x, _ = data()
    far = Labelled(batches=[(x, x)], base_loss=lambda a, b: torch.cdist(a, b[:, :3]).square().mean())
    with pytest.raises(NetworkError, match=r"no second derivative: .*LossSensitivity needs none"):
        HessianTrace().scores(network(), Evidence(example=x[:2], validation=far), NAMES)
    assert FisherTrace().scores(Layer(), evidence(), ["layer.weight"])["layer.weight"].value > 0


def test_a_loss_that_is_linear_in_the_weights_has_no_curvature():
    x, y = data()
    given = Evidence(example=x[:2], validation=Labelled(batches=[(x, y)], base_loss=lambda a, _: a.mean()))
    found = HessianTrace().scores(nn.Sequential(nn.Linear(4, 3)), given, ["0.weight"])
    assert found["0.weight"].value == 0
    constant = Evidence(example=x[:2], validation=Labelled(batches=[(x, y)], base_loss=lambda _a, _b: torch.ones(())))
    assert FisherTrace().scores(network(), constant, NAMES)["0.weight"].value == 0
    assert HessianTrace().scores(network(), constant, NAMES)["0.weight"].value == 0


@pytest.mark.parametrize("criterion", [FisherTrace(), HessianTrace()], ids=repr)
def test_no_trace_is_zero_only_because_nothing_was_recorded(criterion: FisherTrace | HessianTrace):
    with torch.inference_mode(), pytest.raises(NetworkError, match="inference_mode"):
        criterion.scores(network(), evidence(), NAMES)
    with torch.no_grad():
        assert criterion.scores(network(), evidence(), NAMES)["0.weight"].value != 0


def test_progress_is_told():
    told: list[tuple[str, int, int]] = []
    x, y = data(3)
    labelled = Labelled(batches=[(x, y)], base_loss=cross_entropy)
    given = Evidence(example=x[:2], validation=labelled, report_progress=lambda *what: told.append(what))
    FisherTrace().scores(network(), given, NAMES)
    HessianTrace(n_samples=1).scores(network(), given, NAMES)
    assert told == [*(("take gradients", i, 3) for i in (1, 2, 3)), ("take second derivatives", 3, 3)]
