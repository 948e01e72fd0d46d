"""This file times a network as fp32 and as static int8 in turn, on ONNX Runtime.

    python benchmarks/latency.py [--quick] [--network NAME] [--threads N] [--seconds S]
                                    [--saturating] [--weights BITS]

The peer is onnxruntime's own `quantize_static` (8 bits, per channel) on the same fp32 file.

The networks are `resnet18` at 224 x 224 (the default), `resnet18_tian` at 33 x 33 (that of `--quick`), and `resnet20`
at 32 x 32. Latency does not depend on the values of the weights, so they are random. `--saturating` lets 8-bit products
overflow on processors without VNNI, as the engine does by default: faster, and another model's answers. The last line
is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from dwindle.artifact import Artifact
from dwindle.bench.deployment import deploy
from dwindle.bench.machine import this_machine
from dwindle.bench.measure import Measured, measure
from dwindle.bench.plan import Plan
from dwindle.bench.protocol import LatencyProtocol
from dwindle.network.compressed import CompressedModel
from dwindle.recipe import Recipe
from dwindle.runtimes.onnxruntime import OnnxRuntime
from dwindle.technique import Context
from dwindle.techniques.fold_batchnorm import FoldBatchNorm
from dwindle.techniques.quantize_static import QuantizeStatic
from dwindle.zoo.resnet import resnet18
from dwindle.zoo.resnet18_tian import resnet18_tian
from dwindle.zoo.resnet_cifar import resnet20

FIGURES = ("latency", "latency_median", "latency_p90")
NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (resnet18, 224),
    "resnet18_tian": (resnet18_tian, 33),
    "resnet20": (resnet20, 32),
}
"""Each with the height and width of its input."""
N_CALIBRATION = 8


def main() -> None:
    arguments = _arguments()
    build, size = NETWORKS[arguments.network]
    torch.manual_seed(0)
    examples = torch.randn(N_CALIBRATION, 3, size, size)
    dense = CompressedModel.dense(build().eval())
    context = Context(example=examples[:2], calibration=[examples])
    int8 = Recipe((FoldBatchNorm(), QuantizeStatic(weights=arguments.weights))).run(dense, context)
    plan = Plan(
        n_threads=arguments.threads, batch_size=N_CALIBRATION, latency=LatencyProtocol(seconds=arguments.seconds)
    )
    with tempfile.TemporaryDirectory() as folder:
        files = [
            deploy(model, examples[:2], Path(folder), formats=("onnx",), name=name).artifacts["onnx"]
            for name, model in (("fp32", dense), ("int8", int8))
        ]
        data = TensorDataset(examples, torch.zeros(len(examples), dtype=torch.int64))
        runtime = OnnxRuntime(is_exact=not arguments.saturating)
        measured = measure(files[1], data, dense=files[0], plan=plan, runtime=runtime)
        peer = measure(_by_onnxruntime(files[0], examples), data, dense=files[0], plan=plan, runtime=runtime)
    _print(measured, f"{arguments.network} at {size} x {size}, {arguments.threads} thread(s)", peer=peer)


def _by_onnxruntime(fp32: Artifact, examples: Tensor) -> Artifact:
    """Return what onnxruntime's own tools make of the fp32 file, in the form that is fastest on x86."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.inputs = iter([{"x": example.numpy()} for example in examples.split(1)])

        def get_next(self) -> dict[str, Any] | None:
            return next(self.inputs, None)

    prepared, target = fp32.path.with_name("prepared.onnx"), fp32.path.with_name("peer.onnx")
    quant_pre_process(str(fp32.path), str(prepared))
    quantization.quantize_static(
        str(prepared),
        str(target),
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )
    return Artifact.of(target)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="resnet18_tian, at most 3 seconds a side")
    parser.add_argument("--network", choices=sorted(NETWORKS), help="what is timed (resnet18)")
    parser.add_argument("--threads", type=int, default=1, help="threads of the engine (1)")
    parser.add_argument("--seconds", type=float, help="time for each side (40)")
    parser.add_argument("--saturating", action="store_true", help="let 8-bit products overflow where they would")
    parser.add_argument("--weights", type=int, default=8, help="bits of ours; 7 cannot overflow (8)")
    arguments = parser.parse_args()
    arguments.network = arguments.network or ("resnet18_tian" if arguments.quick else "resnet18")
    arguments.seconds = arguments.seconds or (3.0 if arguments.quick else 40.0)
    return arguments


def _print(measured: Measured, what: str, *, peer: Measured) -> None:
    sides = {"fp32": measured.dense, "int8": measured, "peer": peer}
    print(f"{what}, batch 1, {measured.find('latency').runtime}, {this_machine().summary()}\n")
    print(f"{'':8}" + "".join(f"{name + ' [ms]':>28}" for name in FIGURES) + f"{'size':>14}")
    figures: dict[str, float | str] = {"network": what}
    for name, side in sides.items():
        found = [side.find(figure) for figure in FIGURES] if side else []
        cells = "".join(f"{f'{m.value:.2f} [{m.low:.2f}, {m.high:.2f}]':>28}" for m in found)
        size = side.find("size").value if side else 0.0
        print(f"{name:8}{cells}{f'{size:,.0f}':>14}")
        figures |= {f"{name}_{m.metric.name}_ms": m.value for m in found}
        if any(m.conditions.get("unstable") == "yes" for m in found):
            print(f"{'':8}unstable: the interval of the mean did not come within 5 % of it")
    print()
    for name, side in (("int8", measured), ("peer", peer)):
        speedup = side.find("speedup")
        print(f"{name} is {speedup.value:.2f} x as fast [{speedup.low:.2f}, {speedup.high:.2f}], {speedup.n} rounds")
        ends = {"": speedup.value, "_low": speedup.low, "_high": speedup.high}
        figures |= {f"{name}_speedup{end}": value for end, value in ends.items()}
        figures |= {f"{name}_unstable": speedup.conditions.get("unstable", "no")}
    print(json.dumps({"benchmark": "latency", **figures}))


if __name__ == "__main__":
    main()
