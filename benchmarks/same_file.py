"""This file compares one file with itself, over and over, and counts how often the verdict is "no difference".

    python benchmarks/same_file.py [--quick] [--runs N] [--seconds S] [--threads N]

Every comparison loads the same bytes anew on both sides, as `dwindle compare A B` does, with its level of 99 %: of 20
comparisons at least 19 must find no difference. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch

from dwindle.bench.deployment import deploy
from dwindle.bench.machine import this_machine
from dwindle.bench.plan import Plan
from dwindle.bench.protocol import LatencyProtocol
from dwindle.bench.side_by_side import LEVEL, SideBySide, compare_files
from dwindle.network.compressed import CompressedModel
from dwindle.zoo.resnet_cifar import resnet20


def main() -> None:
    arguments = _arguments()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        model = CompressedModel.dense(resnet20().eval())
        path = deploy(model, torch.randn(2, 3, 32, 32), Path(folder), formats=("onnx",)).artifacts["onnx"].path
        print(f"resnet20, batch 1, {arguments.threads} thread(s), {this_machine().summary()}\n", flush=True)
        found = [_compare(path, seed, arguments) for seed in range(arguments.runs)]
    n_same = sum(not comparison.differs for comparison in found)
    half_widths = sorted((c.ratio.high - c.ratio.low) / 2 for c in found)
    median = half_widths[len(half_widths) // 2]
    print(f"\nno difference in {n_same} of {len(found)}; half an interval is {median:.2%} wide (median)")
    print(
        json.dumps(
            {
                "benchmark": "same_file",
                "n_runs": len(found),
                "n_no_difference": n_same,
                "share_no_difference": n_same / len(found),
                "median_half_width": median,
                "level": LEVEL,
                "ratios": [round(c.ratio.value, 5) for c in found],
            }
        )
    )


def _compare(path: Path, seed: int, arguments: argparse.Namespace) -> SideBySide:
    protocol = LatencyProtocol(level=LEVEL, seconds=arguments.seconds, seed=seed)
    found = compare_files(path, path, plan=Plan(n_threads=arguments.threads, latency=protocol))
    print(f"{seed:3}  {found.sentence()}", flush=True)
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 comparisons of at most a second a side")
    parser.add_argument("--runs", type=int, help="comparisons (20)")
    parser.add_argument("--seconds", type=float, help="time for each side of a comparison (5)")
    parser.add_argument("--threads", type=int, default=1, help="threads of the engine (1)")
    arguments = parser.parse_args()
    arguments.runs = arguments.runs or (5 if arguments.quick else 20)
    arguments.seconds = arguments.seconds or (1.0 if arguments.quick else 5.0)
    return arguments


if __name__ == "__main__":
    main()
