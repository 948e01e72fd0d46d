"""This file times an optimizer step of a masked, a clustered and a quantized network against the step of the dense one.

    python benchmarks/training.py [--quick] [--precision bf16|fp32 | --both] [--rounds N] [--threads N]

A step is what `FineTune` and `QuantizeAware` pay for: forward, backward, SGD with momentum and weight decay, gradients
cleared, masks, look-ups and rounding included; `resnet18_cifar` with all its convolutions and its linear layer, in
channels-last order, batch 128. `qat` is `QuantizeAware` at 8 bits on the dense network, `pcqat` on the pruned and
clustered one.
Every round runs one step of each side in shuffled order, in one process; a ratio is the median over the rounds of a
side's step over the dense step of the same round, with the 95 % interval of the median (order statistics).
bfloat16 is measured where the processor computes it in hardware; elsewhere it is emulated, ten times slower than
float32, and only measured when asked for. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import queue
import random
import threading
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

from dwindle.bench.machine import this_machine
from dwindle.bench.protocol import quantile_interval
from dwindle.core.encoding import Codebook, Dense, Encoding, Sparse
from dwindle.core.sparsity import magnitude_support
from dwindle.network.compressed import CompressedModel
from dwindle.network.fabric_trainer import has_fast_bfloat16
from dwindle.network.optimizers import sgd
from dwindle.network.parametrize import trainable
from dwindle.technique import Context, Technique
from dwindle.techniques.quantize_aware import QuantizeAware
from dwindle.zoo.resnet_cifar import resnet18_cifar

SPARSITY = 0.9
CODEBOOK_SIZE = 16
BATCH_SIZE = 128
PROMISED = {"masked": 1.10, "clustered": 1.20, "qat": 1.6, "pcqat": 1.8}
N_CALIBRATION = 16
N_WARMUP = 1
DENSE = "dense"
PEER = "torch.nn.utils.prune"

Step = Callable[[], None]


@dataclass(frozen=True)
class Times:
    """Seconds of each step of one side, in order of the rounds."""

    wall: tuple[float, ...]
    processor: tuple[float, ...]


def encodings(network: nn.Module) -> Mapping[str, Mapping[str, Encoding]]:
    """Return the sides that dwindle trains: name -> how each weight of two or more axes is stored."""
    weights = {name: weight.detach() for name, weight in network.named_parameters() if weight.ndim >= 2}
    supports = {name: magnitude_support(weight, SPARSITY) for name, weight in weights.items()}

    def book(weight: Tensor) -> Codebook:
        sample = weight.flatten()[:: max(weight.numel() // 10_000, 1)]
        centroids = torch.quantile(sample, (torch.arange(CODEBOOK_SIZE) + 0.5) / CODEBOOK_SIZE)
        return Codebook(torch.bucketize(weight, (centroids[1:] + centroids[:-1]) / 2).to(torch.uint8), Dense(centroids))

    books = {name: book(weight) for name, weight in weights.items()}
    return {
        "masked": {n: Sparse(supports[n], Dense(torch.where(supports[n], weights[n], 0.0))) for n in weights},
        "clustered": books,
        "sparse+clustered": {n: Sparse(supports[n], books[n]) for n in weights},
    }


@contextlib.contextmanager
def sides(*, batch_size: int, precision: str) -> Generator[dict[str, Step]]:
    """Yield a step for each side; all start from the same weights."""
    torch.manual_seed(0)
    model = CompressedModel.dense(resnet18_cifar())
    images = torch.randn(batch_size, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch_size,))
    with contextlib.ExitStack() as stack:
        dense = stack.enter_context(trainable(model))
        networks = {DENSE: dense.network}
        encoded = {name: model.with_encodings(found) for name, found in encodings(model.network).items()}
        for name, compressed in encoded.items():
            networks[name] = stack.enter_context(trainable(compressed)).network
        for name, start in (("qat", model), ("pcqat", encoded["sparse+clustered"])):
            networks[name] = stack.enter_context(trained_by(QuantizeAware(), start, images[:N_CALIBRATION]))
        networks[PEER] = _pruned_by_torch(stack.enter_context(trainable(model)).network)
        yield {name: _step_of(network, images, labels, precision=precision) for name, network in networks.items()}


@contextlib.contextmanager
def trained_by(technique: Technique, model: CompressedModel, examples: Tensor) -> Generator[nn.Module]:
    """Yield the network that `technique` hands to its trainer, as it trains it: the technique waits in a thread."""
    lent, is_returned = queue.SimpleQueue[nn.Module](), threading.Event()
    context = Context(example=examples[:2], calibration=[examples], trainer=_Lender(lent, is_returned))
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(technique.apply, model, context)
        try:
            while lent.empty() and not outcome.done():
                time.sleep(0.01)
            yield lent.get() if not lent.empty() else _raise(outcome)
        finally:
            is_returned.set()
        outcome.result()


@dataclass(frozen=True)
class _Lender:
    """A trainer that lends out the network it is given and trains nothing itself."""

    lent: queue.SimpleQueue[nn.Module]
    is_returned: threading.Event
    steps_per_epoch: int = 100

    def __call__(self, network: nn.Module, **_: object) -> tuple[Mapping[str, float], ...]:
        self.lent.put(network)
        self.is_returned.wait()
        return ()


def _raise(outcome: Future[CompressedModel]) -> nn.Module:
    outcome.result()
    raise RuntimeError("the technique trained nothing")


def _pruned_by_torch(network: nn.Module) -> nn.Module:
    for module in network.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.ndim >= 2:
            prune.custom_from_mask(module, "weight", magnitude_support(weight.detach(), SPARSITY))
    return network


def _step_of(network: nn.Module, images: Tensor, labels: Tensor, *, precision: str) -> Step:
    network.to(memory_format=torch.channels_last).train()
    parameters = [p for p in network.parameters() if p.requires_grad]
    decayed = {"params": [p for p in parameters if p.ndim > 1]}
    others = {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}
    optimizer = sgd([group for group in (decayed, others) if group["params"]], 1e-4)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def run(steps: Mapping[str, Step], *, n_rounds: int) -> dict[str, Times]:
    """Time every side once a round, in shuffled order."""
    order, shuffle = list(steps), random.Random(0)
    wall: dict[str, list[float]] = {name: [] for name in order}
    processor: dict[str, list[float]] = {name: [] for name in order}
    for round_number in range(N_WARMUP + n_rounds):
        shuffle.shuffle(order)
        for name in order:
            gc.collect()
            wall_start, processor_start = time.perf_counter(), time.process_time()
            steps[name]()
            if round_number >= N_WARMUP:
                processor[name].append(time.process_time() - processor_start)
                wall[name].append(time.perf_counter() - wall_start)
    return {name: Times(tuple(wall[name]), tuple(processor[name])) for name in steps}


def report(times: Mapping[str, Times], precision: str) -> dict[str, object]:
    """Print a table and return its figures."""
    print(f"\n{precision}: {len(times[DENSE].wall)} rounds")
    print(f"{'':22} {'step [s]':>10} {'CPU [s]':>10} {'of the dense step':>28} {'in CPU time':>28}")
    figures: dict[str, object] = {"precision": precision}
    for name, side in times.items():
        wall, processor = _ratio(side.wall, times[DENSE].wall), _ratio(side.processor, times[DENSE].processor)
        step_s, cpu_s = (quantile_interval(seconds, 0.5)[0].value for seconds in (side.wall, side.processor))
        print(f"{name:22} {step_s:10.3f} {cpu_s:10.3f} {_text(wall):>28} {_text(processor):>28}")
        if name != DENSE:
            key = name.replace("+", "_").replace("torch.nn.utils.prune", "torch_prune")
            figures |= {
                f"{key}_step_ratio": [round(v, 4) for v in wall],
                f"{key}_cpu_ratio": [round(v, 4) for v in processor],
            }
    figures["dense_step_s"] = round(quantile_interval(times[DENSE].wall, 0.5)[0].value, 4)
    return figures


def _ratio(side: tuple[float, ...], dense: tuple[float, ...]) -> tuple[float, float, float]:
    ratios = tuple(a / b for a, b in zip(side, dense, strict=True))
    interval, _ = quantile_interval(ratios, 0.5)
    return interval.value, interval.low, interval.high


def _text(ratio: tuple[float, float, float]) -> str:
    value, low, high = ratio
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    is_fast = has_fast_bfloat16(torch.device("cpu"))
    chosen = ("bf16", "fp32") if options.both else (options.precision or ("bf16" if is_fast else "fp32"),)
    batch_size = 4 if options.quick else BATCH_SIZE
    n_rounds = options.rounds or (4 if options.quick else 30)
    print(f"resnet18_cifar, batch {batch_size}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{this_machine().summary()}; bfloat16 in hardware: {'yes' if is_fast else 'no, emulated'}")
    print(f"sparsity {SPARSITY}, {CODEBOOK_SIZE} centroids; promised: {PROMISED}")
    found: list[dict[str, object]] = []
    for precision in chosen:
        with sides(batch_size=batch_size, precision=precision) as steps:
            found.append(report(run(steps, n_rounds=n_rounds), precision))
    print(json.dumps({"batch_size": batch_size, "bf16_in_hardware": is_fast, "runs": found}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="batch 4 and few rounds: does it run, not how fast")
    parser.add_argument("--precision", choices=("bf16", "fp32"), help="default: bf16 where it is in hardware")
    parser.add_argument("--both", action="store_true", help="measure both precisions")
    parser.add_argument("--rounds", type=int, default=0, help="rounds of one step a side (30)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    return parser.parse_args()


if __name__ == "__main__":
    main()
