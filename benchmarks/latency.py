"""This file times resnet18_tian as fp32 and as int8 side by side, interleaved, on ONNX Runtime.

    python benchmarks/latency.py [--quick] [--threads N]

Latency does not depend on the values of the weights, so they are random. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from torch.utils.data import TensorDataset

from dwindle.bench.deployment import deploy
from dwindle.bench.machine import this_machine
from dwindle.bench.measure import Measured, Plan, measure
from dwindle.bench.protocol import LatencyProtocol
from dwindle.network.compressed import CompressedModel
from dwindle.recipe import Recipe
from dwindle.technique import Context
from dwindle.techniques.fold_batchnorm import FoldBatchNorm
from dwindle.techniques.quantize_static import QuantizeStatic
from dwindle.zoo.resnet18_tian import resnet18_tian

FIGURES = ("latency", "latency_median", "latency_p90")


def main() -> None:
    arguments = _arguments()
    torch.manual_seed(0)
    examples = torch.randn(32, 3, 33, 33)
    dense = CompressedModel.dense(resnet18_tian().eval())
    context = Context(example=examples[:2], calibration=[examples])
    int8 = Recipe((FoldBatchNorm(), QuantizeStatic())).run(dense, context)
    plan = Plan(n_threads=arguments.threads, latency=LatencyProtocol(seconds=3.0 if arguments.quick else 20.0))
    with tempfile.TemporaryDirectory() as folder:
        files = [
            deploy(model, examples[:2], Path(folder), formats=("onnx",), name=name).artifacts["onnx"]
            for name, model in (("fp32", dense), ("int8", int8))
        ]
        data = TensorDataset(examples, torch.zeros(len(examples), dtype=torch.int64))
        measured = measure(files[1], data, dense=files[0], plan=plan)
    _print(measured)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="at most 3 seconds a side instead of 20")
    parser.add_argument("--threads", type=int, default=1, help="threads of the engine (1)")
    return parser.parse_args()


def _print(measured: Measured) -> None:
    sides = {"fp32": measured.dense, "int8": measured}
    print(f"resnet18_tian, batch 1, {measured.find('latency').runtime}, {this_machine().summary()}\n")
    print(f"{'':8}" + "".join(f"{name + ' [ms]':>28}" for name in FIGURES) + f"{'size':>14}")
    figures: dict[str, float | str] = {}
    for name, side in sides.items():
        found = [side.find(figure) for figure in FIGURES] if side else []
        cells = "".join(f"{f'{m.value:.2f} [{m.low:.2f}, {m.high:.2f}]':>28}" for m in found)
        size = side.find("size").value if side else 0.0
        print(f"{name:8}{cells}{f'{size:,.0f}':>14}")
        figures |= {f"{name}_{m.metric.name}_ms": m.value for m in found}
        if any(m.conditions.get("unstable") == "yes" for m in found):
            print(f"{'':8}unstable: the interval of the mean did not come within 5 % of it")
    speedup = measured.find("speedup")
    print(
        f"\nint8 is {speedup.value:.2f} x as fast [{speedup.low:.2f}, {speedup.high:.2f}], {speedup.n} pairs of blocks"
    )
    figures |= {"int8_speedup": speedup.value, "int8_speedup_low": speedup.low, "int8_speedup_high": speedup.high}
    print(json.dumps({"benchmark": "latency", **figures, "unstable": speedup.conditions.get("unstable", "no")}))


if __name__ == "__main__":
    main()
