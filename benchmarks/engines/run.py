"""This file compares one trained network, fp32 and static int8, on every engine: speed, size, accuracy, parity.

    python benchmarks/engines/run.py [--quick] [--out FOLDER] [--ledger FILE] [--seconds S] [--weights BITS] [--memory]

The network is ResNet-18 on Fashion-MNIST, trained by `examples/fashion_mnist/train.py` (`--checkpoint`); the images
come from where `DWINDLE_DATA` says. `--quick` trains a small network on the embedded digits instead. It is deployed as
fp32 and as static int8, each as .onnx, .dwn, .tflite, .pte and .xml; a format whose converter is missing is named and
left out. All files then go through one comparison: onnxruntime, LiteRT, ExecuTorch, OpenVINO, and torch.

Weights have 7 bits by default (`--weights`): processors without VNNI add pairs of 8-bit products in 16 bits, where
weights of 8 bits may overflow; OpenVINO has no option against it. The files hold int8 numbers either way.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from page import ENTRY, page
from torch import Tensor, nn
from torch.nn import functional

from dwindle.bench.across_engines import compare_across, record_across
from dwindle.bench.any_file import Source
from dwindle.bench.deployment import EXPORTERS, deploy
from dwindle.bench.ledger import Ledger
from dwindle.bench.plan import Plan
from dwindle.bench.protocol import LatencyProtocol
from dwindle.cli.across import plain_across, print_across
from dwindle.data.digits import load_digits_splits
from dwindle.data.fashion_mnist import load_fashion_mnist
from dwindle.data.splits import Splits
from dwindle.errors import ExportError
from dwindle.exporters.options import ExportOptions
from dwindle.network.checkpoint import load_checkpoint
from dwindle.network.compressed import CompressedModel
from dwindle.recipe import Recipe
from dwindle.runtimes.torch import TorchRuntime
from dwindle.technique import Context
from dwindle.techniques.fold_batchnorm import FoldBatchNorm
from dwindle.techniques.quantize_static import QuantizeStatic
from dwindle.zoo.resnet18_tian import resnet18_tian

ROOT = Path(__file__).resolve().parents[2]
N_CALIBRATION = 1024
QUICK_EPOCHS = 5


@dataclass(frozen=True, kw_only=True)
class Task:
    """A network, trained, with its data."""

    name: str
    build: Callable[[], nn.Module]
    network: nn.Module
    data: Splits


def main() -> None:
    arguments = _arguments()
    torch.manual_seed(0)
    task = _digits() if arguments.quick else _fashion_mnist(arguments.checkpoint)
    files = _deployed(task, arguments.out, weights=arguments.weights)
    examples = arguments.out / "test.npz"
    _save_test(task, examples, n=arguments.examples)
    plan = Plan(
        n_threads=arguments.threads, latency=LatencyProtocol(seconds=arguments.seconds), memory=arguments.memory
    )
    engines = (TorchRuntime(network=task.build),)
    found = compare_across(files, engines=engines, plan=plan, source=Source(labelled=examples), progress=print)
    ledger = Ledger(arguments.ledger or arguments.out / "engines.jsonl")
    record_across(ledger, found)
    settings = {"weights": arguments.weights, "n_threads": arguments.threads, "seconds": arguments.seconds}
    ledger.append(ENTRY, {"task": task.name, **settings, "compared": plain_across(found)})
    print_across(found)
    written = ledger.path.with_suffix(".md")
    written.write_text(page(ledger.read(), made_from=f"Generated from `{ledger.path.name}`."), encoding="utf-8")
    print(f"{ledger.path}\n{written}")


def _fashion_mnist(checkpoint: Path) -> Task:
    if not checkpoint.is_file():
        raise SystemExit(f"{checkpoint} is missing; run examples/fashion_mnist/train.py, or give --quick")
    network = _grey_resnet18()
    load_checkpoint(network, checkpoint)
    data = load_fashion_mnist(size=33)
    return Task(name="ResNet-18 on Fashion-MNIST", build=_grey_resnet18, network=network.eval(), data=data)


def _grey_resnet18() -> nn.Module:
    return resnet18_tian(in_channels=1)


def _digits() -> Task:
    data, network = load_digits_splits(), _small()
    _train(network, *data.train.tensors)
    return Task(name="a small network on the digits", build=_small, network=network.eval(), data=data)


def _small() -> nn.Module:
    layers = (
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3),
        nn.ReLU(),
    )
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(576, 10))


def _train(network: nn.Module, images: Tensor, targets: Tensor) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(QUICK_EPOCHS):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(network(images[batch]), targets[batch]).backward()
            optimizer.step()


def _deployed(task: Task, folder: Path, *, weights: int) -> list[Path]:
    """Write fp32 and int8 in every format that can be written here; all of fp32 first, so that it is the baseline."""
    calibration = task.data.train.tensors[0][:N_CALIBRATION]
    context = Context(example=calibration[:1], calibration=list(calibration.split(64)))
    dense = CompressedModel.dense(task.network)
    int8 = Recipe((FoldBatchNorm(), QuantizeStatic(weights=weights))).run(dense, context)
    found = [_write(model, calibration[:1], folder / name) for name, model in (("fp32", dense), ("int8", int8))]
    return [path for paths in found for path in paths]


def _write(model: CompressedModel, example: Tensor, stem: Path) -> list[Path]:
    paths: list[Path] = []
    for file_format in ("onnx", *(known for known in EXPORTERS if known != "onnx")):
        # A batch of one is what .tflite and .pte fix anyway, and the shape that OpenVINO plans for.
        options = ExportOptions(batch_size=None if file_format == "dwn" else 1)
        try:
            made = deploy(model, example, stem.parent, formats=(file_format,), options=options, name=stem.name)
        except ExportError as error:
            print(f"{stem.name}.{file_format} is left out: {error}")
        else:
            paths.append(made.artifacts[file_format].path)
    return paths


def _save_test(task: Task, path: Path, *, n: int | None) -> None:
    images, targets = (tensor[:n].numpy() for tensor in task.data.test.tensors)
    np.savez(path, input=images, targets=targets)


def _arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small network on the digits, one second a file")
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "out/fashion_mnist/dense_0.safetensors")
    parser.add_argument("--out", type=Path, default=ROOT / "out/engines")
    parser.add_argument("--ledger", type=Path, help="what figures are appended to; OUT/engines.jsonl")
    parser.add_argument("--seconds", type=float, help="of each side of each pair; 10, with --quick 0.5")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--weights", type=int, default=7, choices=(7, 8))
    parser.add_argument("--examples", type=int, help="test images; all of them")
    parser.add_argument("--memory", action="store_true", help="measure the memory of fresh processes, too")
    found = parser.parse_args(given)
    found.seconds = found.seconds or (0.5 if found.quick else 10.0)
    return found


if __name__ == "__main__":
    main()
