"""This file prints how much of a call operations explain, and what quantizers cost: networks x engines.

python benchmarks/operator_profile.py [--quick] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

import dwindle as dw
from dwindle.artifact import Artifact
from dwindle.bench.machine import this_machine
from dwindle.bench.probes.operator_classes import ENGINE
from dwindle.bench.probes.operator_times import OperatorProfile, measure_operators
from dwindle.errors import DwindleError
from dwindle.runtimes.catalogue import RUNTIMES
from dwindle.zoo.mobilenet_v2 import mobilenet_v2
from dwindle.zoo.recurrent import sensor_lstm
from dwindle.zoo.resnet18_tian import resnet18_tian

N_RUNS = 100
BATCHES = (1, 8)
ENGINES = ("onnxruntime", "openvino")


def networks() -> dict[str, tuple[nn.Module, Tensor]]:
    """Return networks with random weights, which take as long as trained ones, and inputs for them."""
    torch.manual_seed(0)
    return {
        "resnet18_tian": (resnet18_tian(in_channels=3), torch.randn(16, 3, 33, 33)),
        "mobilenet_v2": (mobilenet_v2(in_channels=3, n_classes=10), torch.randn(16, 3, 32, 32)),
        "sensor_lstm": (sensor_lstm(), torch.randn(16, 9, 128)),
    }


def files(folder: Path) -> Iterator[tuple[str, Artifact, Tensor]]:
    """Yield each network as fp32 and with static int8, and inputs."""
    for name, (network, inputs) in networks().items():
        dense = dw.CompressedModel.dense(network.eval())
        context = dw.Context(example=inputs[:1], calibration=[inputs])
        for kind, model in (("fp32", dense), ("int8", dw.Recipe((dw.QuantizeStatic(),)).run(dense, context))):
            deployed = dw.deploy(model, inputs[:1], folder, formats=("onnx",), name=f"{name}_{kind}")
            yield f"{name} {kind}", deployed.artifacts["onnx"], inputs


def row(name: str, found: OperatorProfile) -> str:
    """Return a line of the table."""
    between, quantizing = found.share_of(ENGINE), found.quantizing
    largest = ", ".join(f"{each.group} {100 * each.share:.1f}" for each in found.classes[:3])
    interval = f"[{100 * quantizing.low:.2f}, {100 * quantizing.high:.2f}]"
    explained = f"{100 * found.coverage_of_operations:.1f} | {100 * between:.1f} | {100 * found.coverage:.1f}"
    figures = f"{found.unprofiled_ms:.3f} | {found.wall_ms:.3f} | {explained}"
    shares = f"{100 * quantizing.share:.2f} {interval}, {quantizing.n_operations} operations | {largest}"
    return f"| {name} | {found.batch} | {found.runtime} | {figures} | {shares} |"


def main() -> None:
    """Profile every file on every engine that is installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where the files are left; else they are removed")
    parser.add_argument("--quick", action="store_true", help="ten calls of each file: does it run")
    options = parser.parse_args()
    n_runs = 10 if options.quick else N_RUNS
    print(this_machine().summary(), f"one thread, {n_runs} calls", sep=", ", end="\n\n")
    print("| network | batch | engine | call, ms | profiled, ms | operations, % | engine, % | both, % |"
          " quantize + dequantize, % | largest classes, % |")  # fmt: skip
    print("|---|--:|---|--:|--:|--:|--:|--:|--:|---|")
    engines = [engine for name in ENGINES if (engine := RUNTIMES[name]()).unavailable() is None]
    with tempfile.TemporaryDirectory() as made:
        for name, artifact, inputs in files(options.out or Path(made)):
            for engine in engines:
                for batch in BATCHES:
                    try:
                        found = measure_operators(artifact, (inputs[:batch].numpy(),), engine, n_runs=n_runs)
                    except DwindleError as error:
                        print(f"| {name} | {batch} | {engine.name} | {error} |")
                        continue
                    print(row(name, found), flush=True)


if __name__ == "__main__":
    main()
