"""This file times int8 with inputs quantized at run time against fp32, interleaved: a perceptron and an LSTM.

    python benchmarks/dynamic.py [--quick] [--threads N] [--batch N]

Latency does not depend on the values of the weights, so they are random. Both multiply integers: the perceptron by
DynamicQuantizeMatMul, the LSTM by DynamicQuantizeLSTM. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from dwindle.bench.deployment import deploy
from dwindle.bench.machine import this_machine
from dwindle.bench.measure import measure
from dwindle.bench.plan import Plan
from dwindle.bench.protocol import LatencyProtocol
from dwindle.network.compressed import CompressedModel
from dwindle.technique import Context
from dwindle.techniques.quantize_dynamic import QuantizeDynamic


class Perceptron(nn.Sequential):
    """1024 - 4096 - 1024 - 10."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(1024, 4096), nn.ReLU(), nn.Linear(4096, 1024), nn.ReLU(), nn.Linear(1024, 10))


class Recurrent(nn.Module):
    """Two LSTM layers of 256 over 64 steps, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(64, 256, 2, batch_first=True), nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (batch, 10)."""
        return self.head(self.lstm(x)[0][:, -1])


NETWORKS = {"mlp": (Perceptron, (1024,)), "lstm": (Recurrent, (64, 64))}


def main() -> None:
    """Print a table, then one JSON object."""
    arguments = _arguments()
    protocol = LatencyProtocol(seconds=3.0 if arguments.quick else 20.0)
    plan = Plan(n_threads=arguments.threads, latency=protocol, latency_batch=arguments.batch)
    print(f"batch {arguments.batch}, {arguments.threads} thread(s), {this_machine().summary()}\n")
    print(f"{'':6}{'fp32 bytes':>14}{'int8 bytes':>14}{'fp32 ms':>12}{'int8 ms':>12}   speed-up")
    figures: dict[str, float | str] = {}
    for name, (build, shape) in NETWORKS.items():
        figures |= _row(name, build(), torch.randn(64, *shape), plan=plan)
    print(json.dumps({"benchmark": "dynamic", **figures}))


def _row(name: str, network: nn.Module, examples: Tensor, *, plan: Plan) -> dict[str, float | str]:
    dense = CompressedModel.dense(network.eval())
    int8 = QuantizeDynamic().apply(dense, Context(example=examples[:2]))
    with tempfile.TemporaryDirectory() as folder:
        files = [
            deploy(model, examples[:2], Path(folder), formats=("onnx",), name=kind).artifacts["onnx"]
            for kind, model in (("fp32", dense), ("int8", int8))
        ]
        targets = torch.zeros(len(examples), dtype=torch.int64)
        measured = measure(files[1], TensorDataset(examples, targets), dense=files[0], plan=plan)
    baseline = measured.dense
    if baseline is None:
        raise SystemExit("the fp32 file was not measured")
    sizes = [side.find("size").value for side in (baseline, measured)]
    times = [side.find("latency_median").value for side in (baseline, measured)]
    ratio = measured.find("speedup")
    interval = f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
    print(f"{name:6}{sizes[0]:>14,.0f}{sizes[1]:>14,.0f}{times[0]:>12.3f}{times[1]:>12.3f}   {interval}")
    return {
        f"{name}_speedup": ratio.value,
        f"{name}_speedup_low": ratio.low,
        f"{name}_speedup_high": ratio.high,
        f"{name}_compression": sizes[0] / sizes[1],
        f"{name}_unstable": ratio.conditions.get("unstable", "no"),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="at most 3 seconds a side instead of 20")
    parser.add_argument("--threads", type=int, default=1, help="threads of the engine (1)")
    parser.add_argument("--batch", type=int, default=1, help="examples in a timed call (1)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
