"""This file tests the cache of translated graphs: whatever went through it before, a model's graph is its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dwindle.errors import SettingError
from dwindle.exporters import float_graph, graph
from dwindle.exporters.graph import build_graph
from dwindle.exporters.graph_cache import GraphCache
from dwindle.exporters.options import ExportOptions
from dwindle.network.capture import Captured, capture
from dwindle.network.compressed import CompressedModel
from dwindle.technique import Context
from dwindle.techniques.cluster import Cluster
from dwindle.techniques.fold_batchnorm import FoldBatchNorm
from dwindle.techniques.prune_weights import PruneWeights
from dwindle.techniques.quantize_dynamic import QuantizeDynamic
from dwindle.techniques.quantize_static import QuantizeStatic

EXAMPLE = torch.linspace(-1, 1, 3 * 2 * 5 * 5).reshape(3, 2, 5, 5)


class Small(nn.Module):
    """A convolution with batch norm and two layers that share one weight; the output is `gain` times their answer."""

    def __init__(self, *, seed: int = 0, gain: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)
        self.first, self.again = nn.Linear(100, 100), nn.Linear(100, 100)
        self.again.weight = self.first.weight
        self.register_buffer("gain", torch.tensor(gain), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x))).flatten(1)
        return self.again(torch.relu(self.first(x))) * self.gain


def family() -> dict[str, CompressedModel]:
    """Return what recipes make of one structure, and of it with its batch norm folded (quantizing folds, too)."""
    context = Context(example=EXAMPLE, calibration=[EXAMPLE])
    dense = CompressedModel.dense(Small())
    pruned = PruneWeights(sparsity=0.5).apply(dense, context)
    return {
        "dense": dense,
        "other": CompressedModel.dense(Small(seed=1).train()),
        "gained": CompressedModel.dense(Small(gain=2.0)),
        "clustered": Cluster(codebook_size=4).apply(pruned, context),
        "static": QuantizeStatic().apply(pruned, context),
        "dynamic": QuantizeDynamic().apply(dense, context),
        "folded": FoldBatchNorm().apply(pruned, context),
    }


def graph_bytes(model: CompressedModel, captured: Captured, cache: GraphCache | None, **settings) -> bytes:
    options = ExportOptions(**settings)
    return build_graph(model, EXAMPLE, options=options, captured=captured, cache=cache).SerializeToString(
        deterministic=True
    )


@pytest.fixture
def translations(monkeypatch: pytest.MonkeyPatch) -> list[Captured]:
    """Return a list that grows with each translation; the same program is translated once, to save the test's time."""
    done: list[Captured] = []
    known: dict[int, float_graph.FloatGraph] = {}
    translate = float_graph.float_graph

    def counted(model: CompressedModel, captured: Captured) -> float_graph.FloatGraph:
        done.append(captured)
        if id(captured) not in known:
            known[id(captured)] = translate(model, captured)
        return known[id(captured)].copy()

    for module in (float_graph, graph):
        monkeypatch.setattr(module, "float_graph", counted)
    return done


def test_whichever_model_came_first_every_graph_is_the_one_without_a_cache(translations):
    models = family()
    captured = {name: capture(model.network, EXAMPLE) for name, model in models.items()}
    alone = {name: graph_bytes(model, captured[name], None) for name, model in models.items()}
    assert len(set(alone.values())) == 5  # dense, other and clustered differ in their weights alone
    for first in models:
        cache = GraphCache()
        translations.clear()
        for name in (first, *models, first):
            assert graph_bytes(models[name], captured[name], cache) == alone[name], (first, name)
        assert len(translations) == len(cache) == 3  # as given, with another gain, with its batch norm folded


def test_options_and_changes_of_a_graph_do_not_reach_the_next_one(translations):
    model = CompressedModel.dense(nn.Sequential(nn.Linear(50, 3), nn.ReLU()))
    example = EXAMPLE.reshape(3, 50)
    captured = capture(model.network, example)
    cache = GraphCache()
    for settings in ({"float_type": "float16"}, {"batch_size": 2}, {"opset": 18}, {}, {"batch_size": 5}):
        assert graph_bytes(model, captured, cache, **settings) == graph_bytes(model, captured, None, **settings)
    spoilt = cache.float_graph(model, captured)
    del spoilt.proto.graph.node[:]
    spoilt.values.clear()
    assert graph_bytes(model, captured, cache) == graph_bytes(model, captured, None)
    assert len(cache) == 1


class Branch(nn.Module):
    def __init__(self, step: float) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda x: x + self.step, lambda x: x - self.step, (x,))


def test_a_graph_without_description_is_translated_anew(translations):
    cache = GraphCache()
    for step in (1.0, 2.0):
        model = CompressedModel.dense(Branch(step))
        cache.float_graph(model, capture(model.network, EXAMPLE))
    assert (len(cache), len(translations)) == (0, 2)


def test_the_graphs_used_last_are_kept(translations):
    models = [CompressedModel.dense(nn.Linear(5, n)) for n in (2, 3, 4)]
    captured = [capture(model.network, EXAMPLE) for model in models]
    cache = GraphCache(size=2)
    for i in (0, 1, 0, 2, 0):
        cache.float_graph(models[i], captured[i])
    assert (len(cache), len(translations)) == (2, 3)
    cache.float_graph(models[1], captured[1])
    assert (len(cache), len(translations)) == (2, 4)


def test_a_cache_of_nothing_is_refused():
    with pytest.raises(SettingError, match="size=1 graph or more, got 0; leave the cache out"):
        GraphCache(size=0)
