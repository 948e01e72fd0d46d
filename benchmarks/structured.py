"""This file times networks that lost half of their channels or hidden units against the dense ones, interleaved.

    python benchmarks/structured.py [--quick] [--threads N] [--batch N] [--width W] [--only lstm|resnet]

- An LSTM of two layers with half of its hidden units, beside its dense twin, and beside its masked twin: the same units
  set to zero, which is what pruning by masks leaves. The file of the smaller one must answer as the masked twin does.
- ResNet-18 for CIFAR with half of its channels, then in static int8 as well, beside its dense float32 file.
- The peer: Torch-Pruning used directly on the same LSTM, in the same run. Its sizes afterwards are printed, and whether
  the network still runs. Its ResNets have the shapes of ours, see beside_torch_pruning.py.

Latency does not depend on the values of the weights, so they are random. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import dwindle as dw
from dwindle.artifact import Artifact
from dwindle.bench.deployment import deploy
from dwindle.bench.machine import this_machine
from dwindle.bench.measure import Measured, measure
from dwindle.bench.plan import Plan
from dwindle.bench.protocol import LatencyProtocol
from dwindle.network.compressed import CompressedModel
from dwindle.network.coupled import Group, masked
from dwindle.network.groups import find_groups
from dwindle.runtimes.onnxruntime import OnnxRuntime
from dwindle.zoo.resnet_cifar import resnet18_cifar

RATIO = 0.5
N_HIDDEN = 256


class Recurrent(nn.Module):
    """Two LSTM layers of 256 over 64 steps, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(64, N_HIDDEN, 2, batch_first=True), nn.Linear(N_HIDDEN, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (batch, 10)."""
        return self.head(self.lstm(x)[0][:, -1])


def main() -> None:
    """Print a table, then one JSON object."""
    arguments = _arguments()
    torch.manual_seed(0)
    protocol = LatencyProtocol(seconds=3.0 if arguments.quick else 20.0)
    plan = Plan(n_threads=arguments.threads, latency=protocol, latency_batch=arguments.batch)
    print(f"batch {arguments.batch}, {arguments.threads} thread(s), {this_machine().summary()}\n")
    print(f"{'':34}{'bytes':>12}{'ms':>10}   faster than dense fp32")
    figures: dict[str, float | str] = {}
    if arguments.only in {None, "lstm"}:
        figures |= _lstm(plan)
    if arguments.only in {None, "resnet"}:
        figures |= _resnet(plan, width=arguments.width)
    print(json.dumps({"benchmark": "structured", **figures}))


def _lstm(plan: Plan) -> dict[str, float | str]:
    x = torch.randn(64, 64, 64)
    dense = CompressedModel.dense(Recurrent().eval())
    context = dw.Context(example=x[:2])
    half = dw.PruneChannels(pruning_ratio=RATIO).apply(dense, context)
    int8 = dw.QuantizeDynamic().apply(half, context)
    twin = CompressedModel.dense(_masked_twin(dense, half, x[:2]))
    files = {"lstm dense": dense, "lstm masked twin": twin, "lstm half of its units": half, "lstm half, int8": int8}
    with tempfile.TemporaryDirectory() as folder:
        made = {name: _file(model, x[:2], Path(folder), name=name) for name, model in files.items()}
        figures = _rows(made, TensorDataset(x, torch.zeros(len(x), dtype=torch.int64)), plan)
        gap, scale = _gap(made["lstm half of its units"], twin.network, x[:8])
    print(f"\nits answers beside those of the masked twin: largest difference {gap:.2g}, largest answer {scale:.2g}")
    peer = _peer_on_lstm(x[:2])
    print(f"Torch-Pruning on the same LSTM: {peer}\n")
    return figures | {"lstm_gap_to_masked_twin": gap, "lstm_largest_answer": scale, "lstm_torch_pruning": peer}


def _resnet(plan: Plan, *, width: int) -> dict[str, float | str]:
    x = torch.randn(64, 3, 32, 32)
    dense = CompressedModel.dense(resnet18_cifar(width=width).eval())
    context = dw.Context(example=x[:2], calibration=[x])
    half = dw.PruneChannels(pruning_ratio=RATIO).apply(dense, context)
    files = {
        f"resnet18 width {width} dense": dense,
        "resnet18 int8": dw.QuantizeStatic().apply(dense, context),
        "resnet18 half of its channels": half,
        "resnet18 half, int8": dw.QuantizeStatic().apply(half, context),
    }
    with tempfile.TemporaryDirectory() as folder:
        made = {name: _file(model, x[:2], Path(folder), name=name) for name, model in files.items()}
        return _rows(made, TensorDataset(x, torch.zeros(len(x), dtype=torch.int64)), plan)


def _file(model: CompressedModel, example: Tensor, folder: Path, *, name: str) -> Artifact:
    return deploy(model, example, folder, formats=("onnx",), name=name.replace(" ", "_")).artifacts["onnx"]


def _rows(files: Mapping[str, Artifact], data: TensorDataset, plan: Plan) -> dict[str, float | str]:
    """Print a line for each file, timed in turn with the first one; return its figures."""
    figures: dict[str, float | str] = {}
    (first, dense), *others = files.items()
    for number, (name, file) in enumerate(others):
        measured = measure(file, data, dense=dense, plan=plan)
        if number == 0 and measured.dense is not None:
            _print_row(first, measured.dense, "1")
        ratio = measured.find("speedup")
        _print_row(name, measured, f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]")
        key = name.replace(" ", "_").replace(",", "")
        figures |= {f"{key}_speedup": ratio.value, f"{key}_low": ratio.low, f"{key}_high": ratio.high}
        figures[f"{key}_unstable"] = str(ratio.conditions.get("unstable", "no"))
    return figures


def _print_row(name: str, measured: Measured, words: str) -> None:
    size, time = (measured.find(metric).value for metric in ("size", "latency_median"))
    print(f"{name:34}{size:>12,.0f}{time:>10.3f}   {words}")


def _masked_twin(dense: CompressedModel, half: CompressedModel, example: Tensor) -> nn.Module:
    """Return the dense network with zeros where `half` has nothing."""
    twin = dense.network
    for group in find_groups(dense.network, example).groups:
        twin = masked(twin, group, _gone(group, dense, half))
    return twin


def _gone(group: Group, dense: CompressedModel, half: CompressedModel) -> list[int]:
    """Return the units of `group` that `half` lacks: those whose input biases it does not hold."""
    (name,) = (slot.tensor for slot in group.slots if "bias_ih" in slot.tensor)
    before, after = dense.network.state_dict()[name], half.network.state_dict()[name]
    held = set(after.tolist())
    return [unit for unit in range(group.n_channels) if float(before[unit]) not in held]


def _gap(file: Artifact, twin: nn.Module, x: Tensor) -> tuple[float, float]:
    """Return the largest difference between the file's and the twin's answers, and the largest answer."""
    with OnnxRuntime().load(file, n_threads=1) as session, torch.no_grad():
        (answers, *_), wanted = session.run(x.numpy()), twin(x).numpy()
    return float(np.abs(answers - wanted).max()), float(np.abs(wanted).max())


def _peer_on_lstm(x: Tensor) -> str:
    """Say what Torch-Pruning makes of the same network."""
    import torch_pruning

    network = Recurrent().eval()
    try:
        pruner = torch_pruning.pruner.BasePruner(
            network, x, importance=torch_pruning.importance.GroupMagnitudeImportance(p=2), pruning_ratio=RATIO,
            ignored_layers=[network.head],
        )  # fmt: skip
        pruner.step()
        sizes = f"hidden size {N_HIDDEN} -> {network.lstm.hidden_size}"
        network(x)
    except Exception as error:  # ruff: ignore[blind-except] (whatever it raises is the finding)
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    return f"{sizes}, the network runs"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="at most 3 seconds a side instead of 20")
    parser.add_argument("--threads", type=int, default=1, help="threads of the engine (1)")
    parser.add_argument("--batch", type=int, default=1, help="examples in a timed call (1)")
    parser.add_argument("--width", type=int, default=64, help="channels of the first stage of the ResNet (64)")
    parser.add_argument("--only", choices=("lstm", "resnet"), help="one of the two networks")
    return parser.parse_args()


if __name__ == "__main__":
    main()
