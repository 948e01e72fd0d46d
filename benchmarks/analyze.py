"""This file analyzes every network of the zoo of at most 12 million parameters, and prints how long each one takes.

    python benchmarks/analyze.py [NAME ...] [--threads N]

The weights are random and so are inputs and labels: how long it takes hardly depends on values. The target is 60 s on
two cores for each. Seconds of the wall and of the processor stand side by side: on a busy machine only the latter mean
anything. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from dwindle.bench.machine import this_machine
from dwindle.job.analyze import analyze
from dwindle.network.labelled import Labelled
from dwindle.network.significance.criterion import Evidence
from dwindle.report.analysis import write_analysis
from dwindle.zoo.networks import NETWORKS

MOST_PARAMETERS: Final = 12_000_000
TARGET_S: Final = 60.0
SHAPES: Final = {"sensor_lstm": (9, 128), "sensor_gru": (9, 128), "resnet18_tian": (3, 33, 33)} | dict.fromkeys(
    ("resnet18", "mobilenet_v1", "mobilenet_v2"), (3, 224, 224)
)
N_INPUTS: Final = 1_000
N_AT_ONCE: Final = 16


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.threads} thread(s), {this_machine().summary()}\n", flush=True)
    rows = {name: _row(name) for name in arguments.names or _small_networks()}
    slowest = max(rows, key=lambda name: rows[name]["seconds"])
    print(
        json.dumps(
            {
                "benchmark": "analyze",
                "target_s": TARGET_S,
                "slowest": slowest,
                "slowest_s": rows[slowest]["seconds"],
                "n_threads": arguments.threads,
                "networks": rows,
            }
        )
    )


def _small_networks() -> list[str]:
    return [name for name, build in NETWORKS.items() if _n_parameters(build()) <= MOST_PARAMETERS]


def _n_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _row(name: str) -> dict[str, Any]:
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    evidence = _evidence(name, network)
    started, worked = time.perf_counter(), time.process_time()
    found = analyze(network, evidence, name=name)
    with tempfile.TemporaryDirectory() as folder:
        n_bytes = write_analysis(found.to_plain(), Path(folder) / "analysis.html").stat().st_size
    row = {
        "parameters": _n_parameters(network),
        "layers": len(found.layers),
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - worked, 1),
        "page_bytes": n_bytes,
        "criteria": {j.name: _words(j.problem, j.seconds, j.settings) for j in found.judgements},
        "problem": found.timed.problem,
    }
    print(f"{name:20} {row['seconds']:6.1f} s, processor {row['cpu_seconds']:6.1f} s, {row['layers']:3} layers")
    for criterion, words in row["criteria"].items():
        print(f"    {criterion:14} {words}", flush=True)
    return row


def _words(problem: str, seconds: float, settings: Mapping[str, Any]) -> str:
    return f"{seconds:.1f} s, n = {settings.get('n_examples', 0)}{', ' + problem if problem else ''}"


def _evidence(name: str, network: nn.Module) -> Evidence:
    shape = SHAPES.get(name, (9, 1, 128) if name.endswith("_har") else (3, 32, 32))
    generator = torch.Generator().manual_seed(1)
    n = min(N_INPUTS, 200_000_000 // (4 * torch.Size(shape).numel()))
    inputs = torch.randn(n, *shape, generator=generator)
    with torch.no_grad():
        width = network(inputs[:2]).shape[1]
    is_binary = width == 1
    targets = torch.randint(2 if is_binary else width, (n,), generator=generator)
    batches = [
        (inputs[start : start + N_AT_ONCE], targets[start : start + N_AT_ONCE]) for start in range(0, n, N_AT_ONCE)
    ]
    loss = _of_probabilities if is_binary else functional.cross_entropy
    return Evidence(
        example=inputs[:2],
        inputs=[part for part, _ in batches],
        validation=Labelled(batches=batches, base_loss=loss),
    )


def _of_probabilities(output: Tensor, target: Tensor) -> Tensor:
    return functional.binary_cross_entropy(output.squeeze(1), target.float())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="networks of the zoo (all small ones)")
    parser.add_argument("--threads", type=int, default=2, help="threads that compute (2)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
