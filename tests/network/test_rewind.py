"""This file tests going back to early values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import dwindle as dw
from dwindle.core.encoding import describe, support_of
from dwindle.errors import NetworkError, RecipeError, SettingError
from dwindle.network.compressed import CompressedModel
from dwindle.network.rewind import Rewind, rewound
from dwindle.testing import small_context, small_network


def test_everything_goes_back_and_zeros_stay():
    early = small_network(seed=1)
    pruned = dw.PruneWeights(sparsity=0.5).apply(CompressedModel.dense(small_network()), dw.Context())
    back = rewound(pruned, early)
    for name, values in early.state_dict().items():
        now = back.network.state_dict()[name]
        support = support_of(pruned.encodings[name])
        kept = torch.ones_like(now, dtype=torch.bool) if support is None else support
        assert torch.equal(now[kept], values[kept]), name
        assert not now[~kept].any(), name
    assert back.history == pruned.history
    assert describe(back.encodings["head.weight"]) == "Sparse(Dense)"
    assert not torch.equal(pruned.network.head.weight, back.network.head.weight)


def test_half_stays_half_and_tied_stays_tied():
    def build(seed):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
        network[1].weight = network[0].weight
        return network

    model = dw.CastHalf().apply(CompressedModel.dense(build(0)), dw.Context())
    model = dw.PruneWeights(sparsity=0.5, select=dw.Select(names=("0.*",))).apply(model, dw.Context())
    early = build(1)
    back = rewound(model, early)
    assert describe(back.encodings["0.weight"]) == "Sparse(Half)"
    assert back.network[1].weight is back.network[0].weight
    kept = model.network[0].weight != 0
    assert torch.equal(back.network[0].weight[kept], early[0].weight[kept].half().float())
    assert torch.equal(back.network[1].bias, early[1].bias.half().float())


def test_the_early_network_stays_as_it_is():
    early = small_network(seed=1)
    expected = {name: tensor.clone() for name, tensor in early.state_dict().items()}
    model = CompressedModel.dense(small_network())
    recipe = dw.PruneWeights(sparsity=0.5, rewind=Rewind(), epochs=1)
    recipe.apply(model, dw.Context(trainer=small_context().trainer, early=early))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in early.state_dict().items())


def test_what_cannot_go_back_is_refused():
    model = CompressedModel.dense(small_network())
    with pytest.raises(RecipeError, match=r"needs these weights; give the context .* early"):
        rewound(model, None)
    with pytest.raises(NetworkError, match=r"differ in the tensors \['depthwise\.weight', 'head\.bias'"):
        rewound(model, nn.Linear(96, 4))
    wider = small_network(seed=1)
    wider.head = nn.Linear(96, 5)
    with pytest.raises(NetworkError, match=r"'head.weight' is torch.float32 of shape \(5, 96\) in the early network"):
        rewound(model, wider)
    narrow = dw.PruneChannels(pruning_ratio=0.5, round_to=1).apply(model, small_context())
    with pytest.raises(NetworkError, match=r"of shape \(3, .*rewind before channels are removed"):
        rewound(narrow, small_network(seed=1))
    lost = small_network(seed=1)
    torch.nn.init.constant_(lost.head.bias, torch.nan)
    with pytest.raises(NetworkError, match=r"'head\.bias' holds 4 NaN"):
        rewound(model, lost)
    clustered = dw.Cluster(codebook_size=4).apply(model, dw.Context())
    with pytest.raises(RecipeError, match=r"Codebook\(4, Dense\): it has no values of its own"):
        rewound(clustered, small_network(seed=1))


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(SettingError, match="to is 'weights' or 'learning_rate', got 'rates'"):
        Rewind(to="rates")
    with pytest.raises(SettingError, match="rounds counts trainings from 1, got 0"):
        Rewind(rounds=0)
    with pytest.raises(SettingError, match=r"rounds counts trainings from 1, got 1\.5"):
        Rewind(rounds=1.5)
