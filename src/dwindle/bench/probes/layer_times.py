"""This file measures where an engine spends its time: its profile, mapped back to the layers of our network.

onnxruntime merges operations, renames them and changes layouts before it runs a graph. So its optimized graph is
written beside its profile: each operation of it stands for those operations of the file that lie between the values it
gives and the values that others give. Whose weight is among them is the layer.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dwindle.artifact import Artifact
from dwindle.bench.probes.middle_half import middle_mean
from dwindle.errors import DwindleError, MeasurementError, RuntimeUnavailableError, SettingError
from dwindle.runtimes.onnx_profile import profile
from dwindle.runtimes.onnxruntime import OnnxRuntime
from dwindle.runtimes.protocol import Array

if TYPE_CHECKING:
    from onnx import GraphProto

ENGINE: Final = OnnxRuntime()
_RELAID: Final = "_nchwc"
_MERGED: Final = "fused "
_SUMMAND: Final = 3
"""Place of the input that a convolution in the engine's own layout adds to its result."""
_ACTIVATIONS: Final = frozenset({"Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish"})
_LESS_THAN_OPERATIONS: Final = frozenset({"Constant", "Identity", "Shape", "Cast"})
"""Not worth a word in what was merged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationTime:
    """One operation that the engine ran.

    Attributes:
        name: the engine's own name.
        kind: the engine's kind of operation, such as FusedGemm.
        layers: the weights that it multiplies with, as named in the file; none: it belongs to no layer.
        operations: kinds of operations of the file that it stands for, in order.
        ms: its time for one call: the mean of the middle half of the runs.
    """

    name: str
    kind: str
    layers: tuple[str, ...]
    operations: tuple[str, ...]
    ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTimes:
    """The profile of one file, one batch; times of operations alone, without what the engine does between them."""

    operations: tuple[OperationTime, ...]
    runtime: str
    n_runs: int
    n_threads: int

    @property
    def total_ms(self) -> float:
        """All operations together."""
        return sum(operation.ms for operation in self.operations)

    def of(self, layer: str) -> tuple[OperationTime, ...]:
        """Return the operations that a layer takes part in, alone or together with others."""
        return tuple(operation for operation in self.operations if layer in operation.layers)

    @property
    def others(self) -> dict[str, float]:
        """Times of what belongs to no layer, by kind of operation, the longest first."""
        found: defaultdict[str, float] = defaultdict(float)
        for operation in self.operations:
            if not operation.layers:
                found[operation.kind] += operation.ms
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def measure_layer_times(
    artifact: Artifact, inputs: tuple[Array, ...], layers: Sequence[str], *, n_runs: int = 20, n_threads: int = 1
) -> LayerTimes:
    """Return the profile of the `.onnx` file `artifact`, whose weights keep the names in `layers`.

    Raises:
        SettingError: fewer than one run.
        RuntimeUnavailableError: onnxruntime is not installed.
        MeasurementError: the file is no `.onnx`, or the engine refuses it.
    """
    if n_runs < 1:
        raise SettingError(f"a profile needs at least one run, got n_runs={n_runs}")
    if artifact.format != "onnx":
        raise MeasurementError(f"only .onnx files can be profiled, {artifact.path} is {artifact.format!r}")
    if reason := ENGINE.unavailable():
        raise RuntimeUnavailableError(reason)
    try:
        import onnx
    except ImportError as error:
        raise RuntimeUnavailableError("the package onnx is missing: pip install onnx") from error
    with tempfile.TemporaryDirectory() as folder:
        merged = Path(folder) / "merged.onnx"
        try:
            times = profile(ENGINE, artifact, inputs, n_runs=n_runs, n_threads=n_threads, optimized=merged)
        except DwindleError as error:
            raise MeasurementError(f"onnxruntime cannot profile {artifact.path}: {error}") from error
        engine = onnx.load(str(merged), load_external_data=False).graph
    file = onnx.load(str(artifact.path), load_external_data=False).graph
    durations = {kernel.name: middle_mean(times.ms[:, i]) for i, kernel in enumerate(times.kernels)}
    return LayerTimes(
        operations=tuple(_operations(file, engine, durations, layers=set(layers))),
        runtime=ENGINE.name,
        n_runs=n_runs,
        n_threads=n_threads,
    )


def _operations(
    file: GraphProto, engine: GraphProto, durations: Mapping[str, float], *, layers: set[str]
) -> Iterator[OperationTime]:
    graph = _Graph(
        producers={output: node for node in file.node for output in node.output},
        consumers={value: node for node in file.node for value in node.input},
        moving=_moving(file),
    )
    anchors = {node.name: graph.anchors(node) for node in engine.node}
    ends = {value for values in anchors.values() for value in values}
    given: set[tuple[str, ...]] = set()
    for node in engine.node:
        values = anchors[node.name]
        merged, weights = graph.behind(values, ends=ends)
        kinds = tuple(kind for kind in merged if kind not in _LESS_THAN_OPERATIONS)
        if node.name in durations:
            yield OperationTime(
                name=node.name,
                kind=node.op_type,
                layers=tuple(dict.fromkeys(weight for weight in weights if weight in layers)),
                operations=(node.op_type,) if values in given or not kinds else kinds,  # again: another layout of it
                ms=durations[node.name],
            )
        given.add(values)


@dataclass(frozen=True, slots=True, eq=False)
class _Graph:
    """The graph of the file: the operation that gives each value, one that reads it, values that depend on inputs."""

    producers: Mapping[str, Any]
    consumers: Mapping[str, Any]
    moving: frozenset[str]

    def anchors(self, node: Any) -> tuple[str, ...]:
        """Return the values of the file that an operation of the engine gives.

        An operation in another memory layout gives values of new names; it is called after the value that it replaces.
        """
        if found := tuple(output for output in node.output if output in self.producers):
            return found
        if (value := node.name.partition(_RELAID)[0]) in self.producers:
            return (self._added(value, node),)
        bare = node.name.removeprefix(_MERGED)
        return tuple(value for value, producer in self.producers.items() if producer.name == bare)

    def _added(self, value: str, node: Any) -> str:
        """Return the value after an addition (and an activation) that the engine merged without another name."""
        if len(node.input) <= _SUMMAND or not node.input[_SUMMAND]:
            return value
        reader = self.consumers.get(value)
        if reader is None or reader.op_type not in {"Add", "Sum"}:
            return value
        value = reader.output[0]
        after = self.consumers.get(value)
        is_activated = any(attribute.name == "activation" for attribute in node.attribute)
        return after.output[0] if is_activated and after is not None and after.op_type in _ACTIVATIONS else value

    def behind(self, anchors: Sequence[str], *, ends: set[str]) -> tuple[list[str], list[str]]:
        """Return the kinds of operations behind `anchors`, up to values of others, and what no operation gives."""
        kinds: list[str] = []
        leaves: list[str] = []
        seen: set[int] = set()
        pending = list(anchors)
        while pending:
            value = pending.pop()
            producer = self.producers.get(value)
            if producer is None:
                leaves.append(value)
            elif id(producer) not in seen:
                seen.add(id(producer))
                if value in self.moving:  # what only rearranges weights is done before the first call
                    kinds.insert(0, producer.op_type)
                pending += [each for each in producer.input if each and each not in ends]
        return kinds, leaves


def _moving(file: GraphProto) -> frozenset[str]:
    found = {value.name for value in file.input}
    for node in file.node:
        if not found.isdisjoint(node.input):
            found.update(node.output)
    return frozenset(found)
