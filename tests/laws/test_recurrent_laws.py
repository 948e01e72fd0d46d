"""This file holds recurrent networks to the laws through a whole chain: prune, train, cluster, train, quantize."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

import dwindle as dw
from dwindle.bench.deployment import deploy
from dwindle.bench.measurement import PARITY
from dwindle.core.encoding import affine_of, codebook_of, decode, support_of
from dwindle.network.select import weight_names
from dwindle.testing.small import PlainTrainer

N_CLASSES = 4
CODEBOOK_SIZE = 7
BOUND = 1e-5
"""Of short sequences: a state between two codes would take a step of 1/255 of its range."""


class Windows(nn.Module):
    """Recurrent layers over a window, and a linear layer on the last step."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU], **settings: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = kind(5, 6, 2, **settings)
        self.head = nn.Linear(6 * (2 if self.layers.bidirectional else 1), N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        outputs, _ = self.layers(x if self.layers.batch_first else x.transpose(0, 1))
        return self.head(outputs[:, -1] if self.layers.batch_first else outputs[-1])


class Words(nn.Module):
    """An LSTM over words, which are scored by the weights that embed them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.lstm = nn.Embedding(N_CLASSES, 6), nn.LSTM(6, 6, batch_first=True)
        self.scores = nn.Linear(6, N_CLASSES, bias=False)
        self.scores.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.lstm(self.embedding(x))[0][:, -1])


NETWORKS = {
    "LSTM, both directions": lambda: Windows(nn.LSTM, bidirectional=True, batch_first=True),
    "LSTM, time first, no bias": lambda: Windows(nn.LSTM, bias=False),
    "GRU, both directions": lambda: Windows(nn.GRU, bidirectional=True, batch_first=True),
    "GRU, time first, no bias": lambda: Windows(nn.GRU, bias=False),
    "tied embedding": Words,
}
FAST = {"LSTM, both directions", "tied embedding"}
STEPS = (
    dw.PruneWeights(sparsity=0.5),
    dw.FineTune(epochs=1),
    dw.Cluster(codebook_size=CODEBOOK_SIZE),
    dw.FineTune(epochs=1),
    dw.QuantizeDynamic(),
)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in NETWORKS])
def test_structure_survives_and_the_files_answer_alike(name: str, tmp_path: Path) -> None:
    network = NETWORKS[name]().eval()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(24, 6, 5, generator=generator)
    if name == "tied embedding":
        x = torch.randint(N_CLASSES, (24, 6), generator=generator)
    trainer = PlainTrainer(inputs=x, targets=torch.randint(N_CLASSES, (24,), generator=generator))
    context = dw.Context(example=x[:3], trainer=trainer, seed=1)
    model = dw.CompressedModel.dense(network)
    names = weight_names(network)
    zeros = {weight: torch.zeros_like(decode(model.encodings[weight]), dtype=torch.bool) for weight in names}
    for step in STEPS:
        before, model = model, step.apply(model, context)
        tensors = model.network.state_dict()
        for weight in names:
            encoding = model.encodings[weight]
            values = tensors[weight]
            assert torch.equal(values, decode(encoding))
            assert not values[zeros[weight]].any()
            support = support_of(encoding)
            assert support is not None
            zeros[weight] = ~support
            earlier, now = codebook_of(before.encodings[weight]), codebook_of(encoding)
            assert earlier is None or (now is not None and now.codebook_size <= earlier.codebook_size)
            assert now is None or len(values[support].unique()) <= CODEBOOK_SIZE
        if isinstance(step, dw.FineTune):
            assert any(not torch.equal(tensors[w], before.network.state_dict()[w]) for w in names)
    for twin, first in model.aliases.items():
        assert torch.equal(model.network.state_dict()[twin], model.network.state_dict()[first])
    assert all(affine_of(model.encodings[w]) is not None for w in names)
    result = deploy(model, x, tmp_path)
    with torch.no_grad():
        largest = float(model.network(x).abs().max())
    assert [m.value <= BOUND * largest for m in result.parity if m.metric == PARITY] == [True, True]
    operations = [node.op_type for node in onnx.load(result.artifacts["onnx"].path).graph.node]
    n_lstms = sum(m.num_layers for m in network.modules() if isinstance(m, nn.LSTM))
    n_others = sum(m.num_layers for m in network.modules() if isinstance(m, nn.GRU))
    assert (operations.count("DynamicQuantizeLSTM"), operations.count("LSTM")) == (n_lstms, 0)
    assert operations.count("GRU") == n_others
