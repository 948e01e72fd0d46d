"""This file measures what decoding a `.dwn` file costs a device: peak memory over the decoded weights, and seconds.

    python benchmarks/decode_memory.py [--quick] [--file FILE]

20 million weights, 17 million of them in one layer as in a VGG's classifier, are written in several forms. Each file is
then decoded in a fresh process that imports NumPy and constriction but no torch. Its peak is the largest resident set
(Linux: VmHWM) above the one after the imports, so the result itself, the bytes of the file and every temporary count.
`read_weights` writes tensor after tensor into its array; `read().state_dict()` keeps the records besides.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dwindle.bench.machine import this_machine
from dwindle.container import Contents, write
from dwindle.container.records import AffineRecord, CodebookRecord, DenseRecord, HalfRecord, Record, SparseRecord

Array = npt.NDArray[Any]

SHAPES = {"classifier": (4096, 4096), "conv.3": (512, 256, 3, 3), "conv.2": (256, 256, 3, 3), "head": (1500, 1000)}
"""20 million weights; the largest layer alone is 17 million, so decoding tensor by tensor is not enough."""
SPARSITY = 0.9
CODEBOOK_SIZE = 16
LIMIT = 1.3
"""Peak over decoded bytes that the project promises."""

CHILD = """
import resource, sys, time
from pathlib import Path
from dwindle.container import read, read_weights

def peak_bytes():
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

path, way = Path(sys.argv[1]), sys.argv[2]
before, start = peak_bytes(), time.process_time()
weights = read_weights(path) if way == "weights" else read(path).state_dict()
seconds = time.process_time() - start
peak = peak_bytes() - before
print(peak, sum(array.nbytes for array in {id(a): a for a in weights.values()}.values()), seconds)
"""


@dataclass(frozen=True)
class Cost:
    """What one process paid."""

    peak_bytes: int
    decoded_bytes: int
    seconds: float

    @property
    def ratio(self) -> float:
        """Peak over decoded bytes."""
        return self.peak_bytes / self.decoded_bytes


def forms() -> dict[str, Callable[[Array], Record]]:
    """Return the ways in which a weight is stored, by name."""
    return {
        "Sparse(Codebook(16, Affine))": lambda w: SparseRecord(_support(w), _codebook(w, _codes(_levels(w), 1))),
        "Sparse(Affine(8 bit))": lambda w: SparseRecord(_support(w), _codes(w, len(w))),
        "Codebook(16, Dense)": lambda w: _codebook(w, DenseRecord(_levels(w))),
        "Affine(8 bit) per channel": lambda w: _codes(w, len(w)),
        "Half": lambda w: HalfRecord(w.astype(np.float16)),
        "Dense": DenseRecord,
    }


def _support(weight: Array) -> npt.NDArray[np.bool_]:
    magnitude = np.abs(weight)
    return magnitude > np.quantile(magnitude.reshape(-1)[:: max(weight.size // 100_000, 1)], SPARSITY)


def _levels(weight: Array) -> Array:
    return np.linspace(-3 * weight.std(), 3 * weight.std(), CODEBOOK_SIZE, dtype=np.float32)


def _codebook(weight: Array, centroids: DenseRecord | AffineRecord) -> CodebookRecord:
    levels = _levels(weight)
    indices = np.searchsorted((levels[1:] + levels[:-1]) / 2, weight)
    return CodebookRecord(indices.astype(np.uint8), centroids)


def _codes(weight: Array, n_scales: int) -> AffineRecord:
    rows = weight.reshape(n_scales, -1)
    scale = (np.abs(rows).max(axis=1) / 127).astype(np.float32)
    codes = np.rint(rows / scale[:, None]).astype(np.int32).reshape(weight.shape)
    granularity = ("tensor",) if n_scales == 1 else ("channel", 0)
    return AffineRecord(codes, scale, np.zeros(n_scales, np.int32), granularity, 8, signed=True)


def weights(*, share: float) -> Iterator[tuple[str, Array]]:
    """Yield weights with the heavy tails of trained ones; `share` of the rows of each tensor."""
    rng = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        rows = max(int(shape[0] * share), 1)
        yield name, (rng.standard_t(4, (rows, *shape[1:])) * 0.02).astype(np.float32)


def measure(path: Path, way: str) -> Cost:
    """Decode `path` in a fresh process."""
    command = [sys.executable, "-c", CHILD, str(path), way]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"decoding {path} failed:\n{done.stderr}")
    peak_bytes, decoded_bytes, seconds = done.stdout.split()
    return Cost(int(peak_bytes), int(decoded_bytes), float(seconds))


def report(name: str, path: Path) -> Cost:
    """Print one line of the table and return what `read_weights` paid."""
    ours, records = measure(path, "weights"), measure(path, "records")
    print(
        f"{name:30} {path.stat().st_size / 1e6:9.2f} {ours.decoded_bytes / 1e6:12.2f} {ours.peak_bytes / 1e6:9.2f} "
        f"{ours.ratio:8.3f} {ours.seconds:7.2f} {records.ratio:14.3f} {records.seconds:7.2f}",
        flush=True,
    )
    return ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 million weights instead of 20")
    parser.add_argument("--file", type=Path, help="a .dwn file to measure instead")
    options = parser.parse_args()
    print(f"peak memory above the imports, CPU seconds; {this_machine().summary()}\n")
    print(f"{'':30} {'':9} {'':12} {'read_weights':>26} {'read().state_dict()':>22}")
    print(f"{'form':30} {'file MB':>9} {'decoded MB':>12} {'peak MB':>9} {'ratio':>8} {'s':>7} {'ratio':>14} {'s':>7}")
    costs: dict[str, Cost] = {}
    if options.file:
        costs[str(options.file)] = report(options.file.name, options.file)
    else:
        with tempfile.TemporaryDirectory() as folder:
            for name, form in forms().items():
                path = Path(folder) / "m.dwn"
                write(path, Contents({k: form(w) for k, w in weights(share=0.25 if options.quick else 1.0)}))
                costs[name] = report(name, path)
    worst = max(costs, key=lambda name: costs[name].ratio)
    print(f"\nworst: {worst}, {costs[worst].ratio:.3f} times its decoded bytes (promised: {LIMIT})")
    figures = {
        "decoder_peak_ratio": round(costs[worst].ratio, 4),
        "decode_s": {name: round(cost.seconds, 3) for name, cost in costs.items()},
        "peak_ratio": {name: round(cost.ratio, 4) for name, cost in costs.items()},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
