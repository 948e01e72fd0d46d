"""This file mutates `.dwn` files and demands that the reader answers with contents or a ContainerError.

    .venv/bin/python fuzz/fuzz_reader.py [--seconds 60] [--seed 0]

Checksums are repaired after most mutations, so that they reach the decoders behind. A finding is written to the
working folder as `finding-<seed>-<number>.dwn` and ends the run with a traceback.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dwindle.container import Contents, Limits, parse, serialize
from dwindle.container.blocks import decompress
from dwindle.container.header import PREAMBLE_BYTES, Preamble
from dwindle.container.reader import open_bytes
from dwindle.container.records import AffineRecord, CodebookRecord, DenseRecord, HalfRecord, ScaledRecord, SparseRecord
from dwindle.errors import ContainerError
from fuzz.forge import forge, resealed

LIMITS = Limits(n_elements=1 << 20, header_bytes=1 << 20, graph_bytes=1 << 20)
SLOWEST_S = 5.0
"""A single small file that takes longer hangs for practical purposes."""


def seeds() -> list[bytes]:
    """Return files that use every kind of record; headers are stored plainly, so that mutations hit them."""
    rng = np.random.default_rng(0)
    shape = (40, 50)
    support = rng.random(shape) < 0.1
    indices = rng.binomial(15, 0.4, shape).astype(np.uint8)
    book = CodebookRecord(indices, DenseRecord(rng.normal(size=16).astype(np.float32)))
    codes = AffineRecord(
        rng.binomial(255, 0.5, shape).astype(np.int32) - 128,
        rng.uniform(0.1, 1, 40).astype(np.float32),
        np.zeros(40, np.int32),
        granularity=("channel", 0),
        n_bits=8,
        signed=True,
    )
    records = {
        "dense": DenseRecord(rng.normal(size=300).astype(np.float32)),
        "half": HalfRecord(rng.normal(size=300).astype(np.float16)),
        "zero": DenseRecord(np.zeros(5, np.int64)),
        "book": book,
        "codes": codes,
        "sparse": SparseRecord(support, book),
        "sparse.codes": SparseRecord(support, codes),
        "scaled": ScaledRecord(SparseRecord(support, book), np.ones(40, np.float32), 0),
    }
    return [
        serialize(Contents(records, {"tied": "book"}, b"graph" * 20, {"a": [1, 2.5, None]})),
        *(_plain(serialize(Contents({name: record}))) for name, record in records.items()),
    ]


def _plain(data: bytes) -> bytes:
    preamble = Preamble.parse(data[:PREAMBLE_BYTES], len(data), LIMITS)
    graph = PREAMBLE_BYTES + preamble.header_stored
    header = decompress(preamble.header_codec, data[PREAMBLE_BYTES:graph], preamble.header_raw)
    return forge(header, data[graph + preamble.graph_stored :], version=preamble.version)


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Return `data` with one to four small accidents."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        position = int(rng.integers(0, max(len(changed), 1)))
        match int(rng.integers(0, 6)):
            case 0:
                changed[position] ^= 1 << int(rng.integers(0, 8))
            case 1:
                changed[position] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, ord("9"), ord("-"), ord("["), ord('"')]))
            case 2:
                del changed[position : position + int(rng.integers(1, 9))]
            case 3:
                changed[position:position] = rng.bytes(int(rng.integers(1, 9)))
            case 4:
                source = int(rng.integers(0, max(len(changed), 1)))
                length = int(rng.integers(1, 33))
                changed[position : position + length] = changed[source : source + length]
            case _:
                changed[position : position + 4] = rng.bytes(4)
        if not changed:
            return b""
    return bytes(changed)


def try_both_ways(data: bytes) -> None:
    """Read `data` as records and straight into arrays.

    Raises:
        ContainerError: both ways refuse it.
        AssertionError: they differ.
    """
    arrays: dict[str, np.ndarray] | None = None
    try:
        arrays = open_bytes(data, limits=LIMITS).state_dict()
    finally:
        try:
            records = parse(data, limits=LIMITS).state_dict()
        except ContainerError:
            if arrays is not None:
                raise AssertionError("the records are refused, the arrays are not") from None
        else:
            if arrays is None or any(arrays[name].tobytes() != records[name].tobytes() for name in records):
                raise AssertionError("records and arrays differ")


def fuzz(*, seconds: float, seed: int, folder: Path | None = None) -> int:
    """Return how many mutated files were tried within `seconds`.

    Raises:
        Exception: whatever the reader raised that it should not; the file is kept in `folder` if there is one.
    """
    rng = np.random.default_rng(seed)
    pool = seeds()
    end, n_tried = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        data = mutate(pool[int(rng.integers(0, len(pool)))], rng)
        if rng.random() < 0.9:
            data = resealed(data)
        start = time.monotonic()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                try_both_ways(data)
        except ContainerError:
            pass
        except BaseException:
            if folder is not None:
                (folder / f"finding-{seed}-{n_tried}.dwn").write_bytes(data)
            raise
        if time.monotonic() - start > SLOWEST_S:
            raise TimeoutError(f"file {n_tried} of seed {seed} took {time.monotonic() - start:.1f} s")
        n_tried += 1
    return n_tried


def main() -> None:
    """Fuzz for a while."""
    parser = argparse.ArgumentParser(description="Mutate .dwn files until the reader misbehaves or the time is up.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    n_tried = fuzz(seconds=options.seconds, seed=options.seed, folder=Path.cwd())
    sys.stdout.write(f"{n_tried} files of seed {options.seed}: every one read or refused\n")


if __name__ == "__main__":
    main()
