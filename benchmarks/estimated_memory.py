"""This file compares the estimates of `dwindle fits` with what onnxruntime takes, on networks made for the purpose.

    python benchmarks/estimated_memory.py [--sizes 256 512]

A chain of convolutions and one with a residual hold large tensors and few weights; linear layers hold many weights and
small tensors. Each file is estimated from its graph and then run in fresh processes (the protocol `fresh process` of
docs/measuring.md). Memory counts, so a busy machine does not matter. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from dwindle.bench.any_file import measure_file
from dwindle.bench.file_needs import needs_of
from dwindle.bench.machine import this_machine
from dwindle.bench.plan import Plan

CHANNELS = 16
CHAIN = (
    ("Conv", "x w0", "a"), ("Relu", "a", "b"), ("Conv", "b w1", "c"), ("Relu", "c", "d"), ("Conv", "d w2", "e"),
    ("GlobalAveragePool", "e", "y"),
)  # fmt: skip
RESIDUAL = (
    ("Conv", "x w0", "a"), ("Relu", "a", "b"), ("Conv", "b w1", "c"), ("Add", "c b", "d"), ("Relu", "d", "e"),
    ("Conv", "e w2", "f"), ("GlobalAveragePool", "f", "y"),
)  # fmt: skip
LINEAR = (("MatMul", "x w", "a"), ("Relu", "a", "b"), ("MatMul", "b v", "y"))


def networks(sizes: list[int]) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Yield networks on images of each size, and linear layers of 16 million weights."""
    generator = np.random.default_rng(0)
    shapes = {"w0": (CHANNELS, 3, 3, 3), "w1": (CHANNELS, CHANNELS, 3, 3), "w2": (CHANNELS, CHANNELS, 3, 3)}
    kernels = {name: generator.standard_normal(shape, dtype=np.float32) / 12 for name, shape in shapes.items()}
    for size in sizes:
        yield f"chain, {size} x {size}", model(CHAIN, kernels, [1, 3, size, size])
        yield f"residual, {size} x {size}", model(RESIDUAL, kernels, [1, 3, size, size])
    layers = {"w": generator.standard_normal((2000, 4000), dtype=np.float32) / 50}
    layers["v"] = generator.standard_normal((4000, 2000), dtype=np.float32) / 50
    yield "linear, 16 million weights", model(LINEAR, layers, [1, 2000])


def model(
    layers: tuple[tuple[str, str, str], ...], weights: dict[str, npt.NDArray[Any]], shape: list[int]
) -> onnx.ModelProto:
    """Return a network from x to y."""
    padding = {"Conv": {"pads": [1, 1, 1, 1]}}
    nodes = [helper.make_node(op, inputs.split(), [output], **padding.get(op, {})) for op, inputs, output in layers]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def compare(path: Path) -> dict[str, float]:
    """Return estimated and measured bytes of the file at `path`."""
    needs = needs_of(path)
    plan = Plan(latency=None, throughput_batch=None, cpu_time=False, load_time=False, memory=True)
    found = {m.metric.name: m.value for m in measure_file(path, plan=plan).measurements}
    return {
        "weights": needs.weights.value if needs.weights else 0.0,
        "loaded": found["memory_loaded"] - found["memory_baseline"],
        "activations": needs.activations.value if needs.activations else 0.0,
        "run": found["memory_peak"] - found["memory_loaded"],
    }


def main() -> None:
    """Print a table, then one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512], help="height and width of the images")
    arguments = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    print(f"{'MB':28} {'weights':>9} {'loaded':>9} {'activations':>12} {'run':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for name, built in networks(arguments.sizes):
            path = Path(folder) / "network.onnx"
            onnx.save(built, path)
            results[name] = found = compare(path)
            print(f"{name:28} {found['weights'] / 1e6:9.2f} {found['loaded'] / 1e6:9.2f}", end=" ")
            print(f"{found['activations'] / 1e6:12.2f} {found['run'] / 1e6:9.2f}")
    print(json.dumps({"machine": this_machine().summary(), "results": results}))


if __name__ == "__main__":
    main()
