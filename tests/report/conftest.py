"""This file makes ledger entries that look like a real run: a ResNet-18 pruned, clustered and quantized."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

from dwindle.bench.ledger import Entry

CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
DENSE, DWN, ONNX = "d" * 64, "a1b2c3d4" * 8, "0f1e2d3c" * 8
MACHINE = "AMD EPYC 7763, 2 cores, 8.2 GB, Linux 6.8"
RECIPE = """[[steps]]
technique = "PruneWeights"
sparsity = 0.9

[steps.schedule]
type = "Polynomial"
power = 3

[[steps]]
technique = "FineTune"
epochs = 12

[[steps]]
technique = "Cluster"
codebook_size = 16
init = "linear"

[[steps]]
technique = "QuantizeStatic"
weights = 8
activations = 8
"""


def entry(kind, **data):
    return Entry(kind=kind, data=data, time="2026-11-22T08:00:00.000+00:00")


def run_entry():
    machine = {
        "cpu": "AMD EPYC 7763", "n_cores": 2, "memory_bytes": 8_201_322_496, "os": "Linux 6.8", "python": "3.11.2",
        "torch": "2.13.0", "onnxruntime": "1.25.1", "n_threads": 2,
    }  # fmt: skip
    data = {
        "name": "fashion_mnist",
        "n_train": 55_000,
        "n_validation": 5_000,
        "n_test": 10_000,
        "input_shape": [1, 33, 33],
    }
    return entry(
        "run", name="resnet18_tian on Fashion-MNIST", version="0.1.0", seed=7, recipe_toml=RECIPE, machine=machine,
        data=data, command="dwindle compress examples/fashion_mnist/job.toml",
    )  # fmt: skip


def curve(generator, *, epochs, start, end, accuracy):
    shape = [math.exp(-4 * i / max(1, epochs - 1)) for i in range(epochs)]
    noise = generator.normal(0, 0.004, (3, epochs))
    return [
        {
            "epoch": i + 1, "loss": end + (start - end) * s + noise[0, i], "learning_rate": 1e-3 * (1 - i / epochs),
            "seconds": 92.5, "validation_loss": end + 0.05 + (start - end) * 0.8 * s + 2 * abs(noise[1, i]),
            "validation_accuracy": accuracy - 0.05 * s + noise[2, i] / 3,
        }
        for i, s in enumerate(shape)
    ]  # fmt: skip


def stage_entries(generator):
    prune = curve(generator, epochs=8, start=0.42, end=0.24, accuracy=0.921)
    tune = curve(generator, epochs=12, start=0.23, end=0.14, accuracy=0.9325)
    share = curve(generator, epochs=5, start=0.22, end=0.15, accuracy=0.931)
    steps = (
        ("PruneWeights", {"sparsity": 0.9, "schedule": {"type": "Polynomial", "power": 3}}, prune, 771.4,
         {"sparsity_reached": 0.9, "thresholds": {"stem.0.weight": 0.0312, "stages.0.0.conv1.weight": 0.0278}}),
        ("FineTune", {"epochs": 12, "learning_rate": 0.001}, tune, 1120.8, {}),
        ("Cluster", {"codebook_size": 16, "init": "linear", "include_zeros": False}, share, 402.0,
         {"distortion": {"stem.0.weight": 1.3e-5, "head.weight": 8.8e-6}}),
        ("QuantizeStatic", {"weights": 8, "activations": 8, "calibration": {"type": "Percentile", "percentile": 99.99}},
         [], 31.2, {"clipped_fraction": 0.0001, "n_sites": 29}),
    )  # fmt: skip
    digests = ("3fa0c1d2e4b59687", "91be77aa03cd1245", "c0ffee1234567890", "7d2e9f0a1b3c4d5e")
    for (technique, settings, epochs, seconds, decisions), digest in zip(steps, digests, strict=True):
        yield entry(
            "stage", technique=technique, settings={"type": technique, **settings}, seed=7, version="0.1.0",
            decisions=decisions, curve=epochs, digest=digest, seconds=seconds,
        )  # fmt: skip


def artifact(role, path, fmt, sha, n_bytes):
    return entry(
        "artifact", role=role, path=path, format=fmt, sha256=sha, size_bytes=n_bytes, origin="c0ffee1234567890"
    )


def measured(role, name, unit, values, **more):
    """`values` is value, low, high, n; the rest has the defaults of an accuracy."""
    value, low, high, n = values
    base = {
        "artifact": DENSE if role == "dense" else DWN, "runtime": "onnxruntime 1.25.1", "machine": MACHINE,
        "protocol": "wilson", "conditions": {},
    }  # fmt: skip
    metric = {"name": name, "unit": unit, "better": 1 if unit in {"x", "fraction"} else -1}
    return entry("measurement", role=role, value=value, low=low, high=high, n=n, **{**base, **more}, metric=metric)


def measurement_entries():
    size = {"runtime": "none", "protocol": "bytes on disk"}
    ab = {"protocol": "latency", "conditions": {"n_threads": 1, "format": "dwn", "batch": 1}}
    yield measured("dense", "size", "bytes", (44_803_212, 44_803_212, 44_803_212, 1), **size)
    yield measured("compressed", "size", "bytes", (1_204_377, 1_204_377, 1_204_377, 1), **size)
    yield measured("compressed", "size", "bytes", (6_021_544, 6_021_544, 6_021_544, 1), **size, artifact=ONNX)
    yield measured("compressed", "compression_ratio", "x", (37.19, 37.19, 37.19, 1), **size)
    yield measured("compressed", "compression_ratio", "x", (7.44, 7.44, 7.44, 1), **size, artifact=ONNX)
    yield measured("dense", "accuracy", "fraction", (0.9342, 0.9292, 0.9389, 10_000))
    yield measured("compressed", "accuracy", "fraction", (0.9321, 0.927, 0.9369, 10_000))
    yield measured("dense", "top5_accuracy", "fraction", (0.9991, 0.9983, 0.9995, 10_000))
    yield measured("compressed", "top5_accuracy", "fraction", (0.9989, 0.998, 0.9994, 10_000))
    drop = {"conditions": {"n_threads": 1, "baseline": DENSE}, "protocol": "paired"}
    yield measured("compressed", "accuracy_drop", "points", (0.21, -0.05, 0.47, 10_000), **drop)
    for name, dense, small in (("latency", 12.62, 6.31), ("latency_median", 12.41, 6.18), ("latency_p90", 13.9, 7.02)):
        yield measured("dense", name, "ms", (dense, dense * 0.98, dense * 1.02, 400), **ab)
        yield measured("compressed", name, "ms", (small, small * 0.97, small * 1.03, 400), **ab)
    in_turn = {"protocol": "latency, interleaved", "conditions": {"n_threads": 1, "batch": 1, "baseline": DENSE}}
    yield measured("compressed", "speedup", "x", (2.01, 1.96, 2.06, 80), **in_turn)
    yield measured("compressed", "parity", "max absolute difference", (2.4e-6, 2.4e-6, 2.4e-6, 256), protocol="parity")
    yield measured("compressed", "top1_agreement", "fraction", (0.9996, 0.9978, 0.9999, 10_000), protocol="parity")


def layer_shapes():
    yield "stem.0.weight", (64, 1, 7, 7)
    widths = (64, 64, 128, 256, 512)
    for stage, (before, after) in enumerate(itertools.pairwise(widths)):
        for block, first in enumerate((before, after)):
            name = f"stages.{stage}.{block}"
            yield f"{name}.conv1.weight", (after, first, 3, 3)
            yield f"{name}.conv2.weight", (after, after, 3, 3)
            if first != after:
                yield f"{name}.shortcut.weight", (after, first, 1, 1)
    yield "head.weight", (10, 2048)


def tensor_entry(generator, name, shape):
    n_weights = math.prod(shape)
    spread = 1.4 / math.sqrt(n_weights / shape[0])
    kept = generator.laplace(0, spread, 4_000)
    kept = kept[np.abs(kept) > 0.5 * spread]
    counts, edges = np.histogram(kept, bins=80)
    counts = counts * round(0.1 * n_weights / len(kept) + 1)
    centroids = np.unique(np.quantile(kept, np.linspace(0.01, 0.99, 16)))
    encoded = round(n_weights * generator.uniform(0.078, 0.11)) + 48
    return entry(
        "tensor", name=name, shape=list(shape), structure="Sparse(Codebook(Affine))", n_weights=n_weights,
        raw_bytes=4 * n_weights, encoded_bytes=encoded, runtime_bytes=n_weights, sparsity=0.9, n_bits=4,
        histogram={"edges": edges.tolist(), "counts": counts.tolist()}, centroids=centroids.tolist(),
    )  # fmt: skip


def confusion_entry(generator, role, right):
    n = len(CLASSES)
    likely = np.full((n, n), 0.04)
    for i, j in itertools.permutations((0, 2, 3, 4, 6), 2):
        likely[i, j] = 3
    likely[0, 6] = likely[6, 0] = 9
    likely[5, 7] = likely[7, 9] = likely[9, 7] = 4
    np.fill_diagonal(likely, 0)
    rows = []
    for i in range(n):
        wrong = (1 - right) * likely[i].sum() / likely.sum(axis=1).mean()
        chances = wrong * likely[i] / likely[i].sum()
        chances[i] = 1 - chances.sum()
        rows.append(generator.multinomial(1_000, chances).tolist())
    return entry("confusion", role=role, class_names=CLASSES, counts=rows)


def latency_entry(generator, role, middle):
    samples = middle * (1 + 0.02 * generator.standard_normal(400)) + generator.exponential(0.05 * middle, 400)
    return entry(
        "latency_samples", role=role, artifact=DENSE if role == "dense" else DWN, runtime="onnxruntime 1.25.1",
        n_threads=1, batch=1, samples_ms=samples.tolist(),
    )  # fmt: skip


def realistic(seed=0):
    """Return the entries of a whole run with 21 layers."""
    generator = np.random.default_rng(seed)
    summary = {
        "compression_ratio": 37.19, "accuracy_drop_points": 0.21,
        "accuracy_drop_low": -0.05, "accuracy_drop_high": 0.47,
        "seconds": 2504.6,
    }  # fmt: skip
    return (
        run_entry(),
        artifact("dense", "dense.onnx", "onnx", DENSE, 44_803_212),
        *stage_entries(generator),
        artifact("compressed", "model.dwn", "dwn", DWN, 1_204_377),
        artifact("compressed", "model.onnx", "onnx", ONNX, 6_021_544),
        *measurement_entries(),
        *(tensor_entry(generator, name, shape) for name, shape in layer_shapes()),
        latency_entry(generator, "dense", 12.0),
        latency_entry(generator, "compressed", 6.0),
        confusion_entry(generator, "dense", 0.9342),
        confusion_entry(generator, "compressed", 0.9321),
        entry(
            "budget", verdict="met", bounds={"size": 1_300_000.0, "accuracy_drop": 0.5},
            verdicts={"size": "met", "accuracy_drop": "met"},
        ),
        entry("summary", **summary, budget="met"),
    )  # fmt: skip


@pytest.fixture(scope="session")
def entries() -> tuple[Entry, ...]:
    return realistic()


@pytest.fixture(scope="session")
def make_entry() -> Callable[..., Entry]:
    return entry
