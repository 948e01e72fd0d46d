"""Sensitivity against weights changed by hand, and validation data that cannot be used."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dwindle.errors import DataError, NetworkError, SelectionError, SettingError
from dwindle.network.labelled import Labelled
from dwindle.network.select import weight_names
from dwindle.network.significance.change import Binary, Change, Clustered, Pruned, Rounded, apply_change
from dwindle.network.significance.criterion import Criterion, Evidence
from dwindle.network.significance.curvature import FisherTrace, HessianTrace
from dwindle.network.significance.deviation import WeightDeviation
from dwindle.network.significance.sensitivity import LossSensitivity

CRITERIA: tuple[Criterion, ...] = (
    LossSensitivity(),
    FisherTrace(n_examples=9),
    FisherTrace(n_examples=9, labels="sampled"),
    HessianTrace(n_examples=9, n_samples=2),
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Small(nn.Module):
    """A batch norm, dropout, a layer that is called twice, one that never is, and a tied one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.twice = nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 6)
        self.never, self.head = nn.Linear(2, 2), nn.Linear(6, 3)
        self.again = self.twice

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.dropout(torch.tanh(self.norm(self.first(x))), 0.5, self.training)
        return self.head(torch.tanh(self.again(torch.tanh(self.twice(y)))))


def evidence(
    n: int = 20, *, seed: int = 0, batches: Iterable[Any] | None = None, base_loss: Callable[..., Any] = cross_entropy
) -> Evidence:
    x, y = normal(n, 5), torch.arange(n) % 3
    given = [(x[:7], y[:7]), [x[7:], y[7:]]] if batches is None else batches
    return Evidence(example=x[:2], validation=Labelled(batches=given, base_loss=base_loss), seed=seed)


@pytest.mark.parametrize("change", [Pruned(sparsity=0.6), Rounded(n_bits=2), Binary(), Clustered(codebook_size=2)])
def test_the_score_is_the_growth_of_the_loss_with_one_weight_changed_by_hand(change: Change):
    network, names = Small(), ["head.weight", "twice.weight", "first.weight"]
    x, y = normal(20, 5), torch.arange(20) % 3
    found = LossSensitivity(change=change).scores(network, evidence(), names)
    assert list(found) == names
    before = float(cross_entropy(network.eval()(x), y).detach())
    for name, score in found.items():
        twin = copy.deepcopy(network)
        twin.get_parameter(name).data = apply_change(twin.get_parameter(name), change)
        after = float(cross_entropy(twin(x), y).detach())
        assert score.details == pytest.approx({"loss_before": before, "loss_after": after}, rel=1e-5)
        assert score.value == pytest.approx(after - before, abs=1e-5)


def test_a_layer_that_is_never_called_or_does_not_change_has_no_sensitivity():
    found = LossSensitivity(change=Pruned(sparsity=0)).scores(Small(), evidence(), ["first.weight"])
    assert found["first.weight"].value == 0
    assert LossSensitivity().scores(Small(), evidence(), ["never.weight"])["never.weight"].value == 0


def test_the_first_examples_only_are_looked_at():
    names = ["first.weight"]
    few = LossSensitivity(n_examples=9).scores(Small(), evidence(), names)
    x, y = normal(20, 5)[:9], torch.arange(9) % 3
    assert few == LossSensitivity().scores(Small(), evidence(batches=[(x[:7], y[:7]), (x[7:], y[7:])]), names)


@pytest.mark.parametrize("criterion", CRITERIA, ids=repr)
def test_the_network_and_the_generator_stay_as_they_are_and_scores_repeat(criterion: Criterion):
    network = Small()
    network.norm.eval()
    network.first.weight.requires_grad = False
    before, modes = copy.deepcopy(network.state_dict()), [module.training for module in network.modules()]
    state = torch.get_rng_state()
    names = ["again.weight", "first.weight", "never.weight"]
    with torch.no_grad():
        one = criterion.scores(network, evidence(), names)
    assert list(one) == names
    assert criterion.scores(network, evidence(), names) == one
    assert torch.equal(state, torch.get_rng_state())
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not network.first.weight.requires_grad
    assert network.head.weight.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())
    assert criterion.needs_labels
    assert not criterion.needs_inputs


@pytest.mark.parametrize("criterion", CRITERIA, ids=repr)
def test_a_network_with_recurrence_attention_and_one_example_is_judged(criterion: Criterion):
    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.gru = nn.LSTM(3, 4, batch_first=True, num_layers=2, dropout=0.5), nn.GRU(4, 4)
            self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.lstm(x)[0]
            y = self.gru(y)[0]
            return self.head(self.attention(y, y, y)[0].mean(1))

    network = Steps()
    given = evidence(batches=[(normal(1, 6, 3), torch.tensor([1]))])
    found = criterion.scores(network, given, weight_names(network))
    assert tuple(found) == weight_names(network)
    assert any(score.value != 0 for score in found.values())


@pytest.mark.parametrize("criterion", CRITERIA, ids=repr)
@pytest.mark.parametrize(
    ("batches", "reason"),
    [
        ([], "empty"),
        ([normal(4, 5)], "give pairs"),
        ([(normal(4, 5),)], "give pairs"),
        ([(normal(4, 5), [0, 1, 2, 0])], "give pairs"),
        ([(normal(4, 5), torch.tensor(1))], "first axis counts the examples"),
        ([(normal(4, 5), torch.tensor([0, 1]))], "4 inputs and 2 targets"),
        ([(normal(0, 5), torch.zeros(0, dtype=torch.int64))], "at least one"),
        ([(normal(4, 5) * math.nan, torch.tensor([0, 1, 2, 0]))], "NaN or infinite inputs"),
    ],
)
def test_validation_data_that_cannot_be_used_are_refused(criterion: Criterion, batches: list[Any], reason: str):
    with pytest.raises(DataError, match=reason):
        criterion.scores(Small(), evidence(batches=batches), ["first.weight"])


@pytest.mark.parametrize("criterion", CRITERIA, ids=repr)
def test_errors_say_what_does_not_fit(criterion: Criterion):
    with pytest.raises(DataError, match="labelled data, and there are none"):
        criterion.scores(Small(), Evidence(example=normal(2, 5)), ["first.weight"])
    with pytest.raises(NetworkError, match="does not run on the validation inputs"):
        criterion.scores(Small(), evidence(batches=[(normal(2, 4), torch.tensor([0, 1]))]), ["first.weight"])
    with pytest.raises(DataError, match="must return one number"):
        criterion.scores(Small(), evidence(base_loss=lambda a, _: a), ["first.weight"])
    with pytest.raises(DataError, match="must return one number"):
        criterion.scores(Small(), evidence(base_loss=lambda _a, _b: 1.0), ["first.weight"])
    with pytest.raises(DataError, match="cannot be taken: TypeError"):
        criterion.scores(Small(), evidence(base_loss=lambda a: a.sum()), ["first.weight"])
    with pytest.raises((DataError, NetworkError), match=r"nan|NaN"):
        criterion.scores(Small(), evidence(base_loss=lambda a, _: a.sum() * math.nan), ["first.weight"])
    with pytest.raises(SelectionError, match=r"no parameter 'firsd.weight'; the nearest known one is 'first.weight'"):
        criterion.scores(Small(), evidence(), ["firsd.weight"])
    broken = Small()
    broken.first.weight.data[0, 0] = math.nan
    with pytest.raises(NetworkError, match=r"'first.weight' hold NaN or infinity"):
        criterion.scores(broken, evidence(), ["first.weight"])
    assert criterion.scores(Small(), evidence(), []) == {}


def test_a_loss_that_a_change_makes_infinite_is_named():
    def base_loss(answer: Tensor, _: Tensor) -> Tensor:
        return 1 / answer.abs().sum()

    network = nn.Sequential(nn.Linear(5, 3, bias=False))
    with pytest.raises(DataError, match=r"is inf after Pruned\(sparsity=1.0\) of '0.weight'"):
        LossSensitivity(change=Pruned(sparsity=1.0)).scores(network, evidence(base_loss=base_loss), ["0.weight"])


def test_the_deviation_is_that_of_the_population():
    network = Small()
    found = WeightDeviation().scores(network, Evidence(example=normal(2, 5)), ["twice.weight", "first.weight"])
    assert list(found) == ["twice.weight", "first.weight"]
    values = network.first.weight.detach()
    assert found["first.weight"].value == pytest.approx(float((values - values.mean()).square().mean().sqrt()))
    assert found["first.weight"].details == {"n_weights": 30}
    network.first.weight.data[0, 0] = math.inf
    with pytest.raises(NetworkError, match="NaN or infinity"):
        WeightDeviation().scores(network, Evidence(example=normal(2, 5)), ["first.weight"])
    assert not WeightDeviation().needs_inputs
    assert not WeightDeviation().needs_labels


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: LossSensitivity(n_examples=0), "n_examples must be at least 1"),
        (lambda: FisherTrace(n_examples=0), "n_examples must be at least 1"),
        (lambda: FisherTrace(labels="true"), "labels must be one of given, sampled"),  # pyright: ignore[reportArgumentType]
        (lambda: HessianTrace(n_examples=0), "n_examples must be at least 1"),
        (lambda: HessianTrace(n_examples=2.5), "a whole number, got 2.5"),  # pyright: ignore[reportArgumentType]
        (lambda: HessianTrace(n_samples=True), "a whole number, got True"),
        (lambda: HessianTrace(n_samples=0), "n_samples must be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(make, reason: str):
    with pytest.raises(SettingError, match=reason):
        make()
