"""Changes of the intrinsic dimension: on manifolds that are known, against the estimators, and under hostile data."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from dwindle.core.dimension import levina_bickel, pca, two_nn
from dwindle.errors import DataError, NetworkError, SelectionError, SettingError
from dwindle.network.select import weight_names
from dwindle.network.significance.criterion import Evidence
from dwindle.network.significance.dimension import LevinaBickelChange, PCAChange, TwoNNChange
from dwindle.network.significance.representations import MAX_ALIVE, Sampling, draw, measure_passages

CRITERIA = (TwoNNChange(), PCAChange(), LevinaBickelChange(n_neighbours=5))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def evidence(inputs: Tensor, *, seed: int = 0) -> Evidence:
    return Evidence(example=inputs[:2], inputs=list(inputs.split(64)), seed=seed)


def linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight.clone()
    return layer


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5),
        nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 6),
    )  # fmt: skip


def test_a_layer_that_maps_onto_a_subspace_loses_its_complement():
    onto_three = linear(normal(20, 3, seed=1) @ normal(3, 10, seed=2))
    network = nn.Sequential(linear(torch.linalg.qr(normal(10, 10))[0]), onto_three)
    criterion = PCAChange(explained_variance=0.9999)
    found = criterion.scores(network, evidence(normal(300, 10)), ["1.weight", "0.weight"])
    assert list(found) == ["1.weight", "0.weight"]
    assert found["1.weight"].value == -7
    assert found["1.weight"].details == {
        "dimension_before": 10.0, "dimension_after": 3.0, "n_points": 300, "n_calls": 1,
    }  # fmt: skip
    assert found["0.weight"].value == 0
    either = PCAChange(explained_variance=0.9999, is_signed=False)
    assert either.scores(network, evidence(normal(300, 10)), ["1.weight"])["1.weight"].value == 7


@pytest.mark.parametrize(
    "criterion", [TwoNNChange(), TwoNNChange(fit="linear"), LevinaBickelChange(n_neighbours=10)], ids=repr
)
def test_layers_that_embed_and_project_a_known_manifold(criterion: TwoNNChange | LevinaBickelChange):
    embed = linear(torch.linalg.qr(normal(12, 2))[0])  # a plane in twelve dimensions
    project = linear(normal(5, 1, seed=1) @ embed.weight.data[:, :1].T)  # a line in five
    found = criterion.scores(nn.Sequential(embed, project), evidence(normal(1000, 2)), ["0.weight", "1.weight"])
    assert found["0.weight"].details["dimension_before"] == pytest.approx(2, abs=0.25)
    assert found["0.weight"].value == pytest.approx(0, abs=1e-3)
    assert found["1.weight"].details["dimension_after"] == pytest.approx(1, abs=0.15)
    assert found["1.weight"].value == pytest.approx(1, abs=0.3)


def test_values_are_those_that_hooks_show():
    network, inputs = small().eval(), normal(80, 2, 6, 6)
    with torch.no_grad():
        after = [network[:i](inputs) for i in (0, 3, 6, 8)]
    names = ["0.weight", "4.weight", "7.weight"]
    flat = TwoNNChange(fit="linear").scores(network, evidence(inputs), names)
    neighbours = LevinaBickelChange(n_neighbours=7).scores(network, evidence(inputs), names)
    channels = PCAChange().scores(network, evidence(inputs), names)
    for i, name in enumerate(names):
        told = flat[name].details["dimension_before"], flat[name].details["dimension_after"]
        wanted = [two_nn(value.flatten(1), fit="linear").value for value in after[i : i + 2]]
        assert told == pytest.approx(wanted, rel=1e-4)
        assert flat[name].value == abs(told[1] - told[0])
        assert neighbours[name].details["dimension_after"] == pytest.approx(
            levina_bickel(after[i + 1].flatten(1), n_neighbours=7).value, rel=1e-4
        )
        rows = [value.movedim(1, -1).reshape(-1, value.shape[1]) for value in after[i : i + 2]]
        assert channels[name].value == pca(rows[1]).value - pca(rows[0]).value
        assert channels[name].details["n_points"] == min(map(len, rows))


def test_each_value_is_looked_at_once_and_few_channels_are_drawn():
    seen: list[tuple[int, ...]] = []

    def estimate(points: Tensor) -> float:
        seen.append(tuple(points.shape))
        return 1.0

    sampling = Sampling(view="channels", n_examples=50, max_points=200, n_least=3)
    names = ["7.weight", "0.weight", "4.weight"]
    found = measure_passages(small(), evidence(normal(80, 2, 6, 6)), names, sampling=sampling, estimate=estimate)
    assert seen == [(200, 2), (200, 4), (200, 4), (50, 6)]
    assert list(found) == names


@pytest.mark.parametrize(
    ("n", "n_examples", "max_alive", "remedy"),
    [
        (3, 50, MAX_ALIVE, "give more calibration data"),
        (80, 3, MAX_ALIVE, "raise n_examples"),
        (80, 50, 3, "of so large a network no more than 1 fit into memory, take another criterion"),
    ],
)
def test_too_few_inputs_name_who_allowed_no_more(monkeypatch, n: int, n_examples: int, max_alive: int, remedy: str):
    monkeypatch.setattr("dwindle.network.significance.representations.MAX_ALIVE", max_alive)
    sampling = Sampling(view="flat", n_examples=n_examples, max_points=200, n_least=4)
    with pytest.raises(DataError, match=f"needs 4 inputs or more, got .; {remedy}"):
        measure_passages(small(), evidence(normal(n, 2, 6, 6)), ["7.weight"], sampling=sampling, estimate=float)


def test_equally_many_positions_of_each_example_are_drawn_without_replacement():
    points = torch.arange(5 * 9.0).reshape(5, 9, 1)
    drawn = draw(points, max_points=22, seed=3).flatten()
    assert len(drawn.unique()) == 20
    assert (drawn // 9).long().bincount().tolist() == [4] * 5
    assert torch.equal(drawn, draw(points, max_points=22, seed=3).flatten())
    assert not torch.equal(drawn, draw(points, max_points=22, seed=4).flatten())
    assert len(draw(points, max_points=3, seed=0)) == 5  # one of each at least
    assert len(draw(points, max_points=45, seed=0)) == 45


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head, self.never = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.tied = self.head

    def forward(self, x: Tensor) -> Tensor:
        return self.tied(torch.relu(self.layer(torch.relu(self.layer(x)))))


def test_of_several_calls_the_largest_change_counts_and_layers_without_one_are_left_out():
    found = PCAChange().scores(Twice(), evidence(normal(100, 6)), ["tied.weight", "never.weight", "layer.weight"])
    assert list(found) == ["tied.weight", "layer.weight"]  # a tied weight has two names
    assert found["layer.weight"].details["n_calls"] == 2
    network = Twice()
    first, second = PCAChange(n_examples=100), evidence(normal(100, 6))
    with torch.no_grad():
        y = torch.relu(network.layer(normal(100, 6)))
        z = torch.relu(network.layer(y))
    ids = [pca(value).value for value in (normal(100, 6), y, z)]
    changes = [ids[1] - ids[0], ids[2] - ids[1]]
    assert first.scores(network, second, ["layer.weight"])["layer.weight"].value == max(changes, key=abs)


class EvenOnly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.shape[0] % 2 == 0 else self.layer(x) * 2


def test_a_graph_of_one_batch_size_is_captured_for_all_examples():
    found = PCAChange().scores(EvenOnly(), evidence(normal(100, 4)), ["layer.weight"])
    assert found["layer.weight"].details["n_points"] == 100


@pytest.mark.parametrize("criterion", CRITERIA, ids=repr)
def test_the_network_the_generator_and_the_scores_stay_as_they_are(criterion: TwoNNChange):
    network, inputs = small(), normal(40, 2, 6, 6)
    network[4].eval()
    network[0].weight.requires_grad = False
    before, modes = copy.deepcopy(network.state_dict()), [module.training for module in network.modules()]
    state = torch.get_rng_state()
    names = weight_names(network)
    one = criterion.scores(network, evidence(inputs), names)
    assert criterion.scores(network, evidence(inputs), names) == one
    assert torch.equal(state, torch.get_rng_state())
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not network[0].weight.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())
    assert criterion.needs_inputs
    assert not criterion.needs_labels


@pytest.mark.parametrize("criterion", CRITERIA, ids=repr)
def test_a_dead_layer_has_dimension_zero_and_one_of_two_answers_is_left_out(criterion: TwoNNChange):
    network = nn.Sequential(linear(normal(5, 4)), nn.Sequential(linear(normal(5, 5, seed=1)), nn.Threshold(1e9, 1.0)))
    found = criterion.scores(network, evidence(normal(60, 4)), ["0.weight", "1.0.weight"])
    assert found["1.0.weight"].details["dimension_after"] == 0
    sign = nn.Sequential(linear(normal(5, 4)), linear(normal(1, 5, seed=1)), nn.Hardtanh(0, 1e-30))
    found = criterion.scores(sign, evidence(normal(60, 4)), ["0.weight", "1.weight"])
    assert "0.weight" in found
    assert ("1.weight" in found) == isinstance(criterion, PCAChange)


@pytest.mark.parametrize("criterion", CRITERIA, ids=repr)
def test_evidence_that_is_not_enough_is_refused(criterion: TwoNNChange):
    network, inputs = small(), normal(40, 2, 6, 6)
    with pytest.raises(DataError, match="calibration"):
        criterion.scores(network, Evidence(example=inputs[:2]), ["0.weight"])
    with pytest.raises(DataError, match="empty"):
        criterion.scores(network, Evidence(example=inputs[:2], inputs=[]), ["0.weight"])
    with pytest.raises(DataError, match="or more, got 1"):
        criterion.scores(network, evidence(inputs[:1].expand(1, 2, 6, 6)), ["0.weight"])
    with pytest.raises(DataError, match="like the example"):
        criterion.scores(network, Evidence(example=inputs[:2], inputs=[inputs[:, :1]]), ["0.weight"])
    with pytest.raises(DataError, match="NaN"):
        criterion.scores(network, evidence(inputs * math.inf), ["0.weight"])
    loud = small()
    loud[0].weight.data *= 1e30
    with pytest.raises(NetworkError, match="becomes NaN or infinite"):
        criterion.scores(loud, evidence(inputs * 1e20), ["0.weight"])
    with pytest.raises(SelectionError, match=r"no parameter '0.wait'; the nearest known one is '0.weight'"):
        criterion.scores(network, evidence(inputs), ["0.wait"])
    assert criterion.scores(network, evidence(inputs), []) == {}


def test_a_setting_that_suits_no_layer_is_named():
    with pytest.raises(DataError, match="ratios are left"):
        TwoNNChange(discarded=0.99).scores(small(), evidence(normal(40, 2, 6, 6)), ["0.weight", "4.weight"])


def test_few_examples_of_huge_values_fit_into_memory(monkeypatch: pytest.MonkeyPatch):
    module = "dwindle.network.significance.representations.MAX_ALIVE"
    inputs = normal(40, 2, 6, 6)
    monkeypatch.setattr(module, 3000)
    found = PCAChange(view="flat").scores(small(), evidence(inputs), ["0.weight"])
    assert 5 < found["0.weight"].details["n_points"] < 40
    monkeypatch.setattr(module, 1)
    with pytest.raises(DataError, match="no more than 1 fit into memory"):
        PCAChange(view="flat").scores(small(), evidence(inputs), ["0.weight"])
    assert MAX_ALIVE == 1 << 28


def test_progress_is_told():
    told: list[tuple[str, int, int]] = []
    inputs = normal(40, 2, 6, 6)
    given = Evidence(example=inputs[:2], inputs=[inputs], report_progress=lambda *what: told.append(what))
    PCAChange().scores(small(), given, ["0.weight"])
    assert told == [("measure dimensions", 1, 2), ("measure dimensions", 2, 2)]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: TwoNNChange(fit="exact"), "fit must be one of likelihood, linear"),  # pyright: ignore[reportArgumentType]
        (lambda: TwoNNChange(discarded=1.0), "discarded must be in"),
        (lambda: TwoNNChange(discarded=math.nan), "discarded must be in"),
        (lambda: TwoNNChange(view="pixels"), "view must be one of channels, flat"),  # pyright: ignore[reportArgumentType]
        (lambda: TwoNNChange(n_examples=2), "n_examples must be at least 3"),
        (lambda: PCAChange(explained_variance=0.0), "explained_variance must be in"),
        (lambda: PCAChange(explained_variance=math.nan), "explained_variance must be in"),
        (lambda: PCAChange(max_points=2), "max_points must be at least 3"),
        (lambda: LevinaBickelChange(n_neighbours=2), "n_neighbours must be at least 3"),
    ],
)
def test_settings_that_cannot_be_are_refused(make, reason: str):
    with pytest.raises(SettingError, match=reason):
        make()
