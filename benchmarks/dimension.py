"""This file compares the estimators of intrinsic dimension with scikit-dimension: same points, same settings.

    python benchmarks/dimension.py [--quick] [--peer PYTHON] [--features D ...] [--rounds N] [--threads N]

scikit-dimension need not be installed here: PYTHON is any interpreter that imports skdim. First both sides estimate on
small clouds: TwoNN by both fits, Levina-Bickel by both averages, PCA. Then TwoNN with the linear fit, which is
scikit-dimension's default, is timed on 5,000 points of a curved cloud with D coordinates each, in float64. Every run is
a fresh process, the sides take turns, and a coin decides who begins a round. A ratio has the t-interval of the mean of
its logarithms over rounds; where the machine has other work, that of CPU times, with one thread, says more. Memory is
what the process peaked at above what it held with the points read (Linux: VmHWM over VmRSS). Without the peer the
script says so and ends. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dwindle.bench.machine import this_machine
from dwindle.core.statistics import Interval, mean_interval

N_POINTS: Final = 5000
FEATURES: Final = (256, 16384)
OURS: Final = "dwindle"
PEER: Final = "scikit-dimension"

ESTIMATORS: Final = {
    OURS: """
import torch
from dwindle.core.dimension import levina_bickel, pca, two_nn
estimators = {
    "TwoNN, linear": lambda x: two_nn(torch.from_numpy(x), fit="linear").value,
    "TwoNN, likelihood": lambda x: two_nn(torch.from_numpy(x)).value,
    "Levina-Bickel, harmonic": lambda x: levina_bickel(torch.from_numpy(x)).value,
    "Levina-Bickel, mean": lambda x: levina_bickel(torch.from_numpy(x), average="mean").value,
    "PCA, 95 %": lambda x: pca(torch.from_numpy(x)).value,
}
""",
    PEER: """
import skdim
estimators = {
    "TwoNN, linear": lambda x: skdim.id.TwoNN(method="linear").fit(x).dimension_,
    "TwoNN, likelihood": lambda x: skdim.id.TwoNN(method="mle").fit(x).dimension_,
    "Levina-Bickel, harmonic": lambda x: skdim.id.MLE().fit(x, n_neighbors=20).dimension_,
    "Levina-Bickel, mean": lambda x: skdim.id.MLE(unbiased=True).fit(x, n_neighbors=20, comb="mean").dimension_,
    "PCA, 95 %": lambda x: skdim.id.lPCA(ver="ratio", alphaRatio=0.95, fit_explained_variance=False).fit(x).dimension_,
}
""",
}
"""What each side calls the same thing."""

CHILD: Final = """
import json, sys, time
from pathlib import Path
import numpy as np

def memory(field):
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))
    except OSError:
        return float("nan")

points = np.load(sys.argv[1])
for name in sys.argv[2:]:
    estimators[name](np.random.default_rng(0).standard_normal((64, 32)))  # whatever is loaded at the first call
    held, start, busy = memory("VmRSS"), time.perf_counter(), time.process_time()
    value = float(estimators[name](points))
    cost = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - busy}
    print(json.dumps({"name": name, "value": value, **cost, "bytes": memory("VmHWM") - held}))
"""


@dataclass(frozen=True)
class Run:
    """What one side answered in a fresh process, and what that cost."""

    name: str
    value: float
    seconds: float
    cpu_seconds: float
    bytes: float


def curved(n: int, d: int, *, n_dimensions: int = 8) -> NDArray[np.float64]:
    """Return sines of linear maps of a cube: a curved cloud of known dimension."""
    rng = np.random.default_rng(0)
    inner, maps = rng.random((n, n_dimensions)), 2.0 * rng.standard_normal((n_dimensions, d))
    points = inner @ maps
    return np.sin(points, out=points)


def ask(side: str, names: list[str], path: Path, *, options: argparse.Namespace) -> list[Run]:
    """Return what a fresh process of one side makes of the points in `path`."""
    python = options.peer if side == PEER else sys.executable
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(options.threads))
    command = [python, "-c", ESTIMATORS[side] + CHILD, str(path), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr}")
    return [Run(**json.loads(line)) for line in done.stdout.splitlines()]


def agreement(folder: Path, options: argparse.Namespace) -> float:
    """Print what both sides estimate; return the largest difference."""
    print(f"{'points':14}{'estimator':26}{OURS:>16}{PEER:>18}{'difference':>12}")
    largest = 0.0
    for n, d in ((300, 10), (1000, 40), (200, 1000)):
        np.save(folder / "small.npy", curved(n, d, n_dimensions=5))
        names = ["TwoNN, linear", "TwoNN, likelihood", "Levina-Bickel, harmonic", "Levina-Bickel, mean", "PCA, 95 %"]
        sides = [ask(side, names, folder / "small.npy", options=options) for side in (OURS, PEER)]
        for ours, theirs in zip(*sides, strict=True):
            gap = abs(ours.value - theirs.value)
            largest = max(largest, gap)
            print(f"{n:>5} x {d:<6}{ours.name:26}{ours.value:16.9f}{theirs.value:18.9f}{gap:12.1e}")
    return largest


def race(d: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Time both sides in turn on points with `d` coordinates; print and return what came out."""
    path = folder / "points.npy"
    np.save(path, curved(options.points, d))
    coin = random.Random(0)  # only who begins: not a matter of cryptography
    rounds: list[dict[str, Run]] = []
    for _ in range(options.rounds):
        order = coin.sample([OURS, PEER], 2)
        found = {side: ask(side, ["TwoNN, linear"], path, options=options)[0] for side in order}
        rounds.append(found)
        print(
            f"{options.points} x {d}: "
            + "; ".join(f"{s} {found[s].seconds:.2f} s, {found[s].bytes / 1e6:.0f} MB" for s in (OURS, PEER)),
            flush=True,
        )
    speedup = _ratio([found[PEER].seconds / found[OURS].seconds for found in rounds])
    cpu = _ratio([found[PEER].cpu_seconds / found[OURS].cpu_seconds for found in rounds])
    memory = max(found[OURS].bytes for found in rounds) / max(min(found[PEER].bytes for found in rounds), 1.0)
    print(f"  speedup {_text(speedup)}; CPU time {_text(cpu)}; memory {memory:.3f} of the peer's\n")
    return {
        "speedup": round(speedup.value, 3),
        "speedup_interval": [round(end, 3) for end in (speedup.low, speedup.high)],
        "cpu_ratio": round(cpu.value, 3),
        "memory_ratio": round(memory, 4),
        "difference": max(abs(found[OURS].value - found[PEER].value) for found in rounds),
        "seconds": {side: [round(found[side].seconds, 3) for found in rounds] for side in (OURS, PEER)},
        "megabytes": {side: [round(found[side].bytes / 1e6, 1) for found in rounds] for side in (OURS, PEER)},
    }


def _ratio(ratios: list[float]) -> Interval:
    """Return the geometric mean of ratios; of one alone nothing is known about its spread."""
    if len(ratios) < 2:
        return Interval(ratios[0], 0.0, math.inf, 1)
    mean = mean_interval([math.log(ratio) for ratio in ratios])
    return Interval(math.exp(mean.value), math.exp(mean.low), math.exp(mean.high), mean.n)


def _text(ratio: Interval) -> str:
    return f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}], n = {ratio.n}"


def main() -> None:
    """Print both tables, then one JSON object."""
    options = _options()
    peer = _version(options.peer)
    if peer is None:
        reason = f"{options.peer} does not import skdim; install scikit-dimension there or name another with --peer"
        print(f"skipped: {reason}")
        print(json.dumps({"benchmark": "dimension", "skipped": reason}))
        return
    print(f"{PEER} {peer}; {options.threads} threads; {this_machine().summary()}\n")
    with tempfile.TemporaryDirectory() as name:
        largest = agreement(Path(name), options)
        print()
        races = {str(d): race(d, Path(name), options) for d in options.features}
    largest = max([largest, *(found["difference"] for found in races.values())])
    figures: dict[str, Any] = {"max_abs_difference": largest}
    for key in ("speedup", "memory_ratio"):
        figures[f"{key}_vs_skdim"] = {d: found[key] for d, found in races.items()}
    print(json.dumps({"benchmark": "dimension", "peer": peer, "n_points": options.points, **figures, "races": races}))


def _version(python: str) -> str | None:
    """Return the version of scikit-dimension that `python` imports, None if it does not."""
    code = "import importlib.metadata, skdim; print(importlib.metadata.version('scikit-dimension'))"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="500 points, two rounds: does it run")
    parser.add_argument("--peer", default=sys.executable, help="an interpreter that imports skdim (this one)")
    parser.add_argument("--points", type=int, default=N_POINTS, help=f"of the timed clouds ({N_POINTS})")
    parser.add_argument("--features", type=int, nargs="*", default=list(FEATURES), help="their coordinates")
    parser.add_argument("--rounds", type=int, default=5, help="fresh processes of each side (5)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each process")
    options = parser.parse_args()
    if options.quick:
        options.points, options.rounds, options.features = 500, 2, [256]
    return options


if __name__ == "__main__":
    main()
