"""This file holds LiteRT and ExecuTorch to parity on networks of every kind; each conversion takes seconds: slow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import dwindle as dw
from dwindle.bench.deployment import EXPORTERS, deploy
from dwindle.exporters.options import ExportOptions
from dwindle.runtimes.catalogue import engine_for
from dwindle.zoo.mobilenet_v2 import mobilenet_v2
from dwindle.zoo.resnet_cifar import resnet20

pytestmark = pytest.mark.slow


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU], *, bidirectional: bool = False) -> None:
        super().__init__()
        self.layers = kind(6, 8, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(16 if bidirectional else 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x)[0][:, -1])


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 4), nn.Linear(5, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.a(x) + 2 * self.b(y)


class ManyOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.a(x) + 3 * i for i in range(12))


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(20, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.table(x).mean(1))


class Plain(nn.Module):
    """No parameters at all."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) * 2


class Tied(nn.Module):
    """One weight, multiplied twice and looked up once."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        table = nn.functional.embedding(torch.zeros(1, dtype=torch.int64), self.first.weight)
        return torch.relu(self.second(torch.relu(self.first(x)))) * table


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor | tuple[Tensor, ...]]]] = {
    "lstm": (lambda: Recurrent(nn.LSTM), lambda: torch.randn(4, 5, 6)),
    "gru": (lambda: Recurrent(nn.GRU), lambda: torch.randn(4, 5, 6)),
    "two directions": (lambda: Recurrent(nn.LSTM, bidirectional=True), lambda: torch.randn(4, 5, 6)),
    "two inputs": (TwoInputs, lambda: (torch.randn(4, 6), torch.randn(4, 5))),
    "many outputs": (ManyOutputs, lambda: torch.randn(4, 6)),
    "words": (Words, lambda: torch.randint(0, 20, (4, 7))),
    "no parameters": (Plain, lambda: torch.randn(4, 6)),
    "tied": (Tied, lambda: torch.randn(4, 6)),
    "resnet20": (resnet20, lambda: torch.randn(4, 3, 32, 32)),
    "mobilenet_v2": (lambda: mobilenet_v2(n_classes=10), lambda: torch.randn(4, 3, 32, 32)),
}
STEPS = {
    "float": (),
    "half": (dw.CastHalf(),),
    "dynamic": (dw.FoldBatchNorm(), dw.QuantizeDynamic()),
    "int8": (dw.QuantizeStatic(),),
    "int16": (dw.QuantizeStatic(activations=16),),
    "pruned and clustered": (dw.PruneWeights(sparsity=0.5), dw.Cluster(codebook_size=16), dw.QuantizeStatic()),
}
CASES = [
    *((network, "float", form) for network in NETWORKS for form in ("tflite", "pte")),
    *(("resnet20", step, "tflite") for step in STEPS if step != "float"),
    *(("resnet20", step, "pte") for step in ("half", "int8", "pruned and clustered")),
    *(
        (network, "int8", form)
        for network in ("two inputs", "words", "tied", "mobilenet_v2")
        for form in ("tflite", "pte")
    ),
    *((network, "dynamic", "tflite") for network in ("lstm", "gru")),
]


@pytest.mark.parametrize(("network", "step", "form"), CASES)
def test_every_kind_of_network_meets_parity(network: str, step: str, form: str, tmp_path: Path) -> None:
    build, draw = NETWORKS[network]
    inputs = draw()
    model = dw.CompressedModel.dense(build().eval())
    if STEPS[step]:
        model = dw.Recipe(STEPS[step]).run(model, dw.Context(example=inputs, calibration=[inputs]))
    if absent := [r for r in EXPORTERS[form]({}, ExportOptions()).obstacles(model) if "install" in r]:
        pytest.skip(absent[0])
    deployed = deploy(model, inputs, tmp_path, formats=(form,))
    parity = [m for m in deployed.parity if m.metric.name == "parity"]
    assert parity
    assert [m.conditions["within_bound"] for m in parity] == ["yes"] * len(parity), [m.value for m in parity]


@pytest.mark.parametrize("form", ["tflite", "pte"])
def test_a_batch_that_was_asked_for_is_in_the_file(form: str, tmp_path: Path) -> None:
    model, inputs, options = (
        dw.CompressedModel.dense(nn.Linear(6, 4).eval()),
        torch.randn(4, 6),
        ExportOptions(batch_size=3),
    )
    if absent := [r for r in EXPORTERS[form]({}, options).obstacles(model) if "install" in r]:
        pytest.skip(absent[0])
    deployed = deploy(model, inputs, tmp_path, formats=(form,), options=options)
    assert {m.conditions["within_bound"] for m in deployed.parity if m.metric.name == "parity"} == {"yes"}
    with engine_for(form).load(deployed.artifacts[form]) as session:
        assert session.inputs[0].shape == (3, 6)
