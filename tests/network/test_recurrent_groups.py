"""This file tests which hidden units of recurrent layers are found, and the law of their groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dwindle.core.channels import choose_kept
from dwindle.errors import NetworkError
from dwindle.network.compressed import CompressedModel
from dwindle.network.coupled import masked
from dwindle.network.groups import find_groups
from dwindle.network.surgery import remove


class Net(nn.Module):
    """Recurrent layers and whoever reads them, wired by a function."""

    def __init__(self, forward: Callable[..., Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.wired = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.wired(self, x)


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name]().eval()


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "last step": lambda: Net(
        lambda n, x: n.head(n.lstm(x)[0][:, -1]), lstm=nn.LSTM(5, 8, batch_first=True), head=nn.Linear(8, 3)
    ),
    "two layers, both directions, every step": lambda: Net(
        lambda n, x: n.head(n.lstm(x)[0]),
        lstm=nn.LSTM(5, 6, 2, batch_first=True, bidirectional=True),
        head=nn.Linear(12, 3),
    ),
    "last states of both directions": lambda: Net(
        lambda n, x: n.head(torch.cat([n.lstm(x)[1][0][-2], n.lstm(x)[1][0][-1]], dim=1)),
        lstm=nn.LSTM(5, 6, 2, batch_first=True, bidirectional=True),
        head=nn.Linear(12, 3),
    ),
    "states and cells of all layers": lambda: Net(
        lambda n, x: n.head(torch.cat([*n.lstm(x)[1][0], *n.lstm(x)[1][1]], dim=-1)),
        lstm=nn.LSTM(5, 6, 2, batch_first=True),
        head=nn.Linear(24, 3),
    ),
    "time first, no biases": lambda: Net(
        lambda n, x: n.head(n.gru(x.transpose(0, 1))[0][-1]), gru=nn.GRU(5, 8, 2, bias=False), head=nn.Linear(8, 3)
    ),
    "gru, mean over time": lambda: Net(
        lambda n, x: n.head(torch.relu(n.gru(x)[0]).mean(1)),
        gru=nn.GRU(5, 6, batch_first=True, bidirectional=True),
        head=nn.Linear(12, 3),
    ),
    "plain, largest over time": lambda: Net(
        lambda n, x: n.head(n.rnn(x)[0].max(dim=1).values), rnn=nn.RNN(5, 6, batch_first=True), head=nn.Linear(6, 3)
    ),
    "relu, flattened": lambda: Net(
        lambda n, x: n.head(n.rnn(x)[0].flatten(1)),
        rnn=nn.RNN(5, 6, batch_first=True, nonlinearity="relu"),
        head=nn.Linear(42, 3),
    ),
    "one after the other": lambda: Net(
        lambda n, x: n.head(n.drop(n.gru(n.lstm(x)[0])[1][-1])) + n.head(n.gru(n.lstm(x)[0])[0].sum(1)),
        lstm=nn.LSTM(5, 6, 2, batch_first=True, bidirectional=True),
        gru=nn.GRU(12, 4, batch_first=True),
        drop=nn.Dropout(),
        head=nn.Linear(4, 3),
    ),
    "normalized, and convolved over time": lambda: Net(
        lambda n, x: n.conv(n.norm(n.lstm(x)[0].transpose(1, 2))).mean(2),
        lstm=nn.LSTM(5, 6, batch_first=True, bidirectional=True),
        norm=nn.BatchNorm1d(12),
        conv=nn.Conv1d(12, 3, 3),
    ),
    "attention over time": lambda: Net(
        lambda n, x: n.head((n.score(n.lstm(x)[0]).softmax(1) * n.lstm(x)[0]).sum(1)),
        lstm=nn.LSTM(5, 6, batch_first=True),
        score=nn.Linear(6, 1),
        head=nn.Linear(6, 3),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_without_its_units_a_network_answers_as_masked(name: str) -> None:
    network, x = build(name), torch.randn(3, 7, 5)
    groups = [group for group in find_groups(network, x).groups if group.together]
    recurrent = {path: m for path, m in network.named_modules() if isinstance(m, nn.RNNBase)}
    assert {group.together for group in groups} == set(recurrent)
    for path, module in recurrent.items():
        n_parts = module.num_layers * (2 if module.bidirectional else 1)
        assert sum(group.together == path for group in groups) == n_parts
    generator = torch.Generator().manual_seed(1)
    sizes = {group.name: group.n_channels for group in groups}
    kept = choose_kept({g.name: torch.rand(g.n_channels, generator=generator) for g in groups}, 0.5, sizes=sizes)
    gone = {name: (~stays).nonzero().flatten().tolist() for name, stays in kept.items()}
    twin = network
    for group in groups:
        twin = masked(twin, group, gone[group.name])
    after = remove(CompressedModel.dense(network), [cut for g in groups for cut in g.cuts(gone[g.name])])
    for path, module in recurrent.items():
        small: Any = after.network.get_submodule(path)
        assert small.hidden_size == module.hidden_size // 2
        assert small.weight_ih_l0.shape[1] == small.input_size
    torch.testing.assert_close(after.network(x), twin(x), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(after.network(x), network(x), rtol=1e-3)


def shared() -> nn.Module:
    twins = Net(
        lambda n, x: n.head(n.one(x)[0][:, -1] + n.other(x)[0][:, -1]),
        one=nn.GRU(5, 6, batch_first=True),
        other=nn.GRU(5, 6, batch_first=True),
        head=nn.Linear(6, 3),
    )
    twins.other.weight_hh_l0 = twins.one.weight_hh_l0
    return twins


LEFT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "lstm": (
        lambda: Net(lambda n, x: n.head(n.lstm(x)[0]), lstm=nn.LSTM(5, 6, proj_size=4), head=nn.Linear(4, 3)),
        r"projects its states \(proj_size\)",
    ),
    "rnn": (lambda: Net(lambda n, x: n.rnn(x)[0], rnn=nn.RNN(5, 6)), "its channels are outputs of the network"),
    "one": (shared, "its weights are shared with another module"),
    "cell": (
        lambda: Net(lambda n, x: n.head(n.cell(x[:, 0])), cell=nn.GRUCell(5, 6), head=nn.Linear(6, 3)),
        "step by step in a loop of its own",
    ),
    "bi": (
        lambda: Net(
            lambda n, x: n.head(n.bi(x)[0][..., :6] + n.bi(x)[0][..., 6:]),
            bi=nn.LSTM(5, 6, bidirectional=True),
            head=nn.Linear(6, 3),
        ),
        "added to or multiplied by other such channels",
    ),
    "encoder": (
        lambda: Net(
            lambda n, x: n.head(n.decoder(x, n.encoder(x)[1])[0]),
            encoder=nn.GRU(5, 6),
            decoder=nn.GRU(5, 6),
            head=nn.Linear(6, 3),
        ),
        "the first state of another recurrent layer",
    ),
    "residual": (
        lambda: Net(lambda n, x: n.head(x + n.residual(x)[0]), residual=nn.GRU(5, 5), head=nn.Linear(5, 3)),
        "does not run with fewer of its channels",
    ),
    "normed": (
        lambda: Net(
            lambda n, x: n.head(n.norm(n.normed(x)[0])), normed=nn.GRU(5, 6), norm=nn.LayerNorm(6), head=nn.Linear(6, 3)
        ),
        "they reach layer_norm.default, through which they cannot be followed",
    ),
    "mixed": (
        lambda: Net(
            lambda n, x: n.head(n.mixed(x)[0].unfold(1, 2, 1).mean(2)), mixed=nn.GRU(5, 6), head=nn.Linear(2, 3)
        ),
        "they reach|several of them are mixed|differs from place to place",
    ),
    "fixed": (
        lambda: Net(
            lambda n, x: n.head(n.fixed(x, torch.zeros(1, x.shape[1], 6))[0]), fixed=nn.GRU(5, 6), head=nn.Linear(6, 3)
        ),
        "does not run with fewer of its channels",
    ),
    "unused": (lambda: Net(lambda n, x: n.head(x), unused=nn.GRU(5, 6), head=nn.Linear(5, 3)), "does not call it"),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_cannot_be_cut_stays_with_a_reason(name: str) -> None:
    make, reason = LEFT[name]
    torch.manual_seed(0)
    found = find_groups(make().eval(), torch.randn(3, 7, 5))
    assert not [group for group in found.groups if group.together == name]
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(found.left[name])


def test_convolutions_before_and_linear_layers_behind_are_found_as_well() -> None:
    torch.manual_seed(0)
    network = Net(
        lambda n, x: n.head(
            torch.relu(n.middle(n.lstm(torch.relu(n.conv(x.transpose(1, 2))).transpose(1, 2))[1][0][-1]))
        ),
        conv=nn.Conv1d(5, 8, 3),
        lstm=nn.LSTM(8, 6, batch_first=True, bidirectional=True),
        middle=nn.Linear(6, 8),
        head=nn.Linear(8, 3),
    ).eval()
    x = torch.randn(3, 7, 5)
    found = find_groups(network, x)
    assert {group.name for group in found.groups} == {"conv", "lstm.l0", "lstm.l0_reverse", "middle"}
    (conv,) = (group for group in found.groups if group.name == "conv")
    assert {slot.tensor for slot in conv.slots if slot.role == "input"} == {
        "lstm.weight_ih_l0",
        "lstm.weight_ih_l0_reverse",
    }
    assert isinstance(network.lstm, nn.LSTM)
    twin, cuts = network, []
    for group in found.groups:
        channels = range(0, group.n_channels, 2)
        twin = masked(twin, group, channels)
        cuts += group.cuts(channels)
    after = remove(CompressedModel.dense(network), cuts).network
    assert (after.lstm.input_size, after.lstm.hidden_size) == (4, 3)
    torch.testing.assert_close(after(x), twin(x), rtol=1e-4, atol=1e-5)


def test_code_may_ask_a_recurrent_layer_for_its_sizes() -> None:
    def forward(n: Any, x: Tensor) -> Tensor:
        kind = type(n.gru) is nn.GRU and isinstance(n.gru, nn.RNNBase)
        return n.head(n.gru(input=x[..., : n.gru.input_size], hx=None)[0][:, -1, : n.gru.hidden_size] * kind)

    torch.manual_seed(0)
    network = Net(forward, gru=nn.GRU(5, 6, batch_first=True), head=nn.Linear(6, 3)).eval()
    found = find_groups(network, torch.randn(3, 7, 5))
    assert [group.name for group in found.groups] == ["gru.l0"]
    assert "forward" not in vars(network.gru)


def test_recurrent_layers_do_not_depend_on_the_trace_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch_pruning

    def fail(*arguments: Any, **settings: Any) -> None:
        raise ValueError("lost")

    monkeypatch.setattr(torch_pruning.DependencyGraph, "build_dependency", fail)
    network = build("last step")
    found = find_groups(network, torch.randn(3, 7, 5))
    assert [group.name for group in found.groups] == ["lstm.l0"]
    assert "cannot be traced: ValueError: lost" in found.left[""]
    with pytest.raises(NetworkError, match="cannot be traced: ValueError: lost"):
        find_groups(nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 2)), torch.randn(3, 5))


def test_words_before_a_recurrent_layer() -> None:
    torch.manual_seed(0)
    network = Net(
        lambda n, x: n.head(n.gru(n.words(x))[1].transpose(0, 1).flatten(1)),
        words=nn.Embedding(9, 5),
        gru=nn.GRU(5, 6, batch_first=True, bidirectional=True),
        head=nn.Linear(12, 3),
    ).eval()
    found = find_groups(network, torch.randint(9, (3, 7)))
    assert {group.name for group in found.groups} == {"gru.l0", "gru.l0_reverse"}


def test_only_the_layers_asked_for() -> None:
    network = build("one after the other")
    found = find_groups(network, torch.randn(3, 7, 5), layers=["gru"])
    assert [group.name for group in found.groups] == ["gru.l0"]
    assert not found.left
    found = find_groups(network, torch.randn(3, 7, 5), layers=["lstm"])
    assert {group.together for group in found.groups} == {"lstm"}
    assert "gru.weight_ih_l0" in {slot.tensor for group in found.groups for slot in group.slots}
    assert not found.left


def test_a_recurrent_layer_alone_has_its_units_as_outputs() -> None:
    found = find_groups(nn.LSTM(5, 6), torch.randn(3, 7, 5))
    assert found.groups == ()
    assert found.left == {"": "its channels are outputs of the network"}


def test_a_packed_sequence_is_left_and_the_rest_is_found() -> None:
    def forward(n: Any, x: Tensor) -> Tensor:
        lengths = torch.full((len(x),), x.shape[1])
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        return n.head(torch.relu(n.middle(n.lstm(packed)[1][0][-1])))

    torch.manual_seed(0)
    network = Net(forward, lstm=nn.LSTM(5, 6, batch_first=True), middle=nn.Linear(6, 8), head=nn.Linear(8, 3)).eval()
    found = find_groups(network, torch.randn(3, 7, 5))
    assert [group.name for group in found.groups] == ["middle"]
    assert set(found.left) == {"lstm", "head"}


def test_a_network_that_cannot_be_captured_keeps_its_units() -> None:
    def forward(n: Any, x: Tensor) -> Tensor:
        outputs, _ = n.gru(x)
        return n.head(outputs[:, -1] if float(x.sum()) > 0 else outputs[:, 0])

    network = Net(forward, gru=nn.GRU(5, 6, batch_first=True), head=nn.Linear(6, 3)).eval()
    found = find_groups(network, torch.randn(3, 7, 5))
    assert not found.groups
    assert "torch.export cannot capture" in found.left["gru"]


def test_one_example_of_one_step_is_enough() -> None:
    torch.manual_seed(0)
    network = Net(
        lambda n, x: n.head(n.lstm(x)[0][:, -1]),
        lstm=nn.LSTM(5, 6, 2, batch_first=True, bidirectional=True, dropout=0.5),
        head=nn.Linear(12, 3),
    )
    network.train()
    found = find_groups(network, torch.randn(1, 1, 5))
    assert {group.name for group in found.groups} == {f"lstm.l{i}{s}" for i in (0, 1) for s in ("", "_reverse")}
    assert network.training
    assert network.lstm.training
