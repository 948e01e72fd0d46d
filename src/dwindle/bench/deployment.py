"""This file writes a model into files, one for each format, and measures the parity of every one of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from dwindle.artifact import Artifact
from dwindle.bench.batches import as_arrays
from dwindle.bench.machine import this_machine
from dwindle.bench.measurement import Measurement, Subject
from dwindle.bench.probes.parity import measure_parity
from dwindle.errors import ExportError, SettingError
from dwindle.exporters.protocol import Exporter
from dwindle.network.compressed import CompressedModel
from dwindle.runtimes.protocol import Array, Runtime
from dwindle.settings import nearest, to_plain

FLOAT_BOUND: Final = 1e-4
"""Parity bound of a float network: sums in another order, as a fraction of the largest output."""
QUANTIZED_BOUND: Final = 0.05
"""Parity bound with quantized activations: a value on the edge between two codes may fall to either."""


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """The files that a model was written into.

    Attributes:
        artifacts: format -> file, in the order that was asked for.
        parity: how near each file's answers on the example are to the model's own.
        n_dense_weights: parameters of the dense network, which sizes are compared against.
    """

    artifacts: Mapping[str, Artifact]
    parity: tuple[Measurement, ...] = ()
    n_dense_weights: int
    origin: str = field(default="")


def deploy(
    model: CompressedModel,
    example: Tensor,
    folder: Path,
    *,
    formats: Sequence[str] = ("dwn", "onnx"),
    metadata: Mapping[str, Any] | None = None,
    name: str = "model",
) -> Deployment:
    """Write `model` into `folder`/`name`.<format> for each format and measure parity on `example` (batch, ...).

    Raises:
        SettingError: an unknown format, or none.
        ExportError: a format cannot express the model (nothing is written then), or a file's outputs are not finite or
            have another shape than the model's.
    """
    exporters = [_exporter(name_of_format, metadata or {}) for name_of_format in formats]
    if not exporters:
        raise SettingError(f"deploy needs at least one format; known are {', '.join(EXPORTERS)}")
    if obstacles := [f"{e.format}: {reason}" for e in exporters for reason in e.obstacles(model)]:
        raise ExportError("the model cannot be written: " + "; ".join(obstacles))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    artifacts = {e.format: e.export(model, example, folder / f"{name}.{e.format}") for e in exporters}
    return Deployment(
        artifacts=artifacts,
        parity=_parity(model, example, tuple(artifacts.values())),
        n_dense_weights=model.n_dense_weights,
        origin=model.digest(),
    )


def model_outputs(model: CompressedModel, example: Tensor) -> tuple[Array, ...]:
    """Return our model's answer to `example`, its activation quantizers included: what parity is measured against.

    Raises:
        ExportError: the network returns something else than a tensor or a sequence of tensors.
    """
    from dwindle.network.simulate import simulate

    return _run(simulate(model, example), example)


def _parity(model: CompressedModel, example: Tensor, artifacts: tuple[Artifact, ...]) -> tuple[Measurement, ...]:
    from dwindle.runtimes.onnxruntime import OnnxRuntime

    runtime: Runtime = OnnxRuntime()
    reference = model_outputs(model, example)
    bound = QUANTIZED_BOUND if model.activations else FLOAT_BOUND
    found: list[Measurement] = []
    for artifact in artifacts:
        if artifact.format in runtime.formats:
            with runtime.load(artifact) as session:
                outputs = session.run(*as_arrays(example))
            subject = Subject(
                artifact=artifact.sha256,
                runtime=runtime.name,
                machine=this_machine().summary(),
                conditions={"format": artifact.format},
            )
            found.extend(measure_parity(subject, reference, outputs, bound=bound))
    return tuple(found)


def _run(network: nn.Module, example: Tensor) -> tuple[Array, ...]:
    with torch.no_grad():
        outputs: object = network(example)
    parts = cast("Sequence[object]", outputs) if isinstance(outputs, tuple | list) else (outputs,)
    tensors = [part for part in parts if isinstance(part, Tensor)]
    if len(tensors) != len(parts):
        raise ExportError(f"the network returns {type(outputs).__name__}; return a tensor or a tuple of tensors")
    return as_arrays(tuple(tensors))


def _native(metadata: Mapping[str, Any]) -> Exporter:
    from dwindle.exporters.native import NativeExporter

    return NativeExporter(metadata=metadata)


def _onnx(metadata: Mapping[str, Any]) -> Exporter:
    from dwindle.exporters.onnx import OnnxExporter

    # ONNX holds text only.
    notes = {key: value if isinstance(value, str) else json.dumps(to_plain(value)) for key, value in metadata.items()}
    return OnnxExporter(notes=notes)


EXPORTERS: Final[Mapping[str, Callable[[Mapping[str, Any]], Exporter]]] = {"dwn": _native, "onnx": _onnx}


def _exporter(name: str, metadata: Mapping[str, Any]) -> Exporter:
    if name not in EXPORTERS:
        raise SettingError(f"unknown format {name!r}; {nearest(name, EXPORTERS)}")
    return EXPORTERS[name](metadata)
