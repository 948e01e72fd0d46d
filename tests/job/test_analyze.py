"""This file tests the analysis of a network: what is found, what is said where something cannot be found."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn import functional

from dwindle.errors import NetworkError, SelectionError, SettingError
from dwindle.job.analysis import Judgement
from dwindle.job.analyze import Settings, analyze, explained_variance
from dwindle.job.criteria import DEFAULT, NAMED
from dwindle.job.proposal import proposed_recipe, stored_bits
from dwindle.job.treatments import Findings, treatments
from dwindle.network.labelled import Labelled
from dwindle.network.layer_costs import LayerCost
from dwindle.network.select import Select
from dwindle.network.significance.criterion import Evidence, LayerScore
from dwindle.network.significance.deviation import WeightDeviation
from dwindle.network.significance.significance import Significance
from dwindle.recipe import Recipe

UNTIMED = Settings(n_runs=0, n_examples=48)
QUICK = Settings(criteria=("two_nn", "binary", "deviation"), n_runs=0, n_examples=48)


def chain():
    return nn.Sequential(
        nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)
    )


def evidence(*shapes, n=60, loss=functional.cross_entropy, targets=None, labelled=True):
    generator = torch.Generator().manual_seed(0)
    tensors = tuple(torch.randn(n, *shape, generator=generator) for shape in shapes)
    inputs = tensors[0] if len(tensors) == 1 else tensors
    truth = torch.arange(n) % 3 if targets is None else targets
    first = inputs[:2] if len(tensors) == 1 else tuple(tensor[:2] for tensor in tensors)
    validation = Labelled(batches=[(inputs, truth)], base_loss=loss) if labelled else None
    return Evidence(example=first, inputs=[inputs], validation=validation, seed=3)


def by_name(found):
    return {judgement.name: judgement for judgement in found.judgements}


def test_every_criterion_scores_every_layer_of_a_chain():
    network = chain()
    found = analyze(network, evidence((6,)), settings=UNTIMED)
    names = [layer.name for layer in found.layers]
    assert names == ["0.weight", "2.weight", "4.weight", "6.weight"]
    for judgement in found.judgements:
        assert not judgement.problem
        assert list(judgement.scores) == names
        assert judgement.judged == ("2.weight", "4.weight")
        assert set(judgement.significant) <= set(judgement.judged)
    assert [judgement.name for judgement in found.judgements] == list(DEFAULT)
    assert found.decided_by == "binary"
    assert found.other_bytes == 4 * (12 + 12 + 8 + 3)


def test_its_values_are_json_and_the_same_again():
    plain = [analyze(chain_of(0), evidence((6,)), settings=QUICK).to_plain() for _ in range(2)]
    for values in plain:
        for criterion in values["criteria"]:
            del criterion["seconds"]
    written = [json.dumps(values, allow_nan=False) for values in plain]
    assert written[0] == written[1]


def chain_of(seed):
    torch.manual_seed(seed)
    return chain()


def test_the_graph_is_captured_once(monkeypatch):
    def fails(*_, **__):
        raise AssertionError("captured again")

    monkeypatch.setattr("dwindle.network.significance.representations.capture", fails)
    found = analyze(chain(), evidence((6,)), settings=Settings(criteria=("two_nn", "pca"), n_runs=0, n_examples=48))
    assert all(judgement.scores for judgement in found.judgements)
    assert len(found.spectra) == 4


def test_the_network_stays_as_it_is():
    network = chain_of(1).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    analyze(network, evidence((6,)), settings=UNTIMED)
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(parameter.grad is not None for parameter in network.parameters())


def test_the_engine_is_timed_and_its_time_adds_up():
    found = analyze(chain(), evidence((6,)), settings=Settings(criteria=("deviation",), n_runs=2))
    assert not found.timed.problem
    times = [layer.time_ms for layer in found.layers]
    assert all(time is not None and time > 0 for time in times)
    assert sum(times) + sum(found.timed.others.values()) == pytest.approx(found.timed.total_ms)
    assert "Gemm" in found.layers[0].operations


def test_a_sensitivity_also_says_what_accuracy_does():
    network, data = chain_of(2), evidence((6,))
    found = analyze(network, data, settings=Settings(criteria=("prune",), n_runs=0, n_examples=60))
    inputs, targets = next(iter(data.validation.batches))
    before = (network(inputs).argmax(1) == targets).float().mean()
    with torch.no_grad():
        weight = network[2].weight
        weight[weight.abs() < weight.abs().flatten().sort().values[weight.numel() // 2]] = 0
    after = (network(inputs).argmax(1) == targets).float().mean()
    details = found.layers[1].scores["prune"].details
    assert details["accuracy_change"] == pytest.approx(float(after - before), abs=1e-6)


def test_a_threshold_cuts_dimensions_and_no_losses():
    found = by_name(
        analyze(
            chain(),
            evidence((6,)),
            settings=Settings(criteria=("two_nn", "pca", "binary"), n_runs=0, n_examples=48, threshold=1e6),
        )
    )
    assert found["two_nn"].significant == found["pca"].significant == ()
    assert found["two_nn"].cut == 1e6
    assert found["binary"].significant
    assert found["binary"].cut != 1e6


def test_the_higher_half_is_significant_without_a_threshold():
    for judgement in analyze(chain(), evidence((6,)), settings=QUICK).judgements:
        least = min(judgement.scores[name].value for name in judgement.significant)
        others = [judgement.scores[name].value for name in judgement.judged if name not in judgement.significant]
        assert all(other <= judgement.cut <= least for other in others)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.a(x)
        return self.c(self.b(x) if float(x.sum()) > 0 else x)


def test_a_network_that_cannot_be_captured_has_what_needs_no_graph():
    found = by_name(
        analyze(
            Branching(),
            evidence((6,)),
            settings=Settings(criteria=("two_nn", "binary", "deviation"), n_examples=48, n_runs=1),
        )
    )
    assert "cannot capture" in found["two_nn"].problem
    assert found["two_nn"].scores == {}
    assert found["binary"].scores
    assert found["deviation"].scores
    whole = analyze(Branching(), evidence((6,)), settings=Settings(criteria=("two_nn", "binary"), n_runs=1))
    assert whole.decided_by == "binary"
    assert "cannot capture" in whole.timed.problem
    assert whole.layers[0].cost.macs == 36


def test_a_network_that_does_not_run_is_judged_by_its_weights():
    found = analyze(chain(), evidence((5,)), settings=QUICK)
    assert "does not run on the example" in found.remarks[0]
    assert by_name(found)["deviation"].scores
    assert found.layers[0].cost.macs is None
    assert found.decided_by == "deviation"


def test_without_labels_no_loss_is_taken():
    found = by_name(analyze(chain(), evidence((6,), labelled=False), settings=UNTIMED))
    assert {name for name, judgement in found.items() if judgement.scores} == {
        "two_nn", "pca", "levina_bickel", "deviation",
    }  # fmt: skip
    assert found["fisher"].problem == "there are no labelled validation data"


def test_without_any_data_the_weights_speak():
    bare = Evidence(example=torch.zeros(2, 6))
    found = by_name(analyze(chain(), bare, settings=QUICK))
    assert found["two_nn"].problem == "there are no inputs to look at"
    assert found["deviation"].scores


def test_regression_has_losses_and_no_accuracy():
    data = evidence((6,), loss=functional.mse_loss, targets=torch.randn(60, 3))
    found = by_name(analyze(chain(), data, settings=QUICK))
    assert found["binary"].scores
    assert "accuracy_change" not in found["binary"].scores["0.weight"].details


def test_several_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.image, self.table, self.head = nn.Conv2d(1, 4, 3), nn.Linear(5, 4), nn.Linear(20, 3)

        def forward(self, image, table):
            return self.head(torch.cat([self.image(image).relu().flatten(1), self.table(table).relu()], 1))

    found = analyze(Two(), evidence((1, 4, 4), (5,)), settings=QUICK)
    assert all(judgement.scores for judgement in found.judgements)
    assert found.layers[0].cost.macs == 4 * 9 * 4


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.recurrence, self.head = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.recurrence(x)[0][:, -1])


def test_a_recurrent_network():
    found = analyze(Recurrent(), evidence((5, 4)), settings=QUICK)
    assert [layer.name for layer in found.layers[:2]] == ["recurrence.weight_ih_l0", "recurrence.weight_hh_l0"]
    assert all(judgement.scores for judgement in found.judgements)


@pytest.mark.slow
def test_the_time_of_a_recurrent_layer_stands_once():
    found = analyze(Recurrent(), evidence((5, 4)), settings=Settings(criteria=("deviation",), n_runs=1))
    first, second, _ = found.layers
    assert first.timed_with == ("recurrence.weight_hh_l0",)
    assert first.time_ms > 0
    assert second.time_ms == 0
    assert second.timed_with == ("recurrence.weight_ih_l0",)


def test_one_layer_is_both_ends():
    found = analyze(nn.Sequential(nn.Flatten(), nn.Linear(6, 3)), evidence((6,)), settings=QUICK)
    (layer,) = found.layers
    assert layer.treatment.action == "keep 8 bits"
    assert "only layer" in layer.treatment.why
    assert not found.decided_by
    assert all(value is None for row in found.agreement.values() for value in row.values())


def test_a_layer_that_is_never_called_can_go():
    network = chain()
    network.idle = nn.Linear(12, 12)
    network.forward = lambda x: network[6](network[5](network[4](network[3](network[2](network[1](network[0](x)))))))
    found = analyze(network, evidence((6,)), settings=QUICK)
    idle = found.layers[-1]
    assert (idle.name, idle.treatment.action) == ("idle.weight", "leave out")
    assert idle.stored_bits == 8  # this forward cannot be captured, so all are rounded, and nothing is taken out
    assert found.planned_bytes < found.dense_bytes


class Backwards(nn.Module):
    """Registers its layers from the last to the first; calls neither `idle` nor `b`, whose weight it uses."""

    def __init__(self):
        super().__init__()
        self.idle, self.head = nn.Linear(7, 7), nn.Linear(8, 3)
        self.c, self.b, self.a = nn.Linear(12, 8), nn.Linear(12, 12), nn.Linear(12, 12)
        self.stem, self.unused = nn.Linear(6, 12), nn.Linear(9, 9)

    def forward(self, x):
        x = self.a(torch.relu(self.stem(x)))
        return self.head(torch.relu(self.c(functional.linear(x, self.b.weight))))


@pytest.mark.parametrize("is_captured", [True, False])
def test_ends_are_those_of_the_run_and_a_weight_may_be_used_without_a_call(monkeypatch, is_captured):
    if not is_captured:
        monkeypatch.setattr("dwindle.job.analyze.capture", lambda *_: 1 / 0)
    found = analyze(Backwards(), evidence((6,)), settings=QUICK)
    why = {layer.name: layer.treatment.why for layer in found.layers}
    assert list(why) == [f"{name}.weight" for name in ("idle", "head", "c", "b", "a", "stem", "unused")]
    assert "first layer" in why["stem.weight"]
    assert "last layer" in why["head.weight"]
    assert "never calls" in why["idle.weight"]
    assert "never calls" in why["unused.weight"]
    assert "uses its weight otherwise than by calling it, so it cannot be judged" in why["b.weight"]
    actions = {layer.name: layer.treatment.action for layer in found.layers}
    assert actions["b.weight"] == "keep 8 bits"
    assert found.layers[0].stored_bits == (32 if is_captured else 8)  # nothing takes it out
    assert by_name(found)["deviation"].judged == ("c.weight", "a.weight")


@pytest.mark.parametrize("keeps_ends", [True, False])
def test_significance_takes_the_ends_of_the_run(keeps_ends):
    network = Backwards()
    names = tuple(f"{name}.weight" for name in ("idle", "head", "c", "b", "a", "stem", "unused"))
    judge = Significance(by=WeightDeviation(), share=1.0, keeps_ends=keeps_ends)
    kept = names[2:5] if keeps_ends else names[1:6]
    assert judge.judge(network, evidence((6,)), names).significant == kept
    broken = Evidence(example=torch.zeros(1, 5))  # what cannot be run is taken as it is registered
    assert judge.judge(network, broken, names).significant == (names[1:-1] if keeps_ends else names)


@pytest.mark.parametrize("shape", [(6,), (1, 8, 8)])
def test_a_failing_loss_is_said_and_harms_nothing_else(shape):
    def fails(output, target):
        raise ValueError("the camera is off")

    network = (
        chain() if shape == (6,) else nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    )
    found = by_name(analyze(network, evidence(shape, loss=fails), settings=QUICK))
    assert "the camera is off" in found["binary"].problem
    assert found["two_nn"].scores


def test_refuses_broken_weights_and_networks_without_layers():
    network = chain()
    with torch.no_grad():
        network[2].weight[0, 0] = float("nan")
    with pytest.raises(NetworkError, match=r"'2\.weight' hold NaN"):
        analyze(network, evidence((6,)), settings=QUICK)
    with pytest.raises(SelectionError, match="has no convolution"):
        analyze(nn.Sequential(nn.ReLU()), evidence((6,)), settings=QUICK)
    with pytest.raises(SelectionError, match="nearest"):
        analyze(chain(), evidence((6,)), settings=Settings(select=Select(names=("nothing",))))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"criteria": ()}, "at least one criterion"),
        ({"criteria": ("two_n",)}, "two_nn"),
        ({"n_examples": 0}, "at least 1"),
        ({"threshold": float("nan")}, "finite"),
        ({"n_runs": -1}, "0"),
    ],
)
def test_settings_that_cannot_work(settings, words):
    with pytest.raises(SettingError, match=words):
        Settings(**settings)


def cost(n_bytes, **others):
    return LayerCost(kind="Linear", shape=(n_bytes // 4, 1), n_weights=n_bytes // 4, dense_bytes=n_bytes, **others)


def judged(**scores):
    high = sorted(scores, key=lambda name: -scores[name])[: (len(scores) + 1) // 2]
    return Judgement(
        name="two_nn", title="TwoNN", unit="dimensions", settings={}, judged=tuple(scores), significant=tuple(high),
        scores={name: LayerScore(value=value) for name, value in scores.items()}, cut=1.0,
    )  # fmt: skip


def test_treatments_follow_bytes_ends_significance_and_loss():
    costs = {"first": cost(400), "tiny": cost(4), "high": cost(4000), "low": cost(4000), "weak": cost(4000)}
    costs |= {"blind": cost(400), "idle": cost(400, n_calls=0), "last": cost(400)}
    found = treatments(
        Findings(
            costs=costs,
            decider=judged(high=3.0, low=0.5, weak=0.1),
            binarizing={"low": 0.001, "weak": 1.0, "high": 2.0},
            base_loss=0.5,
        )
    )
    actions = {name: treatment.action for name, treatment in found.items()}
    assert actions == {
        "first": "keep 8 bits",
        "tiny": "keep 8 bits",
        "high": "keep 8 bits",
        "low": "keep 8 bits",
        "weak": "cluster to 16 values",
        "blind": "keep 8 bits",
        "idle": "leave out",
        "last": "keep 8 bits",
    }
    assert "The loss disagrees" in found["low"].why
    assert "disagrees" not in found["high"].why
    assert "cannot judge" in found["blind"].why


def test_an_insignificant_layer_is_binary_where_the_loss_allows_it():
    costs = {"first": cost(400), "high": cost(4000), "low": cost(4000), "last": cost(400)}
    decider = judged(high=3.0, low=0.5)
    for rise, action in ((0.001, "make binary"), (-0.2, "make binary"), (1.0, "cluster to 16 values")):
        found = treatments(Findings(costs=costs, decider=decider, binarizing={"low": rise, "high": 1.0}, base_loss=0.5))
        assert found["low"].action == action
    assert "not known" in treatments(Findings(costs=costs, decider=decider))["low"].why


@pytest.mark.parametrize(
    "actions",
    [
        {"a": "cluster to 16 values", "b": "keep 8 bits"},
        {"a": "make binary", "b": "keep 8 bits", "c": "cluster to 16 values", "d": "keep 8 bits"},
        {"a": "keep 8 bits"},
    ],
)
def test_a_proposal_is_a_recipe(actions):
    import tomllib

    recipe = Recipe.from_plain(tomllib.loads(proposed_recipe(actions, multiplied=("a", "b")))["recipe"])
    assert recipe.steps


def test_without_a_graph_weights_are_rounded_as_they_are():
    actions = {"a": "keep 8 bits", "b": "leave out", "c": "cluster to 16 values"}
    found = proposed_recipe(actions, multiplied=())
    assert 'type = "QuantizeWeights"' in found
    assert "QuantizeAware" not in found
    assert stored_bits(actions, multiplied=()) == {"a": 8, "b": 8, "c": 4}


def test_only_what_a_training_of_few_bits_accepts_is_made_binary():
    costs = {"first": cost(400), "high": cost(4000), "low": cost(4000), "last": cost(400)}
    found = Findings(
        costs=costs,
        decider=judged(high=3.0, low=0.5),
        binarizing={"low": 0.0},
        base_loss=0.5,
        multiplied=("first", "last"),
    )
    assert treatments(found)["low"].action == "cluster to 16 values"
    assert "Only convolutions and linear layers" in treatments(found)["low"].why


def test_nothing_to_do_proposes_nothing():
    assert not proposed_recipe({"a": "leave out"}, multiplied=("a",))
    assert stored_bits({"a": "leave out"}, multiplied=("a",)) == {"a": 32}


def test_heavy_networks_look_at_fewer_examples():
    light, heavy = [cost(4, macs=10, n_answered=10)], [cost(4, macs=10**9, n_answered=10**7)] * 20
    for named in NAMED.values():
        assert named.least <= named.n_affordable(heavy) <= named.n_affordable(light) <= 1_000


def test_explained_variance_of_points_on_a_line_and_of_one_point():
    line = torch.arange(10.0)[:, None] * torch.tensor([[1.0, 2.0, 3.0]])
    assert explained_variance(line) == pytest.approx((1.0, 1.0, 1.0))
    assert explained_variance(torch.ones(4, 3)) == ()
    wide = explained_variance(torch.eye(3, 50))
    assert len(wide) == 3
    assert wide[1] == pytest.approx(1.0)
