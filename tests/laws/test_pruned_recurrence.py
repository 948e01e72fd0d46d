"""This file holds recurrent networks that lost hidden units to the laws: encodings, training, replay, files."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

import dwindle as dw
from dwindle.bench.deployment import deploy
from dwindle.bench.measurement import PARITY
from dwindle.core.encoding import affine_of, codebook_of, decode, describe, support_of
from dwindle.errors import SelectionError
from dwindle.network.compressed import CompressedModel
from dwindle.network.coupled import masked
from dwindle.network.edits import apply_edits
from dwindle.network.groups import find_groups
from dwindle.testing.small import PlainTrainer

N_CLASSES = 4
EXAMPLE = torch.randn(8, 9, 5, generator=torch.Generator().manual_seed(1))


class Windows(nn.Module):
    """Recurrent layers over a window, and a linear layer on the last step."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU] = nn.LSTM, *, n_hidden: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = kind(5, n_hidden, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * n_hidden, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x)[0][:, -1])


def context() -> dw.Context:
    targets = torch.arange(8) % N_CLASSES
    return dw.Context(
        example=EXAMPLE, calibration=[EXAMPLE], trainer=PlainTrainer(inputs=EXAMPLE, targets=targets, batch_size=4)
    )


HALF = dw.PruneChannels(pruning_ratio=0.5, round_to=1)
PARTS = ("layers.l0", "layers.l0_reverse", "layers.l1", "layers.l1_reverse")


def hidden_sizes(model: CompressedModel) -> set[int]:
    return {t.shape[-1] for name, t in model.network.state_dict().items() if "weight_hh" in name}


def test_each_layer_and_direction_loses_its_own_half() -> None:
    dense = CompressedModel.dense(Windows())
    after = HALF.apply(dense, context())
    record = after.history[-1]
    assert {name: tuple(counts) for name, counts in record.decisions["channels"].items()} == dict.fromkeys(
        PARTS, (8, 4)
    )
    assert hidden_sizes(after) == {4}
    assert after.network.layers.hidden_size == 4
    assert after.network.head.in_features == 8
    twin, chosen = dense.network, set[tuple[int, ...]]()
    for group in find_groups(dense.network, EXAMPLE).groups:
        norms = torch.zeros(8, dtype=torch.float64)
        for slot in group.slots:
            if slot.role in {"output", "input"}:
                sums = decode(dense.encodings[slot.tensor]).double().pow(2).movedim(slot.axis, 0).flatten(1).sum(1)
                for index, channel in enumerate(slot.channels):
                    norms[channel] += sums[index] if channel >= 0 else 0
        gone = tuple(sorted(norms.argsort()[:4].tolist()))
        chosen.add(gone)
        twin = masked(twin, group, gone)
    assert len(chosen) > 1
    torch.testing.assert_close(after.network(EXAMPLE), twin(EXAMPLE), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("importance", ["l1", "taylor"])
def test_all_lose_equally_many_whatever_ranks_them(scope: str, importance: str) -> None:
    dense = CompressedModel.dense(Windows())
    with torch.no_grad():
        dense.network.layers.weight_hh_l1.mul_(5)
    dense = CompressedModel.dense(dense.network)
    step = dw.PruneChannels(pruning_ratio=0.5, round_to=2, scope=scope, importance=importance, rounds=2, epochs=1)
    after = step.apply(dense, context())
    assert len(hidden_sizes(after)) == 1
    assert hidden_sizes(after) <= {2, 4, 6}
    assert after.network(EXAMPLE).shape == (8, N_CLASSES)


def test_a_part_of_a_module_cannot_go_alone() -> None:
    first = dw.Select(names=("layers.weight_*_l0",))
    with pytest.raises(
        SelectionError, match=r"no channel of the 2 .*layers: not all weights that compute its channels are sel"
    ):
        dw.PruneChannels(pruning_ratio=0.5, select=first).apply(CompressedModel.dense(Windows()), context())


BEFORE = {
    "sparse": (dw.PruneWeights(sparsity=0.5),),
    "clustered": (dw.Cluster(codebook_size=6),),
    "sparse and clustered integers": (
        dw.PruneWeights(sparsity=0.5), dw.Cluster(codebook_size=6), dw.QuantizeWeights(n_bits=8),
    ),
    "integers with a scale for each row": (dw.QuantizeWeights(n_bits=8, granularity=dw.PerChannel(0)),),
    "half": (dw.CastHalf(),),
}  # fmt: skip


@pytest.mark.parametrize("name", BEFORE)
def test_encodings_are_sliced(name: str) -> None:
    before = dw.Recipe(BEFORE[name]).run(CompressedModel.dense(Windows()), context())
    after = HALF.apply(before, context())
    for tensor, encoding in after.encodings.items():
        assert describe(encoding) == describe(before.encodings[tensor])
        assert torch.equal(decode(encoding), after.network.state_dict()[tensor])
    kept = set(decode(after.encodings["layers.weight_hh_l0"]).unique().tolist())
    assert kept <= set(decode(before.encodings["layers.weight_hh_l0"]).unique().tolist())
    again = dw.Recipe.replay(after.history, CompressedModel.dense(Windows()), context())
    assert again.digest() == after.digest()
    rebuilt = apply_edits(Windows(), after.edits)
    rebuilt.load_state_dict(after.network.state_dict())
    assert torch.equal(rebuilt(EXAMPLE), after.network(EXAMPLE))


@pytest.mark.parametrize("kind", [nn.LSTM, pytest.param(nn.GRU, marks=pytest.mark.slow)])
def test_it_trains_clusters_and_becomes_files_at_parity(kind: type[nn.LSTM] | type[nn.GRU], tmp_path: Path) -> None:
    recipe = dw.Recipe(
        (HALF, dw.PruneWeights(sparsity=0.5), dw.FineTune(epochs=1), dw.Cluster(codebook_size=5), dw.FineTune(epochs=1))
    )
    after = recipe.run(CompressedModel.dense(Windows(kind)), context())
    encoding = after.encodings["layers.weight_ih_l1"]
    assert codebook_of(encoding) is not None
    assert support_of(encoding) is not None
    deployment = deploy(after, EXAMPLE, tmp_path)
    gaps = [m.value for m in deployment.parity if m.metric == PARITY]
    assert len(gaps) == 2
    assert max(gaps) < 1e-5


@pytest.mark.slow
def test_its_integers_reach_the_engine(tmp_path: Path) -> None:
    after = dw.Recipe((HALF, dw.QuantizeDynamic())).run(CompressedModel.dense(Windows()), context())
    assert affine_of(after.encodings["layers.weight_hh_l1_reverse"]) is not None
    deployment = deploy(after, EXAMPLE, tmp_path)
    assert max(m.value for m in deployment.parity if m.metric == PARITY) < 1e-4
    nodes = [node.op_type for node in onnx.load(deployment.artifacts["onnx"].path).graph.node]
    assert nodes.count("DynamicQuantizeLSTM") == 2


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    recipe = dw.Recipe((HALF, dw.FineTune(epochs=1)))
    offered = dw.Context(example=EXAMPLE, trainer=context().trainer, workdir=tmp_path)
    dense = CompressedModel.dense(Windows())
    first = recipe.run(dense, offered)
    seen: list[bool] = []
    again = recipe.run(dense, offered, on_stage=lambda stage: seen.append(stage.was_cached))
    assert seen == [True, True]
    assert again.digest() == first.digest()
    assert again.network.layers.hidden_size == 4
