"""Tests of groups and surgery: a network without channels answers as with zeros, and its encodings are sub-tensors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import dwindle as dw
from dwindle.core.encoding import codebook_of, decode, describe, support_of
from dwindle.errors import EncodingError, NetworkError
from dwindle.network.compressed import CompressedModel, FoldedBatchNorm, RemovedChannels, Replaced
from dwindle.network.coupled import Group, masked, shrunk
from dwindle.network.edits import apply_edits, edit_from_plain, own_edits
from dwindle.network.groups import find_groups
from dwindle.network.surgery import Cut, remove
from dwindle.settings import to_plain
from dwindle.testing.small import small_context, small_network


class Everything(nn.Module):
    """A residual addition, a concatenation, depthwise and transposed layers, PReLU, a sigmoid gate, a flattening."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.left = nn.Conv2d(8, 8, 3, padding=1)
        self.right = nn.Conv2d(8, 12, 1)
        self.depthwise = nn.Conv2d(20, 20, 3, padding=1, groups=20)
        self.mixed = nn.BatchNorm2d(20)
        self.slope = nn.PReLU(20)
        self.up = nn.ConvTranspose2d(20, 6, 2, stride=2)
        self.gate = nn.Linear(6, 6)
        self.hidden = nn.Linear(6 * 4, 10)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.stem(x)))
        x = x + functional.relu(self.left(x))
        x = torch.cat([x, self.right(x)], dim=1)
        x = self.slope(self.mixed(self.depthwise(x)))
        x = functional.relu(self.up(x))
        x = x * torch.sigmoid(self.gate(x.mean(dim=(2, 3))))[:, :, None, None]
        x = functional.adaptive_avg_pool2d(x, 2).flatten(1)
        return self.head(functional.dropout(torch.tanh(self.hidden(x)), training=self.training))


def everything(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Everything()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean = torch.randn(module.num_features)
                module.running_var = torch.rand(module.num_features) + 0.5
                nn.init.uniform_(module.weight, -1.0, 1.5)
                nn.init.normal_(module.bias)
    return network.eval()


EXAMPLE = torch.zeros(2, 3, 8, 8)
EVERYTHING = {group.name: group for group in find_groups(everything(), EXAMPLE).groups}


def test_all_groups_are_found() -> None:
    coupled = {name: set(group.weights()) for name, group in EVERYTHING.items()}
    assert {"stem.weight", "left.weight"} in coupled.values()
    assert {"right.weight"} in coupled.values()
    assert {"up.weight", "gate.weight"} in coupled.values()
    assert {"hidden.weight"} in coupled.values()
    assert len(coupled) == 4
    assert find_groups(everything(), EXAMPLE).left == {"head": "its channels are outputs of the network"}


def test_a_concatenation_gives_its_reader_channels_of_two_groups() -> None:
    depthwise = {
        name: next(slot for slot in group.slots if slot.tensor == "depthwise.weight")
        for name, group in EVERYTHING.items()
        if any(slot.tensor == "depthwise.weight" for slot in group.slots)
    }
    assert {name: sum(c >= 0 for c in slot.channels) for name, slot in depthwise.items()} == {
        next(name for name in depthwise if name != "right"): 8,
        "right": 12,
    }


def test_flattening_gives_a_channel_several_columns() -> None:
    group = next(group for group in EVERYTHING.values() if "up.weight" in group.weights())
    slot = next(slot for slot in group.slots if slot.tensor == "hidden.weight")
    assert slot.channels == tuple(index // 4 for index in range(24))


@settings(max_examples=30)
@given(st.sampled_from(sorted(EVERYTHING)), st.data(), st.integers(0, 99))
def test_a_network_without_channels_answers_as_with_zeros(name: str, data: st.DataObject, seed: int) -> None:
    network, group = everything(seed), EVERYTHING[name]
    channels = data.draw(st.sets(st.integers(0, group.n_channels - 1), max_size=group.n_channels - 1).map(sorted))
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        torch.testing.assert_close(
            shrunk(network, group, channels)(x), masked(network, group, channels)(x), rtol=1e-4, atol=1e-5
        )


def model_with(form: str) -> CompressedModel:
    model = CompressedModel.dense(everything())
    steps = {
        "dense": (),
        "sparse": (dw.PruneWeights(sparsity=0.5),),
        "clustered": (dw.PruneWeights(sparsity=0.4), dw.Cluster(codebook_size=4)),
        "folded": (dw.Cluster(codebook_size=4), dw.FoldBatchNorm()),
        "integer": (dw.PruneWeights(sparsity=0.4), dw.QuantizeWeights(n_bits=8, granularity=dw.PerChannel(0))),
        "groups of weights": (dw.QuantizeWeights(n_bits=4, granularity=dw.PerGroup(4)),),
    }
    return dw.Recipe(steps[form]).run(model, dw.Context(example=EXAMPLE))


@pytest.mark.parametrize("form", ["dense", "sparse", "clustered", "folded", "integer"])
def test_encodings_are_sub_tensors_of_what_they_were(form: str) -> None:
    model = model_with(form)
    for group in find_groups(model.network, EXAMPLE).groups:
        gone = list(range(0, group.n_channels, 3))
        after = remove(model, group.cuts(gone))
        wanted = shrunk(model.network, group, gone).state_dict()
        for name, encoding in after.encodings.items():
            assert torch.equal(decode(encoding), wanted[name]), name
            assert torch.equal(decode(encoding), after.network.state_dict()[name])
            assert describe(encoding) == describe(model.encodings[name])
            before, support = support_of(model.encodings[name]), support_of(encoding)
            assert (before is None) == (support is None)
            if support is not None and codebook_of(encoding) is None:
                assert not bool(decode(encoding)[~support].any())
        x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            torch.testing.assert_close(after.network(x), masked(model.network, group, gone)(x), rtol=1e-4, atol=1e-5)


def test_groups_of_weights_are_rounded_anew_and_stay_near() -> None:
    model = model_with("groups of weights")
    group = EVERYTHING["hidden"]
    after = remove(model, group.cuts([0, 3]))
    kept = decode(model.encodings["head.weight"]).index_select(1, torch.tensor([1, 2, 4, 5, 6, 7, 8, 9]))
    assert describe(after.encodings["head.weight"]) == describe(model.encodings["head.weight"])
    assert float((decode(after.encodings["head.weight"]) - kept).abs().max()) < 0.1


def test_modules_know_their_sizes() -> None:
    model = CompressedModel.dense(everything())
    for group in EVERYTHING.values():
        model = remove(model, group.cuts([0]))
    network = model.network
    assert isinstance(network, Everything)
    assert (network.stem.out_channels, network.norm.num_features, network.right.out_channels) == (7, 7, 11)
    assert (network.depthwise.groups, network.depthwise.in_channels, network.depthwise.out_channels) == (18, 18, 18)
    assert (network.slope.num_parameters, network.up.in_channels, network.up.out_channels) == (18, 18, 5)
    assert (network.hidden.in_features, network.hidden.out_features, network.head.in_features) == (20, 9, 9)
    assert network(EXAMPLE).shape == (2, 4)
    assert model.n_dense_weights == sum(p.numel() for p in everything().parameters())


def test_edits_are_made_again_on_a_fresh_network() -> None:
    context = dw.Context(example=EXAMPLE)
    steps = (
        dw.PruneChannels(pruning_ratio=0.5, round_to=1),
        dw.FoldBatchNorm(),
        dw.PruneChannels(pruning_ratio=0.3, round_to=1),
    )
    model = dw.Recipe(steps).run(CompressedModel.dense(everything()), context)
    fresh = apply_edits(everything(seed=5), [edit_from_plain(to_plain(edit), where="") for edit in model.edits])
    fresh.load_state_dict(model.network.state_dict())
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(fresh.eval()(x), model.network.eval()(x))


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(functional.relu(self.a(x))))


class Normalized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(self.a(x)))


class Together(Normalized):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.softmax(self.a(x), dim=1))


class HardCoded(Normalized):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).view(-1, 6))


class Halves(Normalized):
    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.a(x).chunk(2, dim=1)
        return self.c(left * right)


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1, groups=2)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(x)))


class Learned(Normalized):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.gain * self.a(x))


@pytest.mark.parametrize(
    ("build", "shape", "layer", "reason"),
    [
        (Shared, (4,), "a", "shared by several modules"),
        (Normalized, (4,), "a", "LayerNorm, which cannot be cut"),
        (Together, (4,), "a", "otherwise than with zeros"),
        (HardCoded, (4,), "a", "does not run with fewer"),
        (Grouped, (3, 2, 2), "a", "Conv2d, which cannot be cut"),
        (Learned, (4,), "a", "outside of any layer"),
        (lambda: nn.Sequential(nn.Linear(4, 1), nn.Linear(1, 2)), (4,), "0", "one channel"),
        (lambda: nn.Sequential(nn.Linear(4, 3)), (4,), "0", "outputs of the network"),
    ],
)
def test_what_cannot_be_cut_is_left_with_a_reason(
    build: Callable[[], nn.Module], shape: tuple[int, ...], layer: str, reason: str
) -> None:
    found = find_groups(build(), torch.ones(2, *shape))
    assert layer not in {group.name for group in found.groups}
    assert reason in found.left[layer]


def test_halves_that_meet_again_are_never_cut_wrongly() -> None:
    network = Halves().eval()
    for group in find_groups(network, torch.ones(2, 4)).groups:
        x = torch.randn(3, 4)
        for channels in ([0], [1, 4], [5]):
            torch.testing.assert_close(shrunk(network, group, channels)(x), masked(network, group, channels)(x))


def test_a_network_that_is_traced_stays_as_it_is() -> None:
    network = everything().train()
    network.stem.weight.requires_grad_(requires_grad=False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    find_groups(network, EXAMPLE)
    assert network.training
    assert not network.stem.weight.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_network_that_does_not_run_says_so() -> None:
    with pytest.raises(
        NetworkError, match=r"Everything does not run on the example, float32 \(2, 5\): RuntimeError: .*4D"
    ):
        find_groups(everything(), torch.zeros(2, 5))


class Ranged(nn.Module):
    """Two layers behind a function that only takes numbers of a range."""

    def __init__(self, prepare: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.prepare = prepare
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(functional.relu(self.a(self.prepare(x))))


def counted(x: Tensor) -> Tensor:
    return functional.one_hot((x * 4).long(), 4).flatten(1)[:, :8].float()  # raises below 0 and from 1 on


@pytest.mark.parametrize("prepare", [torch.log, torch.sqrt, counted])
def test_inputs_of_a_range_are_tried_out_within_it(prepare: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    found = find_groups(Ranged(prepare), 0.01 + 0.98 * torch.rand(2, 8))
    assert [group.name for group in found.groups] == ["a"]
    assert found.left == {"b": "its channels are outputs of the network"}


def test_a_network_that_answers_no_numbers_says_so() -> None:
    with pytest.raises(NetworkError, match=r"Ranged does not answer .*float32 \(2, 8\).*give an example of real data"):
        find_groups(Ranged(torch.log), -torch.ones(2, 8))


def test_random_inputs_have_the_scale_of_the_example() -> None:
    seen: list[Tensor] = []
    network = Ranged(lambda x: (seen.append(x), x)[1])
    find_groups(network, 1e-3 * torch.randn(64, 8, generator=torch.Generator().manual_seed(1)) + 5.0)
    assert all(abs(float(x.mean()) - 5.0) < 1e-3 for x in seen)
    assert all(5e-4 < float(x.std()) < 2e-3 for x in seen)


def ruled_out(x: Tensor) -> Tensor:
    return torch.cat([x, torch.full_like(x, -torch.inf)], dim=1)


class Answering(Normalized):
    def __init__(self, answer: Callable[[Tensor], Tensor], between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.answer, self.between = answer, between

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(self.b(self.between(self.a(x))))


def test_infinite_answers_hide_no_difference() -> None:
    torch.manual_seed(0)
    assert [g.name for g in find_groups(Answering(ruled_out, functional.relu), torch.zeros(2, 4)).groups] == ["a"]
    found = find_groups(Answering(ruled_out, lambda x: torch.softmax(x, dim=1)), torch.zeros(2, 4))
    assert "otherwise than with zeros" in found.left["a"]


def test_zeros_that_make_no_numbers_are_a_reason() -> None:
    torch.manual_seed(0)
    found = find_groups(Answering(lambda x: x, lambda x: x / x.abs()), torch.zeros(2, 4))
    assert "answers NaN" in found.left["a"]


def test_cuts_of_unknown_or_shared_tensors_are_refused() -> None:
    with pytest.raises(NetworkError, match=r"'nowhere\.weight'.*no encoded tensor"):
        remove(CompressedModel.dense(everything()), (Cut("nowhere.weight", 0, (1,)),))
    with pytest.raises(NetworkError, match=r"'a\.weight'.*shared"):
        remove(CompressedModel.dense(Shared()), (Cut("a.weight", 0, (1,)),))
    with pytest.raises(EncodingError, match="all 8"):
        remove(CompressedModel.dense(everything()), (Cut("stem.weight", 0, tuple(range(8))),))


def test_edits_of_another_network_are_refused() -> None:
    with pytest.raises(NetworkError, match=r"no tensor 'nowhere\.weight'"):
        apply_edits(everything(), [RemovedChannels({"nowhere.weight": (1,)})])
    with pytest.raises(NetworkError, match=r"no tensor 'stem\.bias'"):
        apply_edits(everything(), [RemovedChannels({"stem.bias": (1,)})])
    with pytest.raises(NetworkError, match=r"network named 'small'.*there are: large"):
        apply_edits(everything(), [Replaced("small")], {"large": everything()})
    with pytest.raises(NetworkError, match="no structural edit 'Melted'"):
        edit_from_plain({"type": "Melted"}, where="file: edits")


def test_only_edits_since_the_last_exchange_are_those_of_the_file() -> None:
    edits = (FoldedBatchNorm("a", "b"), Replaced("small"), FoldedBatchNorm("c", "d"))
    assert own_edits(edits) == (FoldedBatchNorm("c", "d"),)
    assert own_edits(edits[:1]) == edits[:1]


def test_a_small_network_has_one_group_through_its_residual_addition() -> None:
    found = find_groups(small_network(), small_context().example if small_context().example is not None else EXAMPLE)
    (group,) = found.groups
    assert isinstance(group, Group)
    assert {slot.role for slot in group.slots} == {"output", "bias", "norm", "statistic", "input"}
