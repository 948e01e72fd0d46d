"""This file compares the container's coder with Huffman coding as in Deep Compression, zstd-19 and the order-0 entropy.

All sides store the same tensors: the weights of a trained ResNet-18, 90 % pruned by magnitude and shared among 16
centroids per tensor. Every table is counted on every side: our figure is the whole `.dwn` file, header and checksums
included. Times are CPU seconds of the process, the best of the repeats, from bytes in memory to float32 arrays and
back: every side computes in one thread, so this is the time of one core, whatever else the machine does.

    .venv/bin/python benchmarks/coder.py [--quick] [--checkpoint FILE]
"""

from __future__ import annotations

import argparse
import heapq
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import zstandard
from torch import nn
from torch.nn import functional

from dwindle.container import Contents, serialize
from dwindle.container.reader import open_bytes
from dwindle.container.records import CodebookRecord, DenseRecord, SparseRecord
from dwindle.core.codebook import kmeans_1d
from dwindle.core.sparsity import magnitude_support
from dwindle.zoo.resnet18_tian import resnet18_tian

Array = npt.NDArray[Any]

SPARSITY = 0.9
CODEBOOK_SIZE = 16
MIN_WEIGHTS = 100_000
LONGEST_GAP = 255
"""Deep Compression stores the distances of convolutions in 8 bits, and a filler zero where one is longer."""


@dataclass(frozen=True)
class Shared:
    """A pruned tensor: `levels` (uint8) is 0 where pruned, else 1 + the index of its centroid."""

    name: str
    levels: Array
    centroids: Array

    @property
    def floats(self) -> Array:
        """The decoded tensor."""
        return np.concatenate([np.zeros(1, np.float32), self.centroids])[self.levels]


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    name: str
    n_bytes: float
    encode_s: float | None = None
    decode_s: float | None = None


def trained_network(checkpoint: Path, *, seconds: float) -> tuple[nn.Module, str]:
    """Return `checkpoint` as a network, or one trained on enlarged digits where there is none."""
    torch.manual_seed(0)
    network = resnet18_tian(in_channels=1)
    if checkpoint.is_file():
        from safetensors.torch import load_file

        network.load_state_dict(load_file(checkpoint))
        return network, str(checkpoint)
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(images).float().reshape(-1, 1, 8, 8) / 16
    x = functional.interpolate(x, size=(33, 33), mode="bilinear")
    y = torch.from_numpy(labels)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-4)
    generator = torch.Generator().manual_seed(0)
    start, loss = time.perf_counter(), torch.zeros(())
    while time.perf_counter() - start < seconds:
        batch = torch.randint(0, len(x), (64,), generator=generator)
        loss = functional.cross_entropy(network(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network, f"resnet18_tian trained on digits for {seconds:.0f} s, last loss {loss.item():.3f}"


def compressed_tensors(network: nn.Module, *, n_tensors: int | None) -> list[Shared]:
    found: list[Shared] = []
    for name, weight in network.named_parameters():
        if weight.numel() < MIN_WEIGHTS:
            continue
        values = weight.detach()
        support = magnitude_support(values, SPARSITY)
        clusters = kmeans_1d(values[support], CODEBOOK_SIZE)
        levels = np.zeros(values.shape, dtype=np.uint8)
        levels[support.numpy()] = clusters.indices.numpy() + 1
        found.append(Shared(name, levels, clusters.centroids.numpy().astype(np.float32)))
    return found if n_tensors is None else sorted(found, key=lambda t: -t.levels.size)[:n_tensors]


def best_time(work: Callable[[], object], *, repeats: int) -> float:
    times: list[float] = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def measure_dwn(tensors: list[Shared], *, repeats: int) -> Result:
    records = {
        t.name: SparseRecord(
            t.levels > 0,
            CodebookRecord(np.maximum(t.levels, 1) - np.uint8(1), DenseRecord(t.centroids)),
        )
        for t in tensors
    }
    contents = Contents(records)
    data = serialize(contents)
    decoded = open_bytes(data).state_dict()
    for tensor in tensors:
        if not np.array_equal(decoded[tensor.name], tensor.floats):
            raise SystemExit(f"{tensor.name}: what was decoded is not what was encoded")
    encode_s = best_time(lambda: serialize(contents), repeats=max(repeats // 2, 1))
    return Result(".dwn (ANS)", len(data), encode_s, best_time(lambda: open_bytes(data).state_dict(), repeats=repeats))


def measure_zstd(tensors: list[Shared]) -> Result:
    compressor, decompressor = zstandard.ZstdCompressor(level=19), zstandard.ZstdDecompressor()
    start = time.process_time()
    frames = [compressor.compress(t.levels.tobytes()) for t in tensors]
    encode_s = time.process_time() - start

    def decode() -> list[Array]:
        tables = [np.concatenate([np.zeros(1, np.float32), t.centroids]) for t in tensors]
        pairs = zip(tables, frames, strict=True)
        return [table[np.frombuffer(decompressor.decompress(frame), np.uint8)] for table, frame in pairs]

    n_bytes = sum(len(f) + t.centroids.nbytes for f, t in zip(frames, tensors, strict=True))
    return Result("zstd-19 of one byte a weight", n_bytes, encode_s, best_time(decode, repeats=3))


def measure_huffman(tensors: list[Shared]) -> Result:
    start = time.process_time()
    coded = [(huffman_encode(gaps), huffman_encode(values)) for gaps, values in map(gaps_and_values, tensors)]
    encode_s = time.process_time() - start
    start = time.process_time()
    for tensor, (gaps, values) in zip(tensors, coded, strict=True):
        positions = np.cumsum(huffman_decode(*gaps).astype(np.int64) + 1) - 1
        levels = np.zeros(tensor.levels.size, dtype=np.uint8)
        levels[positions] = huffman_decode(*values)
        decoded = np.concatenate([np.zeros(1, np.float32), tensor.centroids])[levels]
        if not np.array_equal(decoded, tensor.floats.reshape(-1)):
            raise SystemExit(f"{tensor.name}: Huffman decoded something else than was encoded")
    decode_s = time.process_time() - start
    n_bytes = sum(table_bytes(lengths) + len(payload) for pair in coded for lengths, payload, _ in pair) + sum(
        t.centroids.nbytes for t in tensors
    )
    return Result("value + gap Huffman", n_bytes, encode_s, decode_s)


def gaps_and_values(tensor: Shared) -> tuple[Array, Array]:
    """Return distances up to 255 between stored weights, and their levels; a filler has level 0."""
    levels = tensor.levels.reshape(-1)
    kept = np.flatnonzero(levels)
    distances = np.diff(kept, prepend=-1) - 1
    n_fillers = distances // (LONGEST_GAP + 1)
    ends = np.cumsum(n_fillers + 1) - 1
    gaps = np.full(int((n_fillers + 1).sum()), LONGEST_GAP)
    values = np.zeros(gaps.size, dtype=np.int64)
    gaps[ends] = distances - n_fillers * (LONGEST_GAP + 1)
    values[ends] = levels[kept]
    return gaps, values


def code_lengths(symbols: Array) -> Array:
    """Return the lengths of an optimal prefix code (Huffman 1952), 0 for symbols that do not occur."""
    counts = np.bincount(symbols)
    heap = [(int(counts[s]), int(s), (int(s),)) for s in np.flatnonzero(counts)]
    lengths = np.zeros(counts.size, dtype=np.int64)
    lengths[heap[0][1]] = 1
    if len(heap) > 1:
        lengths[:] = 0
    heapq.heapify(heap)
    while len(heap) > 1:
        (a, i, left), (b, _, right) = heapq.heappop(heap), heapq.heappop(heap)
        lengths[list(left + right)] += 1
        heapq.heappush(heap, (a + b, i, left + right))
    return lengths


def table_bytes(lengths: Array) -> int:
    """Return the bytes of a canonical code's table: one length for each symbol, in as few bits as the longest needs."""
    return -(-lengths.size * int(lengths.max()).bit_length() // 8) + 2


def canonical_codes(lengths: Array) -> Array:
    codes, code, previous = np.zeros(lengths.size, dtype=np.int64), 0, 0
    for length, symbol in sorted((int(n), s) for s, n in enumerate(lengths) if n):
        code <<= length - previous
        codes[symbol], previous = code, length
        code += 1
    return codes


def huffman_encode(symbols: Array) -> tuple[Array, bytes, int]:
    lengths = code_lengths(symbols)
    codes, widths = canonical_codes(lengths)[symbols], lengths[symbols]
    starts = np.cumsum(widths) - widths
    bits = np.zeros(int(widths.sum()), dtype=np.uint8)
    for bit in range(int(widths.max())):
        has = widths > bit
        bits[starts[has] + bit] = (codes[has] >> (widths[has] - 1 - bit)) & 1
    return lengths, np.packbits(bits).tobytes(), symbols.size


def huffman_decode(lengths: Array, payload: bytes, n_symbols: int) -> Array:
    """Look up symbol and length at every bit offset, then walk from code to code."""
    longest = int(lengths.max())
    codes = canonical_codes(lengths)
    table = np.zeros(1 << longest, dtype=np.int64)
    for symbol in np.flatnonzero(lengths):
        first = int(codes[symbol]) << (longest - int(lengths[symbol]))
        table[first : first + (1 << (longest - int(lengths[symbol])))] = symbol
    bits = np.unpackbits(np.frombuffer(payload, np.uint8))
    padded = np.concatenate([bits, np.zeros(longest, np.uint8)])
    windows = np.zeros(bits.size, dtype=np.int32)
    for bit in range(longest):
        windows = (windows << 1) | padded[bit : bit + bits.size]
    at_offset = table[windows]
    steps = lengths[at_offset].tolist()
    offsets, offset = [0] * n_symbols, 0
    for i in range(n_symbols):
        offsets[i] = offset
        offset += steps[offset]
    return at_offset[offsets]


def entropy_bytes(tensors: list[Shared]) -> float:
    total = 0.0
    for tensor in tensors:
        counts = np.bincount(tensor.levels.reshape(-1)).astype(np.float64)
        counts = counts[counts > 0]
        total += float(-(counts * np.log2(counts / counts.sum())).sum()) / 8
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare coders on a pruned and clustered trained network.")
    parser.add_argument("--quick", action="store_true", help="three tensors, ten seconds of training")
    parser.add_argument("--checkpoint", type=Path, default=Path("out/fashion_mnist/dense_0.safetensors"))
    options = parser.parse_args()
    network, origin = trained_network(options.checkpoint, seconds=10 if options.quick else 60)
    torch.set_num_threads(1)
    tensors = compressed_tensors(network, n_tensors=3 if options.quick else None)
    n_weights = sum(t.levels.size for t in tensors)
    entropy = entropy_bytes(tensors)
    ours = measure_dwn(tensors, repeats=5 if options.quick else 9)
    huffman, zstd = measure_huffman(tensors), measure_zstd(tensors)
    print(f"{origin}: {len(tensors)} tensors, {n_weights:,} weights, sparsity {SPARSITY}, {CODEBOOK_SIZE} centroids")
    print(f"{'coder':30} {'bits/weight':>11} {'/ entropy':>10} {'encode Mw/s':>12} {'decode Mw/s':>12}")
    for side in (Result("order-0 entropy of {0, index}", entropy), ours, huffman, zstd):
        speeds = "".join(
            f" {n_weights / s / 1e6:12.1f}" if s else f" {'-':>12}" for s in (side.encode_s, side.decode_s)
        )
        print(f"{side.name:30} {side.n_bytes * 8 / n_weights:11.4f} {side.n_bytes / entropy:10.4f}{speeds}")
    figures = {
        "bits_over_entropy": ours.n_bytes / entropy,
        "bits_per_weight": ours.n_bytes * 8 / n_weights,
        "encode_mweights_per_s": n_weights / ours.encode_s / 1e6,
        "decode_mweights_per_s": n_weights / ours.decode_s / 1e6,
        "size_vs_huffman": ours.n_bytes / huffman.n_bytes,
        "size_vs_zstd": ours.n_bytes / zstd.n_bytes,
        "n_weights": n_weights,
        "network": origin,
    }
    print(json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in figures.items()}))


if __name__ == "__main__":
    main()
