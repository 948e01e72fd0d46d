"""This file compares the arena that dwindle plans for a network in int8 with what LiteRT and ExecuTorch plan for it.

    python benchmarks/memory_plan.py [--networks resnet20 mobilenet_v2] [--threads 1]

Each network of the zoo gets random weights (a plan knows shapes, not weights), is made int8 by dwindle, and written as
.onnx, from which dwindle plans, and as .tflite, whose plan is read from LiteRT's interpreter with its optimized and
with its reference kernels. ExecuTorch lowers the same network to Cortex-M kernels (CMSIS-NN) with Arm's own quantizer,
because only what that quantizer annotates becomes integer operations there. The exporters need `pip install
'dwindle[litert,executorch]' 'executorch[ethos-u]'` and `dwindle doctor --install litert`; what is missing is left out.
Bytes are planned, not measured, so a busy machine does not matter. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import onnx
import torch
from torch import nn

import dwindle as dw
from dwindle.artifact import Artifact
from dwindle.bench.live_tensors import memory_of_graph
from dwindle.bench.planner import EXECUTORCH_CORTEX_M, LITERT, LITERT_REFERENCE, MICROCONTROLLER, Planner
from dwindle.bench.probes.planned_memory import litert_span, planned_bytes
from dwindle.errors import DwindleError
from dwindle.exporters.litert import LiteRtExporter
from dwindle.zoo import networks

SHAPES: Final = {
    "resnet18_tian": ({"in_channels": 3}, (3, 33, 33)),
    "resnet20": ({}, (3, 32, 32)),
    "mobilenet_v2": ({"n_classes": 10}, (3, 96, 96)),
    "mobilenet_v1": ({"n_classes": 10}, (3, 96, 96)),
    "vgg11_bn_tian": ({"n_hidden": 256}, (3, 32, 32)),
}
"""Name -> settings of the builder, shape of one input."""


def main() -> None:
    """Plan each network in every way, print a line for each, and the JSON at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--threads", type=int, default=1)
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    rows: list[dict[str, Any]] = []
    for name in settings.networks:
        with tempfile.TemporaryDirectory() as folder:
            rows.append({"network": name, **plans(name, Path(folder))})
        print(words(rows[-1]), flush=True)
    print(json.dumps(rows))


def plans(name: str, folder: Path) -> dict[str, Any]:
    """Return the bytes of each plan."""
    arguments, shape = SHAPES[name]
    torch.manual_seed(0)
    network = settled(networks.NETWORKS[name](**arguments), torch.randn(8, *shape))
    example = torch.randn(1, *shape)
    context = dw.Context(seed=0, example=example, calibration=[torch.randn(8, *shape)])
    folded = dw.Recipe((dw.FoldBatchNorm(),)).run(dw.CompressedModel.dense(network), context)
    model = dw.Recipe((dw.QuantizeStatic(),)).run(folded, context)
    file = dw.deploy(model, example, folder, formats=("onnx",)).artifacts["onnx"].path
    found: dict[str, Any] = {"living": memory_of_graph(onnx.load(file)).activation_bytes}
    planners = {
        "microcontroller": MICROCONTROLLER, "litert": LITERT, "litert_reference": LITERT_REFERENCE,
        "executorch": EXECUTORCH_CORTEX_M,
    }  # fmt: skip
    ours = {key: arena(file, planner) for key, planner in planners.items()}
    theirs: dict[str, int | str] = {}
    try:
        artifact = LiteRtExporter().export(model, example, folder / "model.tflite")
        theirs = {"litert": planned_bytes(artifact), "litert_reference": reference_bytes(artifact)}
    except DwindleError as error:
        theirs = {"litert": first_line(error), "litert_reference": first_line(error)}
    theirs["executorch"] = cortex_m_bytes(folded.network, example, folder)
    return {**found, "ours": ours, "theirs": theirs}


def settled(network: nn.Module, inputs: torch.Tensor) -> nn.Module:
    """Return `network` with batch norms that know `inputs`; where values vanish, LiteRT refuses their scales."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(inputs)
    return network.eval()


def arena(file: Path, planner: Planner) -> int | None:
    """Return what dwindle plans."""
    return memory_of_graph(onnx.load(file), planner=planner).arena_bytes


def reference_bytes(artifact: Artifact) -> int:
    """Return LiteRT's plan with its reference kernels."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kernels = OpResolverType.BUILTIN_REF
    interpreter = Interpreter(model_path=str(artifact.path), experimental_op_resolver_type=kernels)
    interpreter.allocate_tensors()
    return litert_span(interpreter)


def cortex_m_bytes(network: nn.Module, example: torch.Tensor, folder: Path) -> int | str:
    """Return ExecuTorch's plan for Cortex-M kernels with the DSP extension, or why there is none."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            program = lowered(network, example)
        except Exception as error:  # ruff: ignore[blind-except] (a row that another tool cannot fill must not end the table)
            return first_line(error)
    path = folder / "cortex_m.pte"
    path.write_bytes(program)
    return planned_bytes(Artifact(path=path, format="pte", sha256="0" * 64, size_bytes=path.stat().st_size))


def lowered(network: nn.Module, example: torch.Tensor) -> bytes:
    """Return the program of `network`, quantized and lowered by ExecuTorch's Cortex-M backend for a Cortex-M4."""
    from executorch.backends.cortex_m.edge_compile_config import cortex_m_edge_compile_config
    from executorch.backends.cortex_m.passes.cortex_m_pass_manager import CortexMPassManager
    from executorch.backends.cortex_m.quantizer.quantizer import CortexMQuantizer
    from executorch.backends.cortex_m.target_config import CortexM, CortexMTargetConfig
    from executorch.exir import to_edge
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    last: Callable[[torch.Tensor], torch.Tensor] = lambda t: t.to(memory_format=torch.channels_last)  # ruff: ignore[lambda-assignment]
    x = last(example)
    captured = torch.export.export(network.eval().to(memory_format=torch.channels_last), (x,)).module(
        check_guards=False
    )
    prepared: Any = prepare_pt2e(captured, CortexMQuantizer())
    prepared(x)
    edge = to_edge(torch.export.export(convert_pt2e(prepared), (x,)), compile_config=cortex_m_edge_compile_config())
    target = CortexMTargetConfig(cpu=CortexM.M4)
    edge._edge_programs["forward"] = CortexMPassManager(edge.exported_program(), target_config=target).transform()
    return edge.to_executorch().buffer


def first_line(error: Exception) -> str:
    """Return what went wrong, in one line."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"


def words(row: dict[str, Any]) -> str:
    """Return one line: ours, theirs and the ratio, engine by engine."""
    ours, theirs = row["ours"], row["theirs"]
    parts = [f"{row['network']}: alive at once {row['living']:,}, microcontroller {ours['microcontroller']:,}"]
    for key, value in theirs.items():
        ratio = f"{value:,} (ratio {ours[key] / value:.3f})" if isinstance(value, int) else value
        parts.append(f"{key}: ours {ours[key]:,}, theirs {ratio}")
    return "; ".join(parts)


if __name__ == "__main__":
    main()
