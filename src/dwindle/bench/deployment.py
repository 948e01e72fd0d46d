"""This file writes a model into files, one for each format, and measures the parity of every one of them."""

from __future__ import annotations

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
from dwindle.core.encoding import is_half
from dwindle.errors import ExportError, RuntimeUnavailableError, SettingError
from dwindle.exporters.graph_cache import GraphCache
from dwindle.exporters.options import ExportOptions
from dwindle.exporters.protocol import Exporter
from dwindle.network.capture import Captured, capture
from dwindle.network.compressed import CompressedModel
from dwindle.network.inputs import Inputs, call, n_examples, take
from dwindle.network.simulate import simulate
from dwindle.runtimes.catalogue import engine_for
from dwindle.runtimes.protocol import Array
from dwindle.settings import nearest

FLOAT_BOUND: Final = 1e-4
"""Parity bound of a float network: sums in another order, as a fraction of the largest output."""
QUANTIZED_BOUND: Final = 0.05
"""Parity bound with quantized activations: a value on the edge between two codes may fall to either."""
HALF_BOUND: Final = 0.01
"""Parity bound of a network that computes in float16: each rounding is up to 2^-11, and a deep network has many."""
DEFAULTS: Final = ExportOptions()


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


def deploy(  # ruff: ignore[too-many-arguments] (all but the first three have defaults)
    model: CompressedModel,
    example: Inputs,
    folder: Path,
    *,
    formats: Sequence[str] = ("dwn", "onnx"),
    options: ExportOptions = DEFAULTS,
    metadata: Mapping[str, Any] | None = None,
    name: str = "model",
    graphs: GraphCache | None = None,
) -> Deployment:
    """Write `model` into `folder`/`name`.<format> for each format and measure parity on `example`.

    Args:
        model: what to write.
        example: one input batch as the network sees it; where a file preprocesses, parity is measured on the raw inputs
            that become this batch.
        folder: made where it is absent.
        formats: `dwn`, `onnx`; with their extras `tflite` (LiteRT), `pte` (ExecuTorch), `xml` (OpenVINO).
        options: opset, batch size, type of floats, preprocessing, class names.
        metadata: JSON values that travel inside `.dwn`, `.onnx` and `.xml` files; the others have no place for them.
        name: of the files, without the suffix.
        graphs: one for many models of one structure spares all but the first a translation; the files are the same.

    Raises:
        SettingError: an unknown format, or none.
        NetworkError: the network cannot be captured.
        ExportError: a format cannot express the model, or its engine is not installed (nothing is written then), or a
            file's outputs are not finite or have another shape than the model's.
    """
    from dwindle.exporters.graph import build_graph  # onnx is heavy and optional

    exporters = [_exporter(name_of_format, metadata or {}, options) for name_of_format in formats]
    if not exporters:
        raise SettingError(f"deploy needs at least one format; known are {', '.join(EXPORTERS)}")
    if obstacles := [f"{e.format}: {reason}" for e in exporters for reason in _obstacles(e, model)]:
        raise ExportError("the model cannot be written: " + "; ".join(obstacles))
    captured = capture(model.network, example)
    is_onnx = any(name_of_format in OF_ONNX for name_of_format in formats)
    graph = build_graph(model, example, options=options, captured=captured, cache=graphs) if is_onnx else None
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    artifacts = {e.format: e.export(model, example, folder / f"{name}.{e.format}", graph=graph) for e in exporters}
    return Deployment(
        artifacts=artifacts,
        parity=_parity(_Reference(model, example, captured), tuple(artifacts.values()), options),
        n_dense_weights=model.n_dense_weights,
        origin=next(iter(artifacts.values())).origin,
    )


def obstacles_to(
    model: CompressedModel, formats: Sequence[str], *, options: ExportOptions = DEFAULTS
) -> dict[str, list[str]]:  # fmt: skip
    """Return why `deploy` would refuse to write `model`, by format; those that nothing stands against are left out."""
    found = {name: _obstacles(_exporter(name, {}, options), model) for name in formats}
    return {name: reasons for name, reasons in found.items() if reasons}


def model_outputs(model: CompressedModel, example: Inputs) -> tuple[Array, ...]:
    """Return our model's answer to `example`, its activation quantizers included: what parity is measured against.

    Raises:
        ExportError: the network returns something else than a tensor or a sequence of tensors.
    """
    return _run(simulate(model, example), example)


@dataclass(frozen=True, slots=True, eq=False)
class _Reference:
    """What files are compared with: the answers of a model, whose network was captured with `example`."""

    model: CompressedModel
    example: Inputs
    captured: Captured

    def answers(self, inputs: Inputs) -> tuple[Array, ...]:
        if inputs is self.example and not self.model.activations:
            return _answers(self.captured.answer)  # the network itself gave it a moment ago
        return _run(simulate(self.model, self.example, captured=self.captured), inputs)


def _parity(reference: _Reference, artifacts: tuple[Artifact, ...], options: ExportOptions) -> tuple[Measurement, ...]:
    ready, raw = _raw_inputs(_of_size(reference.example, options.batch_size), options)
    answers = reference.answers(ready)
    found: list[Measurement] = []
    for artifact in artifacts:
        runtime = engine_for(artifact.format)
        with runtime.load(artifact) as session:
            outputs = session.run(*raw)
        subject = Subject(
            artifact=artifact.sha256,
            runtime=runtime.name,
            machine=this_machine().summary(),
            conditions={"format": artifact.format},
        )
        found.extend(measure_parity(subject, answers, outputs, bound=_bound(reference.model, options)))
    return tuple(found)


def _bound(model: CompressedModel, options: ExportOptions) -> float:
    if model.activations:
        return QUANTIZED_BOUND
    if any(map(is_half, model.encodings.values())):
        return HALF_BOUND  # an engine that stores halves rounds what it folds into them once more
    return FLOAT_BOUND if options.float_type == "float32" else HALF_BOUND


def _of_size(example: Inputs, batch_size: int | None) -> Inputs:
    """Return `example`, or `batch_size` of its examples, over again where it has fewer."""
    return example if batch_size is None else take(example, torch.arange(batch_size) % n_examples(example))


def _raw_inputs(example: Inputs, options: ExportOptions) -> tuple[Inputs, tuple[Array, ...]]:
    """Return inputs of the network, near `example`, and what the file takes in their place."""
    if options.preprocessing is None:
        return example, as_arrays(example)
    (ready,) = as_arrays(example)
    raw = options.preprocessing.raw(ready)
    return torch.from_numpy(options.preprocessing.apply(raw)), (raw,)


def _run(network: nn.Module, example: Inputs) -> tuple[Array, ...]:
    with torch.no_grad():
        return _answers(call(network, example))


def _answers(outputs: object) -> tuple[Array, ...]:
    parts = cast("Sequence[object]", outputs) if isinstance(outputs, tuple | list) else (outputs,)
    tensors = [part for part in parts if isinstance(part, Tensor)]
    if len(tensors) != len(parts):
        raise ExportError(f"the network returns {type(outputs).__name__}; return a tensor or a tuple of tensors")
    return as_arrays(tuple(tensors))


def _native(metadata: Mapping[str, Any], options: ExportOptions) -> Exporter:
    from dwindle.exporters.native import NativeExporter

    return NativeExporter(metadata=metadata, options=options)


def _onnx(metadata: Mapping[str, Any], options: ExportOptions) -> Exporter:
    from dwindle.exporters.onnx import OnnxExporter, as_notes

    return OnnxExporter(notes=as_notes(metadata), options=options)


def _litert(metadata: Mapping[str, Any], options: ExportOptions) -> Exporter:
    from dwindle.exporters.litert import LiteRtExporter

    del metadata  # the format has no place for it
    return LiteRtExporter(options=options)


def _executorch(metadata: Mapping[str, Any], options: ExportOptions) -> Exporter:
    from dwindle.exporters.executorch import ExecuTorchExporter

    del metadata  # the format has no place for it
    return ExecuTorchExporter(options=options)


def _openvino(metadata: Mapping[str, Any], options: ExportOptions) -> Exporter:
    from dwindle.exporters.onnx import as_notes
    from dwindle.exporters.openvino import OpenVinoExporter

    return OpenVinoExporter(notes=as_notes(metadata), options=options)


EXPORTERS: Final[Mapping[str, Callable[[Mapping[str, Any], ExportOptions], Exporter]]] = {
    "dwn": _native,
    "onnx": _onnx,
    "tflite": _litert,
    "pte": _executorch,
    "xml": _openvino,
}
OF_ONNX: Final = frozenset({"dwn", "onnx", "xml"})
"""Formats that start from the ONNX graph of a model; the others from its torch program."""


def _obstacles(exporter: Exporter, model: CompressedModel) -> list[str]:
    """Return why a file cannot be written, or why its parity could not be measured."""
    found = exporter.obstacles(model)
    try:
        engine_for(exporter.format)
    except (RuntimeUnavailableError, SettingError) as error:
        found.append(str(error))
    return list(dict.fromkeys(found))


def _exporter(name: str, metadata: Mapping[str, Any], options: ExportOptions) -> Exporter:
    if name not in EXPORTERS:
        raise SettingError(f"unknown format {name!r}; {nearest(name, EXPORTERS)}")
    return EXPORTERS[name](metadata, options)
