"""This file runs the accepted orders of two steps, and with `make laws` of three, on one network that has everything.

What earlier steps left stays: zeros, clusters; weights are their decoded encodings; files answer like the model. What a
recipe refuses does fail where it is run all the same.
"""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dwindle as dw
from dwindle.core.encoding import codebook_of, decode, support_of
from dwindle.errors import DwindleError
from dwindle.exporters.graph import build_graph
from dwindle.exporters.graph_cache import GraphCache
from dwindle.exporters.native import NativeExporter
from dwindle.exporters.onnx import OnnxExporter
from dwindle.network.activations import ActivationQuantizer
from dwindle.network.capture import capture
from dwindle.network.compressed import CompressedModel
from dwindle.network.simulate import simulate
from dwindle.runtimes.onnxruntime import OnnxRuntime
from dwindle.technique import Context, Technique
from dwindle.testing.small import PlainTrainer

STEPS: dict[str, Technique] = {
    "prune": dw.PruneWeights(sparsity=0.5),
    "cluster": dw.Cluster(codebook_size=5),
    "quantize-weights": dw.QuantizeWeights(),
    "static": dw.QuantizeStatic(),
    "aware": dw.QuantizeAware(epochs=0.4),
    "binarize": dw.Binarize(epochs=0.4),
    "fold": dw.FoldBatchNorm(),
    "tune": dw.FineTune(epochs=0.4),
}
MORE_STEPS: dict[str, Technique] = STEPS | {
    "channels": dw.PruneChannels(pruning_ratio=0.4, round_to=1),
    "static-integer": dw.QuantizeStatic(weights=None),
    "aware-weights": dw.QuantizeAware(epochs=0.4, activations=None, weights=4, weight_scale="extremes"),
    "aware-integer": dw.QuantizeAware(epochs=0.4, weights=None, ranges="learned"),
    "binarize-weights": dw.Binarize(epochs=0.4, activations=False, n_bits=2, granularity=dw.PerChannel(0)),
}
Order = tuple[str, ...]
FLOAT_BOUND = 2e-5
"""Two float engines that add in another order."""
CODE_BOUND = 0.05
"""Where activations are 8-bit codes: a value next to the middle between two codes may fall on either side, and one code
of the input of a small layer is up to 1/127 of its range."""
CACHE = GraphCache()


class Everything(nn.Module):
    """A convolution, a depthwise one, batch norms with negative weights, a residual sum, an LSTM, tied layers.

    Outputs of `wide` and units of the LSTM can be cut: the convolutions' channels are its steps, tied layers stay.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm1 = nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6)
        self.depthwise, self.norm2 = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False), nn.BatchNorm2d(6)
        self.lstm, self.wide, self.narrow = nn.LSTM(16, 8, batch_first=True), nn.Linear(8, 10), nn.Linear(10, 8)
        self.mix, self.again, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.again.weight = self.mix.weight
        for norm in (self.norm1, self.norm2):
            n = norm.num_features
            norm.weight.data = (torch.rand(n) + 0.5) * torch.tensor([-1.0, 1.0]).repeat(n // 2)
            norm.bias.data = torch.randn(n) / 4
            norm.running_mean = torch.randn(n) / 4
            norm.running_var = torch.rand(n) + 0.5

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.stem(x)))
        x = torch.relu(self.norm2(self.depthwise(x)) + x)
        h = self.narrow(torch.relu(self.wide(self.lstm(x.flatten(2))[0][:, -1])))
        return self.head(torch.relu(self.again(torch.relu(self.mix(h)))))


@functools.cache
def context() -> Context:
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(24, 1, 8, 8, generator=generator)
    trainer = PlainTrainer(inputs=inputs, targets=torch.randint(4, (24,), generator=generator))
    return Context(seed=7, example=inputs[:2], calibration=tuple(inputs.split(8)), trainer=trainer)


@functools.cache
def start() -> CompressedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CompressedModel.dense(Everything().eval())


@functools.cache
def outcome(order: Order) -> CompressedModel:
    """Return what `order` makes of the start; a beginning that orders share runs once."""
    return MORE_STEPS[order[-1]].apply(outcome(order[:-1]), context()) if order else start()


def is_accepted(order: Order) -> bool:
    return not dw.Recipe(tuple(MORE_STEPS[name] for name in order)).check(context())


def orders(n: int, names: dict[str, Technique], *, accepted: bool = True) -> list[Order]:
    """Return the orders of `n` steps whose beginnings are accepted, and who are themselves, or are not."""
    found = itertools.product(names, repeat=n)
    return [order for order in found if is_accepted(order[:-1]) and is_accepted(order) == accepted]


def require_structure(order: Order) -> None:
    """Require that the last step of `order` kept what the steps before it had left."""
    before, after = outcome(order[:-1]), outcome(order)
    tensors = after.network.state_dict()
    assert set(tensors) == set(after.encodings) | set(after.aliases)
    for name, tensor in tensors.items():
        decoded = decode(after.encodings[after.aliases.get(name, name)])
        assert torch.isfinite(decoded).all(), name
        assert torch.equal(decoded, tensor), name
    assert after.network.again.weight is after.network.mix.weight
    for name in set(before.encodings) & set(after.encodings):
        support, book = support_of(before.encodings[name]), codebook_of(before.encodings[name])
        if support is not None:
            kept = support_of(after.encodings[name])
            assert kept is not None, name
            if kept.shape != support.shape:
                continue  # channels were cut; tests/network/test_surgery.py looks at what stays
            assert not (kept & ~support).any(), name
            assert not decode(after.encodings[name])[~support].any(), name
        if book is not None:
            left = codebook_of(after.encodings[name])
            assert left is not None, name
            assert left.codebook_size <= book.codebook_size, name
    assert after.history[:-1] == before.history
    assert after.history[-1].digest == after.digest()
    assert tuple(record.technique for record in after.history) == tuple(type(MORE_STEPS[s]).__name__ for s in order)


def require_parity(model: CompressedModel, folder: Path) -> None:
    """Require that both files answer like the simulated model, in one batch of another size than the example's."""
    example = context().example
    inputs = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    captured = capture(model.network, example)
    with torch.no_grad():
        wanted = simulate(model, example, captured=captured)(inputs).numpy()
    graph = build_graph(model, example, captured=captured, cache=CACHE)
    has_codes = any(isinstance(quantizer, ActivationQuantizer) for quantizer in model.activations.values())
    for exporter in (OnnxExporter(), NativeExporter()):
        artifact = exporter.export(model, example, folder / f"model.{exporter.format}", graph=graph)
        with OnnxRuntime().load(artifact) as session:
            (found,) = session.run(inputs.numpy())
        gap = float(np.abs(found - wanted).max() / np.abs(wanted).max())
        assert gap <= (CODE_BOUND if has_codes else FLOAT_BOUND), exporter.format


@pytest.mark.parametrize("order", orders(2, STEPS), ids="-".join)
def test_two_steps_keep_structure_and_their_files_answer_alike(order: Order, tmp_path: Path):
    require_structure(order[:1])
    require_structure(order)
    require_parity(outcome(order), tmp_path)


@pytest.mark.parametrize("order", orders(2, STEPS, accepted=False), ids="-".join)
def test_what_a_recipe_refuses_fails_when_it_is_run(order: Order):
    digest = outcome(order[:1]).digest()
    with pytest.raises(DwindleError) as raised:
        outcome(order)
    assert len(str(raised.value).split()) > 6
    assert outcome(order[:1]).digest() == digest


def test_the_network_has_what_the_laws_are_about():
    model = start()
    assert model.aliases == {"again.weight": "mix.weight"}
    folded = outcome(("fold",))
    assert {edit.batchnorm for edit in folded.edits} == {"norm1", "norm2"}
    assert (decode(model.encodings["norm1.weight"]) < 0).sum() == 3
    assert outcome(("aware",)).history[-1].decisions["folded"] == {"norm1": "stem", "norm2": "depthwise"}
    assert len(orders(2, STEPS)) > 30
    assert len(orders(2, STEPS, accepted=False)) > 20


def test_channels_then_weights_then_clusters_then_integers_keep_structure(tmp_path: Path):
    chain = ("channels", "prune", "cluster", "aware")
    for n in range(1, len(chain) + 1):
        require_structure(chain[:n])
    require_parity(outcome(chain), tmp_path)
    wide = outcome(chain).encodings["wide.weight"]
    support, book = support_of(wide), codebook_of(wide)
    assert support is not None
    assert book is not None
    assert support.shape == (6, 5)  # the LSTM before it lost hidden units, too
    assert book.codebook_size <= 5


@pytest.mark.slow
@pytest.mark.parametrize("order", [o for o in orders(2, MORE_STEPS) if not set(o) <= set(STEPS)], ids="-".join)
def test_two_steps_with_other_settings(order: Order, tmp_path: Path):
    require_structure(order)
    require_parity(outcome(order), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "order",
    [o for o in orders(2, MORE_STEPS, accepted=False) if not set(o) <= set(STEPS)],
    ids="-".join,
)
def test_what_a_recipe_refuses_with_other_settings_fails(order: Order):
    with pytest.raises(DwindleError):
        outcome(order)


@pytest.mark.slow
@pytest.mark.parametrize("order", orders(3, MORE_STEPS), ids="-".join)
def test_three_steps_keep_structure_and_their_files_answer_alike(order: Order, tmp_path: Path):
    require_structure(order)
    require_parity(outcome(order), tmp_path)


def test_pairs_decide_about_longer_orders():
    """What an order of three refuses, a pair of it refuses: no pair and no triple has code of its own."""
    for order in itertools.product(STEPS, repeat=3):
        pairs = itertools.combinations(order, 2)
        assert is_accepted(order) == all(map(is_accepted, pairs)), order
