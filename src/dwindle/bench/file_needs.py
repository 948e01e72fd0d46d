"""This file says what a file asks of a device: bytes on disk, weights as an engine computes with them, activations.

Bytes on disk are exact. What lies in RAM while a network runs belongs to the engine, and no engine ran here, so weights
and activations are an `Estimate`: computed from the file, as `bench/live_tensors.py` and `bench/arena.py` say. Of a
`.tflite` or `.pte` the engine itself tells the arena, exactly, where it is installed; that is no estimate of ours and
stands apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dwindle.artifact import Artifact
from dwindle.bench.measurement import ARENA, Estimate, Metric
from dwindle.bench.probes.size import file_at, require_unchanged
from dwindle.container.plan import dtype_of
from dwindle.container.reader import open_file
from dwindle.errors import DwindleError, MeasurementError, RuntimeUnavailableError, SettingError

if TYPE_CHECKING:
    from onnx import ModelProto

    from dwindle.bench.live_tensors import GraphMemory
    from dwindle.bench.probes.planned_memory import Planned

WEIGHT_MEMORY: Final = Metric("weight_memory", "bytes", -1)
ACTIVATION_MEMORY: Final = Metric("activation_memory", "bytes", -1)
WEIGHTS_METHOD: Final = "constants of the graph as an engine computes with them: decoded, integers where it dequantizes"
ACTIVATIONS_METHOD: Final = (
    "tensors alive at once, node after node in the file's order, one example or the file's batch, no workspaces"
)
ARENA_METHOD: Final = (
    "tensors of one example or the file's batch laid into one arena, greedy by size, aligned to 16 bytes, with the "
    "workspaces of CMSIS-NN's integer kernels"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a file asks of a device.

    Attributes:
        file_bytes: on disk, with the data that an ONNX model keeps in other files.
        weights: what an engine holds to compute with; None where the file does not tell.
        activations: the most that is alive at once, for one example; None where the file does not tell.
        arena: what a microcontroller sets aside for them, with gaps and workspaces; None where the file does not tell.
        planned: the arena as the file's own engine told it, no estimate of ours; None of other files.
        unknown: why a figure is None.
        artifact: the file; None for a plain number of bytes.
    """

    file_bytes: int
    weights: Estimate | None = None
    activations: Estimate | None = None
    arena: Estimate | None = None
    planned: Planned | None = None
    unknown: str = ""
    artifact: Artifact | None = None

    def __post_init__(self) -> None:
        if self.file_bytes < 0:
            raise SettingError(f"a file cannot have {self.file_bytes} bytes; give 0 or more")

    @property
    def arena_bytes(self) -> int | None:
        """The arena: as the engine told it, else as estimated; None where neither is known."""
        if self.planned is not None:
            return self.planned.n_bytes
        return None if self.arena is None else round(self.arena.value)

    @property
    def is_least_arena(self) -> bool:
        """Whether the engine takes more than its arena, and nothing tells how much."""
        return self.planned is not None and self.planned.is_least


def needs_of(file: Artifact | Path) -> Needs:
    """Return what `file` asks of a device; of a `.tflite` or `.pte` its engine tells the arena.

    Of other formats, and where the engine is not installed or refuses the file, only the bytes are known.

    Raises:
        MeasurementError: the file is absent, empty, has changed, or is no ONNX model though its name says so.
        ContainerError: a `.dwn` file is broken.
    """
    artifact = _unchanged(file) if isinstance(file, Artifact) else file_at(file)
    size_bytes = artifact.size_bytes
    reads = {"dwn": _container_memory, "onnx": _model_memory}
    read = reads.get(artifact.format.lower())
    if read is None:
        planned, unknown = _told(artifact)
        return Needs(file_bytes=size_bytes, planned=planned, unknown=unknown, artifact=artifact)
    memory = read(artifact.path)
    return Needs(
        file_bytes=size_bytes,
        weights=_estimate(WEIGHT_MEMORY, memory.weight_bytes, WEIGHTS_METHOD),
        activations=_estimate(ACTIVATION_MEMORY, memory.activation_bytes, ACTIVATIONS_METHOD),
        arena=_estimate(ARENA, memory.arena_bytes, ARENA_METHOD),
        unknown=memory.unknown,
        artifact=artifact,
    )


def _told(artifact: Artifact) -> tuple[Planned | None, str]:
    """Return what the engine of this format planned, and what remains unknown."""
    from dwindle.bench.probes.planned_memory import READERS, plan_of

    if not artifact.format:
        return None, "an unknown format"
    unknown = f"of a .{artifact.format} file only the bytes are known"
    if artifact.format not in READERS:
        return None, unknown
    try:
        planned = plan_of(artifact)
    except RuntimeUnavailableError as error:
        return None, f"{unknown}, for {error}"
    except DwindleError:
        return None, f"{unknown}: its engine tells no arena of it"
    return planned, "what the engine holds of weights is not known"


def _estimate(metric: Metric, value: int | None, method: str) -> Estimate | None:
    return None if value is None else Estimate(metric=metric, value=float(value), method=method)


def _unchanged(artifact: Artifact) -> Artifact:
    require_unchanged(artifact)
    return artifact


def model_at(path: Path) -> ModelProto:
    """Return the graph in the `.onnx` or `.dwn` file at `path`; the weights of a `.dwn` are names in it.

    Raises:
        MeasurementError: the file is of another format, cannot be read, has no graph, or is no ONNX model.
        ContainerError: a `.dwn` file is broken.
    """
    suffix = path.suffix.lstrip(".").lower()
    if suffix not in {"dwn", "onnx"}:
        raise MeasurementError(f"{path} is no .onnx or .dwn file, and the graphs of others cannot be read; name one")
    if suffix == "onnx":
        return _model(_bytes_at(path), path)
    with open_file(path) as opened:
        graph = opened.graph
    if not graph:
        raise MeasurementError(f"{path} holds weights but no graph; deploy the model")
    return _model(graph, path)


def _container_memory(path: Path) -> GraphMemory:
    with open_file(path) as opened:
        plans, graph = opened.header.plans, opened.graph
    if graph:
        return _graph_memory(graph, path)
    from dwindle.bench.live_tensors import GraphMemory

    decoded = sum(math.prod(plan.shape) * dtype_of(plan).itemsize for plan in plans.values())
    return GraphMemory(weight_bytes=decoded, activation_bytes=None, unknown="this file holds weights but no graph")


def _model_memory(path: Path) -> GraphMemory:
    return _graph_memory(_bytes_at(path), path)


def _bytes_at(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise MeasurementError(f"{path} cannot be read ({error.strerror}); export it again") from error


def _graph_memory(data: bytes, path: Path) -> GraphMemory:
    from dwindle.bench.live_tensors import memory_of_graph

    model = _model(data, path)
    try:
        return memory_of_graph(model)
    except MeasurementError as error:
        raise MeasurementError(f"{path} is no ONNX model ({error}); export it again") from error


def _model(data: bytes, path: Path) -> ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise MeasurementError(f"{path} is no ONNX model ({error}); export it again") from error
